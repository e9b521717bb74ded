package size

import (
	"math"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func pointer[T any](v T) *T { return &v }

func TestOf(t *testing.T) {
	for name, c := range map[string]struct {
		r    *specs.LinuxResources
		want Demand
	}{
		"nothing":    {nil, Demand{}},
		"no limits":  {&specs.LinuxResources{Memory: &specs.LinuxMemory{}, CPU: &specs.LinuxCPU{}}, Demand{}},
		"unlimited":  {&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: pointer(int64(-1))}, CPU: &specs.LinuxCPU{Quota: pointer(int64(-1))}}, Demand{}},
		"v1's none":  {&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: pointer(int64(9223372036854771712))}}, Demand{}},
		"zero":       {&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: pointer(int64(0))}, CPU: &specs.LinuxCPU{Quota: pointer(int64(0)), Period: pointer(uint64(0))}}, Demand{}},
		"memory":     {&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: pointer(int64(15 << 20))}}, Demand{Memory: 15 << 20}},
		"quota":      {&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: pointer(int64(150000))}}, Demand{CPU: 1500}},
		"period":     {&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: pointer(int64(1)), Period: pointer(uint64(3))}}, Demand{CPU: 334}},
		"only that":  {&specs.LinuxResources{CPU: &specs.LinuxCPU{Period: pointer(uint64(3))}}, Demand{}},
		"the most":   {&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: pointer(int64(math.MaxInt64)), Period: pointer(uint64(1))}}, Demand{CPU: mostCPU}},
		"most/100ms": {&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: pointer(int64(math.MaxInt64))}}, Demand{CPU: mostCPU}},
	} {
		if got := Of(c.r); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestOfPod(t *testing.T) {
	got, err := OfPod(map[string]string{annotationMemory: "1048576", annotationQuota: "250000", annotationPeriod: "50000", "other": "x"})
	if want := (Demand{Memory: 1 << 20, CPU: 5000}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	got, err = OfPod(map[string]string{annotationMemory: "0", annotationQuota: "-1", annotationPeriod: "0"})
	if err != nil || got != (Demand{}) {
		t.Errorf("no limits: %+v, %v", got, err)
	}
	for _, key := range []string{annotationMemory, annotationQuota, annotationPeriod} {
		for _, value := range []string{"", "1G", "9223372036854775808", "0x10"} {
			if d, err := OfPod(map[string]string{key: value}); err == nil || !strings.Contains(err.Error(), key) {
				t.Errorf("%s=%q: %+v, %v", key, value, d, err)
			}
		}
	}
}

func TestOfPodOfCRIO(t *testing.T) {
	const old, now = "io.kubernetes.cri-o.PodLinuxResources", "pod-linux-resources.crio.io"
	for name, c := range map[string]struct {
		annotations map[string]string
		want        Demand
	}{
		"told":         {map[string]string{old: `{"cpu_period":100000,"cpu_quota":150000,"cpu_shares":512,"memory_limit_in_bytes":1048576,"unified":{}}`}, Demand{1 << 20, 1500}},
		"newer first":  {map[string]string{old: `{"memory_limit_in_bytes":1}`, now: `{"memory_limit_in_bytes":2}`}, Demand{2, 0}},
		"nothing":      {map[string]string{old: "null"}, Demand{}},
		"no limits":    {map[string]string{now: `{"cpu_quota":-1,"memory_limit_in_bytes":0}`}, Demand{}},
		"both engines": {map[string]string{now: `{"memory_limit_in_bytes":1}`, annotationQuota: "100000"}, Demand{1, 1000}},
	} {
		if got, err := OfPod(c.annotations); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
	for _, text := range []string{"", "wrong", `{"cpu_quota":"200m"}`, `[]`} {
		if d, err := OfPod(map[string]string{old: text}); err == nil || !strings.Contains(err.Error(), old) {
			t.Errorf("%q: %+v, %v", text, d, err)
		}
	}
}

func TestFor(t *testing.T) {
	least, most := Machine{1, 256}, Machine{4, 2048}
	for _, c := range []struct {
		d    Demand
		want Machine
	}{
		{Demand{}, least},
		{Demand{Memory: 15 << 20, CPU: 1}, least},
		{Demand{Memory: 144 << 20, CPU: 1000}, least},
		{Demand{Memory: 144<<20 + 1, CPU: 1001}, Machine{2, 256 + 145}},
		{Demand{Memory: 1 << 30, CPU: 3500}, Machine{4, 1280}},
		{Demand{Memory: 4 << 30, CPU: 9000}, most},
		{Demand{Memory: math.MaxUint64, CPU: math.MaxUint64 - 1000}, most},
	} {
		if got := For(c.d, least, most); got != c.want {
			t.Errorf("%+v: %+v, want %+v", c.d, got, c.want)
		}
	}
	if got := For(Demand{Memory: 1 << 30, CPU: 2000}, least, least); got != least {
		t.Errorf("a machine that cannot grow: %+v", got)
	}
}

func TestSum(t *testing.T) {
	if got, want := (Demand{1, 2}).Plus(Demand{3, 4}), (Demand{4, 6}); got != want {
		t.Errorf("%+v", got)
	}
	if got := (Demand{Memory: math.MaxUint64}).Plus(Demand{Memory: 2}); got.Memory != math.MaxUint64 {
		t.Errorf("an overflow gives %d", got.Memory)
	}
	if got, want := (Demand{5, 2}).AtLeast(Demand{3, 4}), (Demand{5, 4}); got != want {
		t.Errorf("%+v", got)
	}
}
