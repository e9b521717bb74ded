package oci

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestFieldsComplete fails when runtime-spec has a field without a row, and
// when a row has no field.
func TestFieldsComplete(t *testing.T) {
	used := make(map[string]bool)
	walkFields(t, reflect.TypeFor[specs.Spec](), "", used)
	for _, f := range fields {
		if !used[f.path] {
			t.Errorf("row %q stands for no field, or for one below another row", f.path)
		}
		if f.reason == "" && f.disposition != carried {
			t.Errorf("row %q is %s without a reason", f.path, f.disposition)
		}
	}
	if len(fieldIndex) != len(fields) {
		t.Error("two rows have the same path")
	}
}

func walkFields(t *testing.T, typ reflect.Type, path string, used map[string]bool) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		name := join(path, jsonName(f))
		elem := f.Type
		for elem.Kind() == reflect.Pointer {
			elem = elem.Elem()
		}
		below := name
		if elem.Kind() == reflect.Slice && elem.Elem().Kind() == reflect.Struct {
			elem, below = elem.Elem(), name+"[]"
		}
		row, ok := fieldIndex[name]
		used[name] = ok
		isStruct := elem.Kind() == reflect.Struct
		switch {
		case ok && row.disposition == carried && isStruct:
			t.Errorf("row %q carries a structure: its fields want rows of their own", name)
		case !ok && !isStruct:
			t.Errorf("field %q has no row in the table", name)
		case isStruct && (!ok || row.disposition == mapped):
			walkFields(t, elem, below, used)
		}
	}
}

// at finds the field of a row, in the first element of each array.
func at(t *testing.T, spec *specs.Spec, path string) reflect.Value {
	t.Helper()
	v := reflect.ValueOf(spec).Elem()
	for _, part := range strings.Split(path, ".") {
		name, first := strings.CutSuffix(part, "[]")
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				t.Fatalf("%s: nil before %s", path, part)
			}
			v = v.Elem()
		}
		for i := range v.NumField() {
			if jsonName(v.Type().Field(i)) == name {
				v = v.Field(i)
				break
			}
		}
		if first {
			if v.Len() == 0 {
				t.Fatalf("%s: nothing in %s", path, part)
			}
			v = v.Index(0)
		}
	}
	return v
}

// TestFields checks every row against a bundle that sets every field.
func TestFields(t *testing.T) {
	b := loadTestdata(t, "full")
	g, err := b.guest(GuestOptions{ID: testID}, fakeHost{})
	if err != nil {
		t.Fatal(err)
	}
	var guest *specs.Spec
	if err := decode("guest", g.Spec, &guest); err != nil {
		t.Fatal(err)
	}
	reported := make(map[string]string)
	for _, d := range g.Dropped {
		if _, twice := reported[d.Field]; twice {
			t.Errorf("%s is reported twice", d.Field)
		}
		reported[d.Field] = d.Reason
	}
	for _, f := range fields {
		if f.disposition == refused || strings.HasPrefix(f.path, "mounts[]") || strings.HasPrefix(f.path, "linux.namespaces[]") {
			continue
		}
		src := at(t, b.Spec, f.path)
		if !isSet(src) && f.path != "linux.resources.memory.swap" && f.path != "linux.resources.devices[].access" {
			t.Errorf("the bundle does not set %s", f.path)
		}
		switch f.disposition {
		case carried:
			if diff := cmp.Diff(src.Interface(), at(t, guest, f.path).Interface()); diff != "" {
				t.Errorf("%s is not carried (-host +guest):\n%s", f.path, diff)
			}
		case dropped:
			if reported[f.path] != f.reason {
				t.Errorf("%s is reported with %q, want %q", f.path, reported[f.path], f.reason)
			}
			fallthrough
		case host:
			if isSet(topOf(t, guest, f.path)) {
				t.Errorf("%s is %s, but in the guest's specification", f.path, f.disposition)
			}
		}
	}
}

// topOf is at, or the first nil on the way.
func topOf(t *testing.T, spec *specs.Spec, path string) reflect.Value {
	parts := strings.Split(path, ".")
	for i := range parts {
		v := at(t, spec, strings.Join(parts[:i+1], "."))
		if i == len(parts)-1 || v.IsZero() {
			return v
		}
	}
	return reflect.Value{}
}

// TestRefused sets each refused field in an otherwise good bundle.
func TestRefused(t *testing.T) {
	set := map[string]func(*specs.Spec){
		"mounts[0].uidMappings": func(s *specs.Spec) { s.Mounts[0].UIDMappings = []specs.LinuxIDMapping{{Size: 1}} },
		"mounts[0].gidMappings": func(s *specs.Spec) { s.Mounts[0].GIDMappings = []specs.LinuxIDMapping{{Size: 1}} },
		"linux.netDevices":      func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth0": {}} },
		"linux.seccomp.listenerPath": func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/run/x"}
		},
	}
	covered := make(map[string]bool)
	for field, change := range set {
		row := fieldIndex[rowPath(field)]
		covered[row.path] = true
		spec := DefaultSpec()
		change(spec)
		_, err := (&Bundle{Spec: spec}).guest(GuestOptions{ID: testID}, fakeHost{})
		if want := field + ": " + row.reason; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	for _, f := range fields {
		if f.disposition == refused && !covered[f.path] {
			t.Errorf("%s is refused, but not tested", f.path)
		}
	}
}

