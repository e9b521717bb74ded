package config

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
)

func TestExampleIsDefault(t *testing.T) {
	c, err := Load("../../packaging/config.toml")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), c, cmp.AllowUnexported(Duration{})); diff != "" {
		t.Errorf("packaging/config.toml is not the default (-default +file):\n%s", diff)
	}
}

// The monitor gets the configuration as JSON.
func TestJSONKeepsEverything(t *testing.T) {
	c := Default()
	c.Runtime.StopGrace = infinity
	raw, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var got Config
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c, &got, cmp.AllowUnexported(Duration{})); diff != "" {
		t.Error(diff)
	}
}

// The example shows every key.
func TestExampleIsComplete(t *testing.T) {
	var file map[string]map[string]any
	if _, err := toml.DecodeFile("../../packaging/config.toml", &file); err != nil {
		t.Fatal(err)
	}
	for _, k := range Default().keys() {
		table, name, _ := strings.Cut(k.name, ".")
		if _, ok := file[table][name]; !ok {
			t.Errorf("packaging/config.toml has no %s", k.name)
		}
	}
}

// Every field can be set: one that no key reaches stays what it is.
func TestKeysReachEveryField(t *testing.T) {
	c, err := Parse(`
[runtime]
stop_grace = "infinity"
on_term = "signal"
annotations = []
create_timeout = "1s"
call_timeout = "2s"
unclaimed_timeout = "6s"
kill_timeout = "3s"
flush_timeout = "4ms"
teardown_timeout = "1m5s"
[hypervisor]
qemu = "/q"
accel = "tcg"
guest_image = "/g"
kernel = "/k"
cpus = 3
memory = "2G"
sizing = "static"
max_cpus = 7
max_memory = "3G"
memory_overhead = "500M"
memory_reserve = "1G"
concurrent_starts = 9
hotplug_slots = 4
boot_timeout = "6s"
template = "off"
channel = "serial"
spares = 2
spare_timeout = "3s"
spare_delay = "4s"
cache_dir = "/c"
[network]
mode = "macvtap"
queues = 3
vhost = "off"
[share]
virtiofsd = "/v"
cache = "never"
[image]
anything = { goes = 1 }
`)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Runtime: Runtime{
			StopGrace: infinity, OnTerm: OnTermSignal, Annotations: []string{},
			CreateTimeout: Seconds(1), UnclaimedTimeout: Seconds(6), CallTimeout: Seconds(2), KillTimeout: Seconds(3),
			FlushTimeout: Seconds(0.004), TeardownTimeout: Seconds(65),
		},
		Hypervisor: Hypervisor{
			QEMU: "/q", Accel: AccelTCG, GuestImage: "/g", Kernel: "/k",
			CPUs: 3, Memory: 2 * GiB, Sizing: SizingStatic, MaxCPUs: 7, MaxMemory: 3 * GiB, MemoryOverhead: 500 * MiB, MemoryReserve: GiB, ConcurrentStarts: 9, HotplugSlots: 4, BootTimeout: Seconds(6),
			Template: TemplateOff, Channel: ChannelSerial, Spares: 2, SpareTimeout: Seconds(3), SpareDelay: Seconds(4), CacheDir: "/c",
		},
		Network: Network{Mode: NetworkMacvtap, Queues: 3, Vhost: VhostOff},
		Share:   Share{Virtiofsd: "/v", Cache: CacheNever},
	}
	if diff := cmp.Diff(want, c, cmp.AllowUnexported(Duration{})); diff != "" {
		t.Error(diff)
	}
	if def := Default(); cmp.Equal(def, c, cmp.AllowUnexported(Duration{})) || len(def.Runtime.Annotations) != 1 {
		t.Error("the defaults were changed")
	}
}

