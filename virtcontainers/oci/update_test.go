package oci

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestUpdateResources(t *testing.T) {
	for name, c := range map[string]struct{ kept, change, want string }{
		"nothing kept, as by an older version": {``, `{"memory":{"limit":5}}`, `{"memory":{"limit":5}}`},
		"zeros say nothing": {
			`{"memory":{"limit":5,"reservation":3},"cpu":{"shares":7,"cpus":"0"},"pids":{"limit":9},"blockIO":{"weight":10}}`,
			`{"memory":{"limit":0,"reservation":4,"swap":0},"cpu":{"shares":0,"quota":0,"period":0,"cpus":""},"pids":{"limit":0},"blockIO":{"weight":0}}`,
			`{"memory":{"limit":5,"reservation":4},"cpu":{"shares":7,"cpus":"0"},"pids":{"limit":9},"blockIO":{"weight":10}}`,
		},
		"quota without period": {`{"cpu":{"period":1000}}`, `{"cpu":{"quota":-1}}`, `{"cpu":{"quota":-1,"period":1000}}`},
		"devices":              {`{}`, `{"devices":[{"allow":true}]}`, `{}`},
		"unified":              {`{"unified":{"a.b":"1","c.d":"2"}}`, `{"unified":{"a.b":"3"}}`, `{"unified":{"a.b":"3","c.d":"2"}}`},
		"a swap limit that is too small now": {
			`{"memory":{"limit":5,"swap":6}}`, `{"memory":{"limit":7}}`, `{"memory":{"limit":7}}`},
		"a swap limit that was asked for": {
			`{"memory":{"limit":5}}`, `{"memory":{"limit":7,"swap":6}}`, `{"memory":{"limit":7,"swap":6}}`},
		"null":                {`{"pids":{"limit":9}}`, `null`, `{"pids":{"limit":9}}`},
		"for one update only": {`{}`, `{"memory":{"limit":7,"checkBeforeUpdate":true}}`, `{"memory":{"limit":7}}`},
	} {
		got, err := UpdateResources([]byte(c.kept), []byte(c.change))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(c.want, string(got)); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
	for _, change := range []string{``, `[]`, `{"memory":{"limit":"1"}}`, `{"cpu":{"shares":-1}}`} {
		if got, err := UpdateResources(nil, []byte(change)); err == nil {
			t.Errorf("%s gives %s", change, got)
		}
	}
}

// A quota that is taken away reaches the guest: crun needs a period for it.
func TestQuotaHasAPeriod(t *testing.T) {
	got, _, err := GuestResources([]byte(`{"cpu":{"quota":-1}}`))
	if err != nil || string(got) != `{"cpu":{"quota":-1,"period":100000}}` {
		t.Errorf("%s, %v", got, err)
	}
}

// What crun would convert in another way, or does not know, goes to the guest
// as files.
func TestCPUAsFiles(t *testing.T) {
	for resources, want := range map[string]string{
		`{"cpu":{"shares":1024,"burst":7}}`:                         `{"cpu":{},"unified":{"cpu.max.burst":"7","cpu.weight":"100"}}`,
		`{"cpu":{"shares":1024},"unified":{"cpu.weight":"3"}}`:      `{"cpu":{},"unified":{"cpu.weight":"3"}}`,
		`{"cpu":{"shares":1024,"idle":1}}`:                          `{"cpu":{"idle":1}}`,
		`{"cpu":{"shares":0,"burst":0}}`:                            `{"cpu":{}}`,
		`{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}`:   `{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}`,
		`{"hugepageLimits":[{"pageSize":"1GB","limit":4}]}`:         `{}`,
		`{"unified":{"hugetlb.2MB.max":"0","io.max":"8:0 rbps=1"}}`: `{"unified":{"hugetlb.2MB.max":"0"}}`,
	} {
		got, _, err := GuestResources([]byte(resources))
		if err != nil || string(got) != want {
			t.Errorf("%s:\n got %s, %v\nwant %s", resources, got, err, want)
		}
	}
}