const supportPath = "../../docs/spec-support.md"

// TestSpecSupport checks that docs/spec-support.md is what the tables say.
func TestSpecSupport(t *testing.T) {
	got := specSupport()
	if *update {
		if err := os.MkdirAll("../../docs", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(supportPath, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(supportPath)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("docs/spec-support.md is stale: run go generate ./virtcontainers/oci (-want +got):\n%s", diff)
	}
}

const supportIntro = `<!-- Generated by go generate ./virtcontainers/oci; do not edit. -->
# Support of the OCI runtime specification

What becomes of every field of ` + "`config.json`" + ` (runtime-spec %s). A container runs in a virtual machine: its
specification is built new for the guest's runtime (crun 1.8, cgroup v2), and only what this page calls *carried* or
*mapped* gets there. ` + "`--debug`" + ` logs what a bundle sets and does not get.

| disposition | meaning |
|---|---|
| carried | copied into the guest's specification |
| mapped | translated |
| host | applied on the host, never sent |
| refused | an error when it is set |
| dropped | left out, and reported when it is set |

A field that is not listed here is ignored, as the specification asks. ` + "`exec --process`" + ` treats a process as
` + "`config.json`" + `'s.
`

const supportNotes = `
## Mounts

Bind mounts come from the container's share (virtiofs), read-only ones enforced by the host. The option of a bind mount
decides, not its type. A missing source is an error. In the guest:

| source on the host | becomes |
|---|---|
| %s | the guest's own %s |
| below /sys/fs/cgroup, for a place below /sys/fs/cgroup | left out |
| below /proc or /sys | refused |
| /dev, a folder below it | refused, but for /dev/shm, which is shared as files |
| a folder called shm on a tmpfs, for /dev/shm | a tmpfs of the guest of the same size, shared by those who share the IPC namespace |
| a device, for a place below /dev | the guest's device, see Devices |
| a socket or pipe | its name, but it leads nowhere |
| anything else | shared |

Mounts made in the guest never reach the host, whatever the propagation. What the host mounts below a source later is
in the guest, unless the bind mount is private or unbindable. A read-only bind mount is read-only in the guest
with all that is below it.

Types other than bind, and their options beside the flags of mount(8):

| type | options |
|---|---|
%s
Other types are refused. Unknown options are refused too, but for bind mounts, where they are left out as runc does;
SELinux labels are left out, ` + "`idmap` and `remount`" + ` refused. Over /proc only %s may be mounted.

## Namespaces

| type | in the guest |
|---|---|
| network | required: the VM's network is made from it. A container in the host's network is refused |
| ipc, uts | new; in a pod the pod's, unless the bundle of a member has a new one |
| pid | new; in a pod that of another container of the pod where the path is that of its shim |
| cgroup | always new, whether the bundle has none or a path |
| mount | always new; a path is refused |
| user | new, with the bundle's mappings; a path is left out |
| time | new, with the bundle's offsets to the guest's clocks; a path is refused |

## Devices

The guest has these character devices, and pipes: %s. Others are refused, but left out for a
container that may use all devices (privileged).

A block device of the host is plugged into the VM as a disk, if a rule of linux.resources.devices allows the container its use: read-only
where the rule does not let it write. It has to be a whole device, and one that nobody on the host uses: it is opened exclusively. Only linux.devices
can name one: a privileged container gets none, and a bind mount of one is refused. Its number in the guest is another.
`

func specSupport() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, supportIntro, specs.Version)
	section := ""
	for _, f := range fields {
		if s := sectionOf(f.path); s != section {
			section = s
			fmt.Fprintf(&b, "\n## %s\n\n| field | disposition | |\n|---|---|---|\n", section)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.path, f.disposition, f.reason)
	}
	var types, devices []string
	for _, name := range slices.Sorted(maps.Keys(filesystems)) {
		types = append(types, fmt.Sprintf("| %s | %s |\n", name, strings.Join(slices.Sorted(maps.Keys(filesystems[name].data)), ", ")))
	}
	for n, name := range guestDevices {
		devices = append(devices, fmt.Sprintf("%s (%d:%d)", name, n.major, n.minor))
	}
	slices.Sort(devices)
	var own []string
	for _, path := range slices.Sorted(maps.Keys(kernelMounts)) {
		own = append(own, kernelMounts[path])
	}
	fmt.Fprintf(&b, supportNotes, strings.Join(slices.Sorted(maps.Keys(kernelMounts)), ", "), strings.Join(own, ", "),
		strings.Join(types, ""), strings.Join(slices.Sorted(maps.Keys(procMounts)), ", "), strings.Join(devices, ", "))
	return b.Bytes()
}

// sectionOf is the heading under which a field is listed.
func sectionOf(path string) string {
	for _, s := range []string{"linux.resources", "linux.seccomp", "linux", "process", "root", "mounts", "hooks"} {
		if rest, ok := strings.CutPrefix(path, s); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return s
		}
	}
	for _, s := range []string{"solaris", "windows", "vm", "zos", "freebsd"} {
		if path == s {
			return "other platforms"
		}
	}
	return "general"
}