func TestErrorsNameKeyValueAndExpectation(t *testing.T) {
	const (
		aTime   = `: expected a time such as "10s", over 0`
		aGrace  = `: expected a time such as "10s", or "infinity"`
		aMemory = `: expected an amount of memory such as "256M" or "1G", at least 128M`
		aPath   = `: expected an absolute path, or "" for the usual places`
		names   = `: expected an array with any of io.vc-runtime.stop.grace`
	)
	for _, c := range []struct{ table, line, want string }{
		{"runtime", `stop_grace = "soon"`, `runtime.stop_grace = "soon"` + aGrace},
		{"runtime", `stop_grace = "-1s"`, `runtime.stop_grace = "-1s"` + aGrace},
		{"runtime", `stop_grace = 30`, `runtime.stop_grace = 30` + aGrace},
		{"runtime", `stop_grace.x = 1`, `runtime.stop_grace = map[x:1]` + aGrace},
		{"runtime", `kill_timeout = "infinity"`, `runtime.kill_timeout = "infinity"` + aTime},
		{"runtime", `flush_timeout = "0s"`, `runtime.flush_timeout = "0s"` + aTime},
		{"runtime", `on_term = "ignore"`, `runtime.on_term = "ignore": expected "stop" or "signal"`},
		{"runtime", `on_term = 1`, `runtime.on_term = 1: expected "stop" or "signal"`},
		{"runtime", `annotations = ["x.y"]`, `runtime.annotations = [x.y]` + names},
		{"runtime", `annotations = [1]`, `runtime.annotations = [1]` + names},
		{"runtime", `annotations = "x"`, `runtime.annotations = "x"` + names},
		{"hypervisor", `accel = "xen"`, `hypervisor.accel = "xen": expected "auto" or "kvm" or "tcg"`},
		{"hypervisor", `cpus = 0`, `hypervisor.cpus = 0: expected a number from 1 to 255`},
		{"hypervisor", `cpus = "2"`, `hypervisor.cpus = "2": expected a number from 1 to 255`},
		{"hypervisor", `cpus = 1.5`, `hypervisor.cpus = 1.5: expected a number from 1 to 255`},
		{"hypervisor", `cpus = 9223372036854775807`, `hypervisor.cpus = 9223372036854775807: expected a number from 1 to 255`},
		{"hypervisor", `hotplug_slots = 99`, `hypervisor.hotplug_slots = 99: expected a number from 1 to 24`},
		{"hypervisor", `memory = "64M"`, `hypervisor.memory = "64M"` + aMemory},
		{"hypervisor", `memory = "many"`, `hypervisor.memory = "many"` + aMemory},
		{"hypervisor", `memory = 512`, `hypervisor.memory = 512` + aMemory},
		{"hypervisor", `max_memory = "1M"`, `hypervisor.max_memory = "1M"` + aMemory + `, or ""`},
		{"hypervisor", `max_memory = 0`, `hypervisor.max_memory = 0` + aMemory + `, or ""`},
		{"hypervisor", `max_cpus = -1`, `hypervisor.max_cpus = -1: expected a number from 0 to 255`},
		{"hypervisor", `sizing = "dynamic"`, `hypervisor.sizing = "dynamic": expected "limits" or "static"`},
		{"hypervisor", `template = "on"`, `hypervisor.template = "on": expected "auto" or "off"`},
		{"hypervisor", `channel = "tcp"`, `hypervisor.channel = "tcp": expected "auto" or "vsock" or "serial"`},
		{"hypervisor", `spares = -1`, `hypervisor.spares = -1: expected a number from 0 to 16`},
		{"hypervisor", `spares = 17`, `hypervisor.spares = 17: expected a number from 0 to 16`},
		{"hypervisor", `spare_delay = "61s"`, `hypervisor.spare_delay = "61s": expected a time such as "10s", at most 1m0s`},
		{"hypervisor", `spare_timeout = "0s"`, `hypervisor.spare_timeout = "0s": expected a time such as "10s", over 0`},
		{"hypervisor", `cache_dir = ""`, `hypervisor.cache_dir = "": expected an absolute path`},
		{"hypervisor", `cache_dir = "cache"`, `hypervisor.cache_dir = "cache": expected an absolute path`},
		{"hypervisor", `qemu = "qemu"`, `hypervisor.qemu = "qemu"` + aPath},
		{"network", `mode = "bridge"`, `network.mode = "bridge": expected "tc" or "macvtap"`},
		{"network", `queues = 0`, `network.queues = 0: expected a number from 1 to 255`},
		{"network", `vhost = "on"`, `network.vhost = "on": expected "auto" or "off"`},
		{"share", `virtiofsd = "./x"`, `share.virtiofsd = "./x"` + aPath},
		{"share", `virtiofsd = "/x\u0000"`, `share.virtiofsd = "/x\x00"` + aPath},
		{"share", `cache = "a\nb"`, `share.cache = "a\nb": expected "auto" or "always" or "never"`},
		{"share", `cash = "auto"`, `unknown key share.cash: expected cache, virtiofsd`},
		{"share", `Cache = "auto"`, `unknown key share.Cache: expected cache, virtiofsd`},
		{"hypervizor", `cpus = 1`, `unknown key hypervizor: expected the tables hypervisor, image, network, runtime, share`},
	} {
		_, err := Parse("[" + c.table + "]\n" + c.line)
		if err == nil || err.Error() != c.want {
			t.Errorf("%s:\n got %v\nwant %s", c.line, err, c.want)
		}
	}
	for text, want := range map[string]string{
		"runtime = 3":                       "runtime = 3: expected a table",
		"image = 3":                         "image = 3: expected a table",
		"[[share]]":                         "share = [map[]]: expected a table",
		"cpus = 2":                          "unknown key cpus: expected the tables hypervisor, image, network, runtime, share",
		"[runtime":                          "line 1: ",
		"[share]\ncache = \"x":              "line 2: ",
		"[share]\na = 1\na = 2":             "line 3: ",
		"[share]\nx = 99999999999999999999": "line 2: ",
	} {
		_, err := Parse(text)
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q:\n got %v\nwant %s", text, err, want)
		}
	}
}

