package oci

import (
	"encoding/json"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/virtcontainers/disk"
)

// guestOf translates the default bundle after change.
func guestOf(change func(*specs.Spec)) (*Guest, *specs.Spec, error) {
	spec := DefaultSpec()
	change(spec)
	b := &Bundle{Dir: "/bundle", Spec: spec, Rootfs: "/bundle/rootfs"}
	g, err := b.guest(GuestOptions{ID: testID}, fakeHost{})
	if err != nil {
		return nil, nil, err
	}
	var guest *specs.Spec
	return g, guest, json.Unmarshal(g.Spec, &guest)
}

func has(dropped []Dropped, field string) bool {
	return slices.ContainsFunc(dropped, func(d Dropped) bool { return d.Field == field })
}

func TestMounts(t *testing.T) {
	const n = 7 // mounts of the default bundle
	bind := func(source, dest string, options ...string) specs.Mount {
		return specs.Mount{Destination: dest, Type: "bind", Source: source, Options: append([]string{"rbind"}, options...)}
	}
	for _, tt := range []struct {
		name string
		in   specs.Mount
		want *specs.Mount // in the guest, nil for none
		bind *Bind
		err  string
	}{
		{"folder", bind("/srv/a", "/a"),
			&specs.Mount{Destination: "/a", Type: "bind", Source: "m/0", Options: []string{"rbind"}},
			&Bind{Source: "/srv/a", Recursive: true, Propagation: Slave}, ""},
		{"type without option", specs.Mount{Destination: "/a", Type: "bind", Source: "/srv/a"},
			&specs.Mount{Destination: "/a", Type: "bind", Source: "m/0", Options: []string{"bind"}},
			&Bind{Source: "/srv/a", Propagation: Slave}, ""},
		{"option without type", specs.Mount{Destination: "/a", Source: "/srv/a", Options: []string{"bind", "ro", "slave"}},
			&specs.Mount{Destination: "/a", Type: "bind", Source: "m/0", Options: []string{"bind", "ro", "slave"}},
			&Bind{Source: "/srv/a", ReadOnly: true, Propagation: Slave}, ""},
		{"recursively read-only", bind("/srv/a", "/a", "rro"),
			&specs.Mount{Destination: "/a", Type: "bind", Source: "m/0", Options: []string{"rbind", "ro"}},
			&Bind{Source: "/srv/a", Recursive: true, ReadOnly: true, RecursiveReadOnly: true, Propagation: Slave}, ""},
		{"the last option wins", bind("/srv/a", "/a", "ro", "rw"),
			&specs.Mount{Destination: "/a", Type: "bind", Source: "m/0", Options: []string{"rbind", "ro", "rw"}},
			&Bind{Source: "/srv/a", Recursive: true, Propagation: Slave}, ""},
		{"destination climbs", bind("/srv/a", "../../a/../b"),
			&specs.Mount{Destination: "/b", Type: "bind", Source: "m/0", Options: []string{"rbind"}},
			&Bind{Source: "/srv/a", Recursive: true, Propagation: Slave}, ""},
		{"link to proc", bind("/var/run/link-to-proc", "/host/proc", "ro"),
			&specs.Mount{Destination: "/host/proc", Type: "proc", Source: "proc", Options: []string{"ro"}}, nil, ""},
		{"missing", bind("/srv/missing", "/a"), nil, nil,
			`error mounting "/srv/missing" to rootfs at "/a": stat /srv/missing: file does not exist`},
		{"host's proc below", bind("/proc/1/root", "/a"), nil, nil, "the host's /proc and /sys cannot be shared"},
		{"host's sys below", bind("/sys/firmware", "/a"), nil, nil, "the host's /proc and /sys cannot be shared"},
		{"cgroup v1 elsewhere", bind("/sys/fs/cgroup/systemd", "/a"), nil, nil, "the host's /proc and /sys cannot be shared"},
		{"cgroup v1 in place", bind("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/systemd"), nil, nil, ""},
		{"dev", bind("/dev", "/dev"), nil, nil, "the host's devices cannot be shared"},
		{"folder below dev", bind("/dev/vfio", "/dev/vfio"), nil, nil, "the host's devices cannot be shared"},
		{"device of the host", bind("/dev/kvm", "/dev/kvm"), nil, nil, "the device 10:232 of the host cannot be given"},
		{"block device", bind("/dev/sda", "/dev/sda"), nil, nil, "a block device can only be given by linux.devices"},
		{"device elsewhere", bind("/dev/null", "/etc/null"), nil, nil, "only below /dev"},
		{"shared memory of the host", bind("/dev/shm", "/dev/shm"),
			&specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "m/0", Options: []string{"rbind"}},
			&Bind{Source: "/dev/shm", Recursive: true, Propagation: Slave}, ""},
		{"shared memory of a pod", bind("/run/pod/shm", "/dev/shm", "nosuid"),
			&specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "mode=1777", "size=67108864"}}, nil, ""},
		{"over proc", bind("/srv/a", "/proc"), nil, nil, `"/proc" cannot be mounted because it is inside /proc`},
		{"over a file of proc", bind("/srv/a", "/proc/self/attr"), nil, nil, "is inside /proc"},
		{"tmpfs on proc", specs.Mount{Destination: "/x/../proc/", Type: "tmpfs"}, nil, nil, "is inside /proc"},
		{"root", bind("/srv/a", "/.."), nil, nil, "mounts[7].destination: the root itself"},
		{"nfs", specs.Mount{Destination: "/a", Type: "nfs"}, nil, nil, `mounts[7].type "nfs": the guest mounts only`},
		{"no type", specs.Mount{Destination: "/a"}, nil, nil, `mounts[7].type "": the guest mounts only`},
		{"unknown option", specs.Mount{Destination: "/a", Type: "tmpfs", Options: []string{"ro", "lowerdir=/x"}}, nil, nil,
			`mounts[7].options[1] "lowerdir=/x": unknown for type tmpfs`},
		{"remount", bind("/srv/a", "/a", "remount"), nil, nil, `mounts[7].options[1] "remount"`},
		{"idmap", bind("/srv/a", "/a", "idmap"), nil, nil, `"idmap": the guest's virtiofs cannot map ids`},
		{"source of a tmpfs", specs.Mount{Destination: "/a", Type: "tmpfs", Source: "/run/agent"},
			&specs.Mount{Destination: "/a", Type: "tmpfs", Source: "tmpfs"}, nil, ""},
		{"cgroup2", specs.Mount{Destination: "/cg", Type: "cgroup2", Options: []string{"nsdelegate"}},
			&specs.Mount{Destination: "/cg", Type: "cgroup", Source: "cgroup", Options: []string{"nsdelegate"}}, nil, ""},
		{"NUL", bind("/srv/a", "/a\x00b"), nil, nil, "mounts[7].destination: contains a NUL byte"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g, guest, err := guestOf(func(s *specs.Spec) { s.Mounts = append(s.Mounts, tt.in) })
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got *specs.Mount
			if len(guest.Mounts) > n {
				got = &guest.Mounts[n]
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("mount (-want +got):\n%s", diff)
			}
			var b *Bind
			if len(g.Binds) > 0 {
				b = &g.Binds[0]
				if got == nil || b.Destination != got.Destination {
					t.Errorf("the bind's destination: %q", b.Destination)
				}
				b.Destination = ""
			}
			if diff := cmp.Diff(tt.bind, b); diff != "" {
				t.Errorf("bind (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMissingSourceIsNotExist(t *testing.T) {
	_, err := (&Bundle{Dir: "/", Spec: func() *specs.Spec {
		s := DefaultSpec()
		s.Mounts = []specs.Mount{{Destination: "/a", Type: "bind", Source: "/nonexistent", Options: []string{"bind"}}}
		return s
	}()}).Guest(GuestOptions{ID: testID})
	// podman and docker make exit code 127 of "no such file or directory".
	if !errors.Is(err, fs.ErrNotExist) || err.Error() != `unable to start container process: error during container init: error mounting "/nonexistent" to rootfs at "/a": stat /nonexistent: no such file or directory` {
		t.Error(err)
	}
}

func TestNoMounts(t *testing.T) {
	g, _, err := guestOf(func(s *specs.Spec) { s.Mounts = nil })
	if err != nil || !strings.Contains(string(g.Spec), `"mounts":[]`) {
		t.Errorf("crun takes no specification without mounts: %v", err)
	}
}

func TestDevices(t *testing.T) {
	devices := []specs.LinuxDevice{
		{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200},
		{Path: "/dev/kvm", Type: "c", Major: 10, Minor: 232},
		{Path: "/dev/sda", Type: "b", Major: 8},
	}
	all := []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	g, guest, err := guestOf(func(s *specs.Spec) { s.Linux.Devices, s.Linux.Resources.Devices = devices, all })
	if err != nil || len(guest.Linux.Devices) != 1 || *guest.Linux.Devices[0].FileMode != 0o666 ||
		!has(g.Dropped, "linux.devices[1]") || !has(g.Dropped, "linux.devices[2]") {
		t.Errorf("privileged: %v", err)
	}
	for i, want := range []string{"", "/dev/kvm: the device 10:232"} {
		_, _, err := guestOf(func(s *specs.Spec) { s.Linux.Devices = devices[i : i+1] })
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", devices[i].Path, err)
		}
	}
	all = append(all, specs.LinuxDeviceCgroup{Allow: false, Access: "rwm"})
	if allowsAll(&specs.LinuxResources{Devices: all}) {
		t.Error("a later rule takes everything back")
	}
}

func TestLinux(t *testing.T) {
	add := func(ns ...specs.LinuxNamespace) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Linux.Namespaces = append(s.Linux.Namespaces, ns...) }
	}
	sysctl := func(key, value string) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{key: value} }
	}
	seccomp := func(p specs.LinuxSeccomp) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Linux.Seccomp = &p }
	}
	time := specs.LinuxNamespace{Type: specs.TimeNamespace}
	offsets := func(clock string, nanosecs uint32, ns ...specs.LinuxNamespace) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, ns...)
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{clock: {Secs: -1, Nanosecs: nanosecs}}
		}
	}
	unified := func(file string) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Linux.Resources.Unified = map[string]string{file: "1"} }
	}
	for _, tt := range []struct {
		name   string
		change func(*specs.Spec)
		err    string
	}{
		{"good", func(*specs.Spec) {}, ""},
		{"no linux", func(s *specs.Spec) { s.Linux = nil }, ""},
		{"twice", add(specs.LinuxNamespace{Type: "pid"}), `malformed spec file: duplicated ns {"pid" ""}`},
		{"unknown", add(specs.LinuxNamespace{Type: "foo"}), `namespace {"foo" ""} does not exist`},
		{"time", offsets("boottime", 1, time), ""},
		{"time path", add(specs.LinuxNamespace{Type: "time", Path: "/proc/1/ns/time"}), "linux.namespaces[6].path: a time namespace of the host cannot be joined"},
		{"time without namespace", offsets("boottime", 1), "time namespace offsets specified, but time namespace isn't enabled in the config"},
		{"clock", offsets("realtime", 1, time), "linux.timeOffsets.realtime: unknown clock, expected boottime or monotonic"},
		{"nanoseconds", offsets("monotonic", 1e9, time), "linux.timeOffsets.monotonic.nanosecs: 1000000000: expected less than 1000000000"},
		{"user", add(specs.LinuxNamespace{Type: "user"}), "User namespaces enabled, but no uid mappings found."},
		{"mount path", func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "mount", Path: "/proc/1/ns/mnt"}}
		}, "a mount namespace of the host cannot be joined"},
		{"propagation", func(s *specs.Spec) { s.Linux.RootfsPropagation = "ro" }, "rootfsPropagation=ro is not supported"},
		{"sysctl of the kernel", sysctl("kernel.core_pattern", "|x"), `sysctl "kernel.core_pattern" is not in a separate kernel namespace`},
		{"sysctl out of net", sysctl("net/../kernel/core_pattern", "|x"), ""}, // a dot is a slash to crun
		{"sysctl hostname", sysctl("kernel/hostname", "x"), `sysctl "kernel/hostname" is not allowed`},
		{"action", seccomp(specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_FOO"}), "string SCMP_ACT_FOO is not a valid action for seccomp"},
		{"notify", seccomp(specs.LinuxSeccomp{DefaultAction: specs.ActNotify}), "the host cannot serve a listener"},
		{"flag", seccomp(specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"X"}}), `seccomp flag "X" not supported`},
		{"operator", seccomp(specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Op: "X"}}}}}), "string X is not a valid operator for seccomp"},
		{"cgroup.procs", unified("cgroup.procs"), "the runtime's own business"},
		{"unified path", unified("../memory.max"), "not the name of a controller's file"},
		{"unified slash", unified("memory.max/../../cgroup.procs"), "not the name of a controller's file"},
		{"device rule", func(s *specs.Spec) {
			s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Type: "x"}}
		}, `unknown device type "x"`},
		{"device access", func(s *specs.Spec) {
			s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Access: "rx"}}
		}, `"rx" is not of r, w and m`},
		{"rlimit", func(s *specs.Spec) { s.Process.Rlimits[0].Type = "RLIMIT_FOO" }, "wrong rlimit value: RLIMIT_FOO"},
		{"rlimit twice", func(s *specs.Spec) { s.Process.Rlimits = append(s.Process.Rlimits, s.Process.Rlimits[0]) }, "a second RLIMIT_NOFILE"},
		{"too many mounts", func(s *specs.Spec) { s.Mounts = make([]specs.Mount, maxMounts+1) }, "4097 are more than 4096"},
		{"too large", func(s *specs.Spec) { s.Process.Env = []string{"X=" + strings.Repeat("x", maxGuestSpec)} }, "the guest's specification has"},
		{"NUL in env", func(s *specs.Spec) { s.Process.Env = []string{"A=b\x00c"} }, "process.env[0]: contains a NUL byte"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, guest, err := guestOf(tt.change)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if guest.Linux.CgroupsPath != "/vc/c1" {
				t.Errorf("cgroup %s", guest.Linux.CgroupsPath)
			}
		})
	}
}

