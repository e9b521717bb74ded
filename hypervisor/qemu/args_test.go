package qemu

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vc-runtime/vc-runtime/hypervisor"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// validConfig is the smallest machine that passes check.
func validConfig() hypervisor.Config {
	return hypervisor.Config{
		Name: "/run/vc-runtime/sb1", Binary: "/usr/bin/qemu-system-x86_64", Accel: hypervisor.AccelTCG,
		CPUs: 1, MemoryMiB: 256, Kernel: "/guest/vmlinux", Initrd: "/guest/initrd",
	}
}

func TestArgs(t *testing.T) {
	tests := map[string]struct {
		cfg    func(*hypervisor.Config)
		layout Layout
	}{
		"tcg-minimal": {
			cfg:    func(*hypervisor.Config) {},
			layout: Layout{QMP: 3, Console: 4, Channel: 5, TSC: 2596100},
		},
		"kvm-full": {
			cfg: func(c *hypervisor.Config) {
				c.Name = "a name,with=options"
				c.Accel = hypervisor.AccelKVM
				c.CPUs, c.MaxCPUs = 2, 4
				c.MemoryMiB, c.MaxMemoryMiB = 512, 2048
				c.KernelArgs = []string{"systemd.unified_cgroup_hierarchy=1", "debug"}
				c.HotplugSlots = 3
			},
			layout: Layout{QMP: 7, Console: 8, Channel: 9, Firmware: "/usr/share/qemu/qboot.rom", TSC: 2596100},
		},
		"vsock": {
			cfg:    func(c *hypervisor.Config) { c.Vsock, c.HotplugSlots = true, 1 },
			layout: Layout{QMP: 3, Console: 4, Channel: 5, Vsock: 6, CID: 4294967294},
		},
		"vsock-clone": {
			cfg: func(c *hypervisor.Config) {
				c.Vsock = true
				c.Template = &hypervisor.Template{Memory: "/cache/memory", State: "/cache/state"}
			},
			layout: Layout{QMP: 3, Console: 4, Channel: 5, Memory: 6, Vsock: 7, CID: 3},
		},
		"template": {
			cfg:    func(c *hypervisor.Config) { c.MemoryFile = "/cache/a,b/memory" },
			layout: Layout{QMP: 3, Console: 4, Channel: 5, Firmware: "/usr/share/qemu/qboot.rom"},
		},
		"clone": {
			cfg: func(c *hypervisor.Config) {
				c.Template = &hypervisor.Template{Memory: "/cache/memory", State: "/cache/state"}
			},
			layout: Layout{QMP: 3, Console: 4, Channel: 5, Memory: 6, Firmware: "/usr/share/qemu/qboot.rom"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := validConfig()
			tt.cfg(&cfg)
			got := Quote(cfg.Binary, Args(cfg, tt.layout))
			golden := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// The table must not grow from one machine to the next.
func TestArgsSharesNothing(t *testing.T) {
	one, two := validConfig(), validConfig()
	one.KernelArgs = []string{"one"}
	a := strings.Join(Args(one, Layout{}), " ")
	Args(two, Layout{})
	if b := strings.Join(Args(one, Layout{}), " "); a != b || !strings.Contains(a, " one ") {
		t.Errorf("%s\n%s", a, b)
	}
}

func TestCheck(t *testing.T) {
	tests := map[string]struct {
		cfg  func(*hypervisor.Config)
		want string // "" for none
	}{
		"valid":          {func(c *hypervisor.Config) {}, ""},
		"all slots":      {func(c *hypervisor.Config) { c.HotplugSlots = maxSlots }, ""},
		"accelerator":    {func(c *hypervisor.Config) { c.Accel = "xen" }, `accelerator "xen"`},
		"no CPU":         {func(c *hypervisor.Config) { c.CPUs = 0 }, "0 CPUs"},
		"CPUs over max":  {func(c *hypervisor.Config) { c.CPUs, c.MaxCPUs = 2, 1 }, "2 CPUs of at most 1"},
		"no memory":      {func(c *hypervisor.Config) { c.MemoryMiB = 0 }, "0 MiB"},
		"too many slots": {func(c *hypervisor.Config) { c.HotplugSlots = maxSlots + 1 }, "27 hotplug slots"},
		"no kernel":      {func(c *hypervisor.Config) { c.Kernel = "" }, `parameter ""`},
		"NUL":            {func(c *hypervisor.Config) { c.Name = "a\x00b" }, `"a\x00b"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := validConfig()
			tt.cfg(&cfg)
			err := check(cfg)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestQuote(t *testing.T) {
	got := Quote("/bin/q", []string{"-a", "b c", "it's", "", "-d"})
	want := "/bin/q \\\n  -a 'b c' 'it'\\''s' '' \\\n  -d\n"
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestTail(t *testing.T) {
	tests := []struct {
		writes []string
		want   string
	}{
		{nil, ""},
		{[]string{"ab", "c"}, "abc"},
		{[]string{"abcd", "e"}, "abcde"},
		{[]string{"abcd", "efg"}, "cdefg"},
		{[]string{"abcdefghijk"}, "ghijk"},
		{[]string{"abc", "defghijklmnop", "q"}, "mnopq"},
		{[]string{"a", "b", "c", "d", "e", "f", "g", "h"}, "defgh"},
	}
	for _, tt := range tests {
		tail := newTail(5)
		for _, w := range tt.writes {
			if n, err := tail.Write([]byte(w)); n != len(w) || err != nil {
				t.Errorf("write %q: %d, %v", w, n, err)
			}
		}
		if got := string(tail.Bytes()); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.writes, got, tt.want)
		}
	}
}

func TestParseVersion(t *testing.T) {
	tests := []struct {
		out   string
		want  BinaryVersion
		valid bool
	}{
		{"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright (c)\n", BinaryVersion{7, 2, 22, "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)"}, true},
		{"QEMU emulator version 10.0.0\n", BinaryVersion{10, 0, 0, "10.0.0"}, true},
		{"QEMU emulator version 9.1.50 (v9.1.0-1-gabc)", BinaryVersion{9, 1, 50, "9.1.50 (v9.1.0-1-gabc)"}, true},
		{"", BinaryVersion{}, false},
		{"crun version 1.8.1\n", BinaryVersion{}, false},
		{"QEMU emulator version x.y.z", BinaryVersion{}, false},
	}
	for _, tt := range tests {
		got, err := parseVersion([]byte(tt.out))
		if got != tt.want || (err == nil) != tt.valid {
			t.Errorf("%q: got %+v, %v", tt.out, got, err)
		}
	}
}
