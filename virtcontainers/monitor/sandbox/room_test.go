package sandbox

import (
	"errors"
	"math"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/virtcontainers/cgroup"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
)

func TestEnough(t *testing.T) {
	free := cgroup.Room{Bytes: math.MaxUint64}
	for name, tt := range map[string]struct {
		host config.Size
		cg   cgroup.Room
		want string // of the error; "" for none
	}{
		"plenty":         {10 * config.GiB, free, ""},
		"just":           {320 * config.MiB, free, ""},
		"host":           {319 * config.MiB, free, `the host has 319 MiB (MemAvailable), expected at least 320 MiB: hypervisor.memory = "256M" and hypervisor.memory_reserve = "64M"`},
		"cgroup, enough": {10 * config.GiB, cgroup.Room{Bytes: 256 << 20, Limit: "/l"}, ""},
		"cgroup":         {10 * config.GiB, cgroup.Room{Bytes: 255 << 20, Limit: "/l"}, `/l leaves 255 MiB, expected at least 256 MiB: hypervisor.memory = "256M"`},
	} {
		n := need{memory: 256 * config.MiB, who: "a virtual machine", why: `hypervisor.memory = "256M"`}
		err := n.fits(64*config.MiB, tt.host, tt.cg)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case tt.want != "" && (!errors.Is(err, unix.ENOMEM) || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: got %v, expected ENOMEM and %q", name, err, tt.want)
		}
	}
	if n, err := availableMemory(); err != nil || n < 1<<20 {
		t.Errorf("this host: %d, %v", n, err)
	}
}