func TestMost(t *testing.T) {
	h := &Default().Hypervisor
	if cpus, memory := h.Most(); cpus < 1 || cpus > maxCPUs || memory < h.Memory || memory > maxMemory || memory%MiB != 0 {
		t.Errorf("by default: %d CPUs, %s", cpus, memory)
	}
	h.MaxCPUs, h.MaxMemory = 5, 2*GiB
	if cpus, memory := h.Most(); cpus != 5 || memory != 2*GiB {
		t.Errorf("as configured: %d CPUs, %s", cpus, memory)
	}
	h.CPUs, h.Memory = 6, 3*GiB
	if cpus, memory := h.Most(); cpus != 6 || memory != 3*GiB {
		t.Errorf("more at the start: %d CPUs, %s", cpus, memory)
	}
	h.Sizing, h.MaxCPUs, h.MaxMemory = SizingStatic, 9, 4*GiB
	if cpus, memory := h.Most(); cpus != 6 || memory != 3*GiB {
		t.Errorf("static: %d CPUs, %s", cpus, memory)
	}
}

func FuzzParse(f *testing.F) {
	example, err := os.ReadFile("../../packaging/config.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(example))
	f.Add("[hypervisor]\nmemory = \"1G\"")
	f.Add("[image]\nx = [{a = 1}]")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse(text)
		if err != nil {
			return
		}
		raw, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var got Config
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c, &got, cmp.AllowUnexported(Duration{})); diff != "" {
			t.Error(diff)
		}
	})
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(filepath.Join(dir, "none")); err == nil {
		t.Error("a named file that is missing gives no error")
	}
	path := filepath.Join(dir, "c.toml")
	if err := os.WriteFile(path, []byte("[runtime]\nbroken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("the error does not name the file: %v", err)
	}
	if _, err := os.Stat(DefaultFile); err == nil {
		return // somebody's own
	}
	got, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), got, cmp.AllowUnexported(Duration{})); diff != "" {
		t.Errorf("without a file:\n%s", diff)
	}
	if _, err := Load(DefaultFile); err == nil {
		t.Error("the default file, missing, but named, gives no error")
	}
}

