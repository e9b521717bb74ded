package cgroup

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What hosts show: /proc/self/cgroup, /proc/1/cgroup and /proc/self/mountinfo.
type fixture struct{ own, init, mounts string }

var (
	hybridHost = fixture{
		own:  "5:name=systemd:/\n4:memory:/jobs/1\n3:cpuset:/\n2:cpu,cpuacct:/system.slice/x.service\n0::/system.slice/x.service\n",
		init: "5:name=systemd:/init.scope\n4:memory:/init.scope\n3:cpuset:/\n2:cpu,cpuacct:/\n0::/init.scope\n",
		mounts: "23 1 254:1 / / rw - ext4 /dev/root rw\n" +
			"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n" +
			"32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n" +
			"34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n" +
			"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n" +
			"40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n" +
			"41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n",
	}
	v2Host = fixture{
		own:    "0::/user.slice/user-0.slice/session-1.scope\n",
		init:   "0::/init.scope\n",
		mounts: "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n",
	}
	// A v1 container without a cgroup namespace, as docker makes it.
	nestedHost = fixture{
		own:    "4:memory:/docker/abc\n3:pids:/docker/abc\n2:perf_event:/\n",
		init:   "4:memory:/docker/abc\n3:pids:/docker/abc\n",
		mounts: "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n36 31 0:33 /docker/abc /sys/fs/cgroup/with\\040space ro - cgroup cgroup rw,pids\n",
	}
)

func (f fixture) host(t *testing.T) host {
	t.Helper()
	h, err := parseHost([]byte(f.own), []byte(f.init), []byte(f.mounts))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestFolders(t *testing.T) {
	systemd, err := Place("machine.slice:libpod:c1", "c1", true)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		host fixture
		p    Placement
		want map[string]string
	}{
		{"hybrid, absolute", hybridHost, Placement{Path: "/a/b"}, map[string]string{
			"name=systemd": "/sys/fs/cgroup/systemd/a/b", "memory": "/sys/fs/cgroup/memory/a/b", "cpuset": "/sys/fs/cgroup/cpuset/a/b",
			"cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct/a/b", "": "/sys/fs/cgroup/unified/a/b",
		}},
		{"hybrid, relative: below the caller's own", hybridHost, Placement{Path: "c1"}, map[string]string{
			"name=systemd": "/sys/fs/cgroup/systemd/c1", "memory": "/sys/fs/cgroup/memory/jobs/1/c1", "cpuset": "/sys/fs/cgroup/cpuset/c1",
			"cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct/system.slice/x.service/c1", "": "/sys/fs/cgroup/unified/system.slice/x.service/c1",
		}},
		{"hybrid, systemd", hybridHost, systemd, map[string]string{
			"name=systemd": "/sys/fs/cgroup/systemd/machine.slice/libpod-c1.scope", "memory": "/sys/fs/cgroup/memory/machine.slice/libpod-c1.scope",
			"cpuset":      "/sys/fs/cgroup/cpuset/machine.slice/libpod-c1.scope",
			"cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct/machine.slice/libpod-c1.scope", "": "/sys/fs/cgroup/unified/machine.slice/libpod-c1.scope",
		}},
		{"v2, absolute", v2Host, Placement{Path: "/a/b"}, map[string]string{"": "/sys/fs/cgroup/a/b"}},
		{"v2, relative: beside the caller's own", v2Host, Placement{Path: "c1"}, map[string]string{"": "/sys/fs/cgroup/user.slice/user-0.slice/c1"}},
		{"v2, systemd", v2Host, systemd, map[string]string{"": "/sys/fs/cgroup/machine.slice/libpod-c1.scope"}},
		{"nested, absolute: below what is mounted", nestedHost, Placement{Path: "/a"}, map[string]string{
			"memory": "/sys/fs/cgroup/memory/a", "pids": "/sys/fs/cgroup/with space/a",
		}},
		{"nested, relative", nestedHost, Placement{Path: "c1"}, map[string]string{
			"memory": "/sys/fs/cgroup/memory/c1", "pids": "/sys/fs/cgroup/with space/c1",
		}},
		{
			"v2 at the root of a namespace", fixture{"0::/\n", "0::/\n", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"},
			Placement{Path: "c1"}, map[string]string{"": "/sys/fs/cgroup/c1"},
		},
		{
			"v2 at the root of a mount", fixture{"0::/d/x\n", "0::/d/x\n", "30 23 0:26 /d/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"},
			Placement{Path: "c1"}, map[string]string{"": "/sys/fs/cgroup/c1"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := c.host.host(t)
			got := map[string]string{}
			for _, hy := range h {
				g, err := h.group(hy, c.p)
				if err != nil {
					t.Fatal(err)
				}
				got[g.Controllers] = g.Dir
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestHostsThatCannotBeUsed(t *testing.T) {
	if _, err := parseHost([]byte(v2Host.own), nil, []byte("23 1 254:1 / / rw - ext4 /dev/root rw\n")); !errors.Is(err, ErrNone) {
		t.Errorf("nothing mounted: %v", err)
	}
	if _, err := parseHost([]byte("rubbish\n"), nil, []byte(v2Host.mounts)); err == nil {
		t.Error("a bad membership is accepted")
	}
	if _, err := parseHost([]byte(v2Host.own), nil, []byte("rubbish\n")); err == nil {
		t.Error("a bad mount is accepted")
	}
	h := fixture{"0::/../other\n", "0::/\n", v2Host.mounts}.host(t)
	if _, err := h.group(h[0], Placement{Path: "c1"}); err == nil {
		t.Error("a cgroup beside the mount is accepted as the caller's own")
	}
	if _, err := h.group(h[0], Placement{Path: "/c1"}); err != nil {
		t.Errorf("an absolute path does not need it: %v", err)
	}
}