// TestNetworkSysctl wants the VM's own network namespace in the guest's
// specification exactly where crun asks for one.
func TestNetworkSysctl(t *testing.T) {
	vm := specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/proc/self/ns/net"}
	_, guest, err := guestOf(func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net.ipv4.ping_group_range": "0 0"} })
	if err != nil || !slices.Contains(guest.Linux.Namespaces, vm) {
		t.Errorf("with one: %v, %v", guest, err)
	}
	_, guest, err = guestOf(func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.msgmax": "1"} })
	if err != nil || slices.Contains(guest.Linux.Namespaces, vm) || guest.Linux.Sysctl["kernel.msgmax"] != "1" {
		t.Errorf("without: %v, %v", guest, err)
	}
}

// TestNotify: the socket is added in the guest only.
func TestNotify(t *testing.T) {
	spec := DefaultSpec()
	mounts, env := len(spec.Mounts), slices.Clone(spec.Process.Env)
	g, err := (&Bundle{Spec: spec}).guest(GuestOptions{ID: testID, Notify: true}, fakeHost{})
	if err != nil {
		t.Fatal(err)
	}
	var got specs.Spec
	if err := json.Unmarshal(g.Spec, &got); err != nil {
		t.Fatal(err)
	}
	want := specs.Mount{Destination: "/run/notify", Type: "bind", Source: "notify", Options: []string{"bind", "nosuid", "noexec", "nodev", "ro"}}
	if diff := cmp.Diff(want, got.Mounts[len(got.Mounts)-1]); diff != "" || len(got.Mounts) != mounts+1 {
		t.Errorf("mount (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(append(env, "NOTIFY_SOCKET=/run/notify/notify.sock"), got.Process.Env); diff != "" {
		t.Errorf("env (-want +got):\n%s", diff)
	}
	if len(spec.Mounts) != mounts || !slices.Equal(spec.Process.Env, env) || len(g.Binds) != 0 {
		t.Error("the bundle has changed, or something is shared")
	}
}

// TestPodNamespaces shares what the role and the paths of the bundle ask for.
func TestPodNamespaces(t *testing.T) {
	own := specs.LinuxNamespace{Type: specs.IPCNamespace}
	joined := specs.LinuxNamespace{Type: specs.IPCNamespace, Path: "/proc/7/ns/ipc"}
	shm := specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "/sandboxes/p1/shm", Options: []string{"rbind"}}
	for _, tt := range []struct {
		name string
		opts GuestOptions
		ipc  []specs.LinuxNamespace // of the bundle
		path string                 // in the guest
		shm  string
	}{
		{"alone", GuestOptions{Role: Single}, []specs.LinuxNamespace{own}, "", "shm"},
		{"alone, with a path", GuestOptions{Role: Single}, []specs.LinuxNamespace{joined}, "", "shm"},
		{"sandbox", GuestOptions{Role: Sandbox}, []specs.LinuxNamespace{own}, "pod", "pod/shm"},
		{"sandbox, pinned by the caller", GuestOptions{Role: Sandbox}, []specs.LinuxNamespace{joined}, "pod", "pod/shm"},
		{"member", GuestOptions{Role: Member}, []specs.LinuxNamespace{joined}, "pod", "pod/shm"},
		{"member in the host's", GuestOptions{Role: Member}, nil, "pod", "pod/shm"},
		{"member for itself", GuestOptions{Role: Member}, []specs.LinuxNamespace{own}, "", "shm"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := DefaultSpec()
			spec.Linux.Namespaces = append([]specs.LinuxNamespace{{Type: specs.NetworkNamespace}}, tt.ipc...)
			spec.Mounts = []specs.Mount{shm}
			tt.opts.ID, tt.opts.PIDOf = testID, "p1"
			g, err := (&Bundle{Spec: spec}).guest(tt.opts, fakeHost{})
			if err != nil {
				t.Fatal(err)
			}
			var got specs.Spec
			if err := json.Unmarshal(g.Spec, &got); err != nil {
				t.Fatal(err)
			}
			paths := make(map[specs.LinuxNamespaceType]string)
			for _, ns := range got.Linux.Namespaces {
				paths[ns.Type] = ns.Path
			}
			if paths[specs.IPCNamespace] != tt.path || paths[specs.PIDNamespace] != "container/p1" {
				t.Errorf("namespaces %v", paths)
			}
			if m := got.Mounts[0]; m.Type != "tmpfs" || m.Source != tt.shm || !slices.Contains(m.Options, "size=67108864") {
				t.Errorf("/dev/shm is %+v", m)
			}
		})
	}
}

func TestGuestProcess(t *testing.T) {
	out, left, err := GuestProcess([]byte(`{"args":["id"],"cwd":"/","apparmorProfile":"p","selinuxLabel":"l","x":1,
		"rlimits":[{"type":"RLIMIT_NOFILE","hard":2000000,"soft":1024}],"user":{"uid":1,"gid":2,"umask":18}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"user":{"uid":1,"gid":2,"umask":18},"args":["id"],"cwd":"/","rlimits":[{"type":"RLIMIT_NOFILE","hard":1048576,"soft":1024}]}`
	if string(out) != want {
		t.Errorf("got  %s\nwant %s", out, want)
	}
	if len(left) != 3 || !has(left, "process.apparmorProfile") || !has(left, "process.selinuxLabel") || !has(left, "process.rlimits[0]") {
		t.Errorf("dropped: %v", left)
	}
	for in, want := range map[string]string{
		`null`:                           ErrNoProcess.Error(),
		`{"args":["a"],"cwd":"x"}`:       ErrRelativeCwd.Error(),
		`{"cwd":"/"}`:                    ErrNoArgs.Error(),
		`{"args":["a"`:                   "process, line 1, column 12: unexpected end of JSON input",
		`{"args":["a\u0000"],"cwd":"/"}`: "process.args[0]: contains a NUL byte",
		`{"args":["a"],"cwd":"/","ioPriority":{"class":"x"}}`:                            `process.ioPriority.class: unknown class "x"`,
		`{"args":["a"],"cwd":"/","ioPriority":{"class":"IOPRIO_CLASS_BE","priority":8}}`: "process.ioPriority.priority: 8: expected 0 to 7",
		`{"args":["a"],"cwd":"/","scheduler":{"policy":"SCHED_ISO"}}`:                    `process.scheduler.policy: unknown policy "SCHED_ISO"`,
		`{"args":["a"],"cwd":"/","scheduler":{"policy":"SCHED_RR","priority":-1}}`:       "process.scheduler.priority: -1: expected 0 to 99",
		`{"args":["a"],"cwd":"/","scheduler":{"policy":"SCHED_RR","flags":["x"]}}`:       `process.scheduler.flags[0]: unknown flag "x"`,
		`{"args":["a"],"cwd":"/","rlimits":[{}]}`:                                        "wrong rlimit value: ",
		`{"args":["a"],"cwd":"/","user":{"uid":-1}}`:                                     "process, line 1, column 40: json: cannot unmarshal number -1 into Go struct field User.user.uid of type uint32",
	} {
		if _, _, err := GuestProcess([]byte(in)); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", in, err, want)
		}
	}
}

func TestGuestResources(t *testing.T) {
	out, left, err := GuestResources([]byte(`{"memory":{"limit":1048576,"swap":0,"swappiness":5},"cpu":{"shares":1,"cpus":"0"},"pids":{}}`))
	if want := `{"memory":{"limit":1048576},"cpu":{},"unified":{"cpu.weight":"1"}}`; err != nil || string(out) != want {
		t.Errorf("got %s, %v, want %s", out, err, want)
	}
	if len(left) != 1 || !has(left, "linux.resources.memory.swappiness") {
		t.Errorf("dropped: %v", left)
	}
	if out, _, err := GuestResources([]byte(`null`)); err != nil || string(out) != "{}" {
		t.Errorf("null: %s, %v", out, err)
	}
}

// A block device of the host becomes a disk of the VM, with what the rules of
// its number leave to the container.
func TestBlockDevices(t *testing.T) {
	mode, uid := fs.FileMode(0o640|0o60000), uint32(7)
	eight, zero, any := int64(8), int64(0), int64(-1)
	rule := func(allow bool, kind string, major, minor *int64, access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: major, Minor: minor, Access: access}
	}
	deny := rule(false, "", nil, nil, "rwm")
	tests := map[string]struct {
		rules []specs.LinuxDeviceCgroup
		want  string // access, "" for a disk that is left out
	}{
		"read and write":  {[]specs.LinuxDeviceCgroup{deny, rule(true, "b", &eight, &zero, "rwm")}, "rwm"},
		"read-only":       {[]specs.LinuxDeviceCgroup{deny, rule(true, "b", &eight, &zero, "r")}, "r"},
		"taken back":      {[]specs.LinuxDeviceCgroup{deny, rule(true, "b", &eight, &any, ""), rule(false, "b", &eight, &zero, "w")}, "rm"},
		"no rule":         {[]specs.LinuxDeviceCgroup{deny, rule(true, "c", &eight, &zero, "rwm")}, ""},
		"another device":  {[]specs.LinuxDeviceCgroup{deny, rule(true, "b", &eight, &eight, "rwm")}, ""},
		"denied after it": {[]specs.LinuxDeviceCgroup{rule(true, "b", &eight, &zero, "rwm"), deny}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			g, guest, err := guestOf(func(s *specs.Spec) {
				s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/data", Type: "b", Major: 8, FileMode: &mode, UID: &uid}}
				s.Linux.Resources.Devices = tt.rules
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(guest.Linux.Devices) != 0 {
				t.Errorf("the guest is told of the host's number: %+v", guest.Linux.Devices)
			}
			for _, r := range guest.Linux.Resources.Devices {
				if r.Type == "b" && r.Minor != nil {
					t.Errorf("a rule for the host's number reaches the guest: %+v", r)
				}
			}
			if tt.want == "" {
				if len(g.Disks) != 0 || !has(g.Dropped, "linux.devices[0]") {
					t.Errorf("got %+v, dropped %+v", g.Disks, g.Dropped)
				}
				return
			}
			want := disk.Disk{
				Major: 8, ReadOnly: !strings.Contains(tt.want, "w"),
				Node: &disk.Node{Path: "/dev/data", Mode: 0o640, UID: 7, Access: tt.want},
			}
			if diff := cmp.Diff([]disk.Disk{want}, g.Disks); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, path := range []string{"data", "/dev/../data", "/"} {
		_, _, err := guestOf(func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: path, Type: "b", Major: 8}}
		})
		if err == nil || !strings.Contains(err.Error(), "not a clean absolute path") {
			t.Errorf("path %q: %v", path, err)
		}
	}
}

func TestGuestChecksID(t *testing.T) {
	if _, err := (&Bundle{Spec: DefaultSpec()}).guest(GuestOptions{ID: "../x"}, fakeHost{}); err == nil {
		t.Error("an id with a path is accepted")
	}
}