func TestGrace(t *testing.T) {
	const podman = "org.systemd.property.TimeoutStopUSec"
	for _, tc := range []struct {
		annotations map[string]string
		want        Duration
	}{
		{nil, Seconds(30)},
		{map[string]string{podman: "uint64 10000000"}, Seconds(10)},
		{map[string]string{podman: "10000000"}, Seconds(10)},
		{map[string]string{podman: "uint64 18446744073709551615"}, infinity},
		{map[string]string{podman: "uint64 9223372036854775"}, infinity}, // no room for a sum
		{map[string]string{podman: "uint64 0"}, Seconds(0)},
		{map[string]string{podman: " uint64  5000000 "}, Seconds(5)},
		{map[string]string{GraceAnnotation: "2500000h"}, infinity},
		{map[string]string{podman: "uint64 1", GraceAnnotation: "1.5s"}, Seconds(1.5)},
		{map[string]string{GraceAnnotation: "infinity"}, infinity},
		{map[string]string{GraceAnnotation: "0s"}, Seconds(0)},
		{map[string]string{periodAnnotation: "120"}, Seconds(120)},
		{map[string]string{periodAnnotation: "120", podman: "uint64 10000000"}, Seconds(10)},
	} {
		got, err := Default().Grace(tc.annotations)
		if err != nil || got != tc.want {
			t.Errorf("%v gives %v, %v; want %v", tc.annotations, got, err, tc.want)
		}
	}
	for name, values := range map[string][]string{
		podman:           {"ten", "", "uint64", "uint6410", "uint64 -1", "uint64 1 2", "int64 5", "1.5", "18446744073709551616", "0x10"},
		periodAnnotation: {"", "-1", "10s", "1.5", "4294967296"},
		GraceAnnotation:  {"-3s", "", "10", "Infinity", "inf", "1 s", "s"},
	} {
		for _, value := range values {
			d, err := Default().Grace(map[string]string{name: value})
			if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), strconv.Quote(value)) {
				t.Errorf("%s = %q gives %v, %v; want an error that names both", name, value, d, err)
			}
		}
	}
	c := Default()
	c.Runtime.Annotations = nil
	if got, err := c.Grace(map[string]string{GraceAnnotation: "1s"}); err != nil || got.Std() != 30*time.Second {
		t.Errorf("an annotation that is not allowed gives %v, %v", got, err)
	}
}

func FuzzGrace(f *testing.F) {
	f.Add("uint64 10000000", "1s")
	f.Add("18446744073709551615", "infinity")
	f.Add("uint64 9223372036854775808", "2562047h47m16.854775807s")
	f.Add("uint64", "-0s")
	f.Fuzz(func(t *testing.T, podman, own string) {
		for _, a := range []map[string]string{{timeoutAnnotation: podman}, {GraceAnnotation: own}} {
			d, err := Default().Grace(a)
			if err != nil {
				continue
			}
			if d.Std() < 0 || !d.Infinite() && d.Std()+time.Hour < d.Std() {
				t.Errorf("%v gives %v", a, d)
			}
		}
	})
}

func TestPaths(t *testing.T) {
	dir := t.TempDir()
	there, missing := filepath.Join(dir, "there"), filepath.Join(dir, "missing")
	if err := os.WriteFile(there, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		configured string
		usual      []string
		want       string
	}{
		"configured":         {there, []string{"/"}, there},
		"first that exists":  {"", []string{missing, there, "/"}, there},
		"configured missing": {missing, []string{there}, ""}, // no silent fallback
		"none":               {"", []string{missing}, ""},
	} {
		got, err := find("X", "x.y", "package z", c.configured, c.usual)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if err != nil && (!strings.Contains(err.Error(), missing) || !strings.Contains(err.Error(), "x.y")) {
			t.Errorf("%s: %v; want the path and the key", name, err)
		}
	}
	for _, path := range slices.Concat(qemuPaths, virtiofsdPaths, guestFolders) {
		if !filepath.IsAbs(path) {
			t.Errorf("%s is not absolute", path)
		}
	}
}
