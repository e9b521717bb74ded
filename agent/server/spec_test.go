package server

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
)

const share = "/run/vc/containers/c/share"

func confine(config string) (*guestSpec, error) {
	at := places{
		share: share, rootfs: share + "/rootfs", cgroup: "/vc/c", pod: fakePod{},
		notify:       func() (string, error) { return "/notify/of/c", nil },
		pidNamespace: func(name string) (string, error) { return "/pid/of/" + name, nil },
	}
	spec, err := confineSpec([]byte(config), at, false)
	if err != nil {
		return nil, err
	}
	return spec, spec.fit(at)
}

// fakePod says what it was asked for.
type fakePod struct{}

func (fakePod) Namespace(kind string) (string, error) { return "/pod/" + kind, nil }
func (fakePod) Shm(data string) (string, error)       { return "/shm/with/" + data, nil }

func TestConfineSpec(t *testing.T) {
	got, err := confine(`{
		"ociVersion": "1.2.0", "extra": [1, 2],
		"annotations": {"run.oci.hooks.stdout": "/dev/vda"},
		"process": {"args": ["/bin/x", "y"], "cwd": "/", "terminal": true},
		"root": {"path": "rootfs", "readonly": true},
		"hooks": {"startContainer": [{"path": "/bin/x"}]},
		"mounts": [
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/data", "type": "bind", "source": "m/12", "options": ["rbind", "ro"]},
			{"destination": "/x", "source": "m/0", "options": ["bind"]}
		],
		"linux": {"cgroupsPath": "user.slice:a:b", "namespaces": [{"type": "pid"}, {"type": "ipc", "path": "pod"},
			{"type": "network", "path": "/proc/self/ns/net"}]}
	}`)
	if err != nil {
		t.Fatal(err)
	}
	if got.arg0 != "/bin/x" {
		t.Errorf("arg0 %q", got.arg0)
	}
	want := `{"extra":[1,2],"hooks":{"startContainer":[{"path":"/bin/x"}]},` +
		`"linux":{"cgroupsPath":"/vc/c","namespaces":[{"type":"pid"},{"path":"/pod/ipc","type":"ipc"},{"path":"/proc/self/ns/net","type":"network"}]},` +
		`"mounts":[{"destination":"/proc","source":"proc","type":"proc"},` +
		`{"destination":"/data","options":["rbind","ro"],"source":"` + share + `/m/12","type":"bind"},` +
		`{"destination":"/x","options":["bind"],"source":"` + share + `/m/0"}],` +
		`"ociVersion":"1.0.2",` +
		`"process":{"args":["/bin/x","y"],"cwd":"/","terminal":false},` +
		`"root":{"path":"` + share + `/rootfs","readonly":true}}`
	if string(got.config) != want {
		t.Errorf("got  %s\nwant %s", got.config, want)
	}
}

// TestConfinePod resolves what the containers of a pod share.
func TestConfinePod(t *testing.T) {
	got, err := confine(`{"process":{"args":["x"]},"root":{"path":"rootfs"},
		"mounts": [{"destination": "/run/notify", "source": "notify", "options": ["bind"]}, {"destination": "/dev/shm", "type": "tmpfs", "source": "pod/shm", "options": ["nosuid", "mode=1777", "size=65536"]}],
		"linux": {"namespaces": [{"type": "uts", "path": "pod"}, {"type": "pid", "path": "container/p.1"}]}}`)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"linux":{"cgroupsPath":"/vc/c","namespaces":[{"path":"/pod/uts","type":"uts"},{"path":"/pid/of/p.1","type":"pid"}]},` +
		`"mounts":[{"destination":"/run/notify","options":["bind"],"source":"/notify/of/c"},{"destination":"/dev/shm","options":["bind","nosuid"],"source":"/shm/with/mode=1777,size=65536","type":"bind"}],` +
		`"ociVersion":"1.0.2","process":{"args":["x"],"terminal":false},"root":{"path":"` + share + `/rootfs"}}`
	if string(got.config) != want {
		t.Errorf("got  %s\nwant %s", got.config, want)
	}
}

// TestConfineNamespaces: a time namespace is the agent's to make, and one of
// users needs one with a path beside it.
func TestConfineNamespaces(t *testing.T) {
	const network = `{"path":"/proc/self/ns/net","type":"network"}`
	for _, tt := range []struct {
		linux, want string
		clocks      clocks
	}{
		{`"namespaces":[{"type":"pid"},{"type":"time"}],"timeOffsets":{"monotonic":{"secs":-7},"boottime":{"secs":3,"nanosecs":5}}`,
			`{"type":"pid"}`, clocks("boottime 3 5\nmonotonic -7 0\n")},
		{`"namespaces":[{"type":"time"},{"type":"pid"}]`, `{"type":"pid"}`, clocks{}},
		{`"namespaces":[{"type":"pid"}],"timeOffsets":{"boottime":{"secs":3}}`, `{"type":"pid"}`, nil},
		{`"namespaces":[{"type":"user"}]`, `{"type":"user"},` + network, nil},
		{`"namespaces":[` + network + `,{"type":"user"}]`, network + `,{"type":"user"}`, nil},
	} {
		got, err := confine(`{"process":{"args":["x"]},"root":{"path":"rootfs"},"linux":{` + tt.linux + `}}`)
		if err != nil {
			t.Errorf("%s: %v", tt.linux, err)
			continue
		}
		if !strings.Contains(string(got.config), `"linux":{"cgroupsPath":"/vc/c","namespaces":[`+tt.want+`]}`) {
			t.Errorf("%s: got %s", tt.linux, got.config)
		}
		if string(got.clocks) != string(tt.clocks) || (got.clocks == nil) != (tt.clocks == nil) {
			t.Errorf("%s: clocks %q", tt.linux, got.clocks)
		}
	}
}

func TestConfineSpecRefuses(t *testing.T) {
	for name, config := range map[string]string{
		"no JSON":             `{`,
		"null":                `null`,
		"no object":           `[]`,
		"no root":             `{"process":{"args":["x"]}}`,
		"absolute root":       `{"process":{"args":["x"]},"root":{"path":"/"}}`,
		"root above":          `{"process":{"args":["x"]},"root":{"path":"rootfs/../.."}}`,
		"no process":          `{"root":{"path":"rootfs"}}`,
		"no args":             `{"process":{"args":[]},"root":{"path":"rootfs"}}`,
		"hooks":               `{"process":{"args":["x"]},"root":{"path":"rootfs"},"hooks":{"prestart":[{"path":"/bin/sh"}]}}`,
		"absolute bind":       bind(`{"type":"bind","source":"/"}`),
		"bind of the rootfs":  bind(`{"type":"bind","source":"rootfs"}`),
		"bind above":          bind(`{"type":"bind","source":"m/../.."}`),
		"bind below":          bind(`{"type":"bind","source":"m/0/x"}`),
		"bind by option":      bind(`{"type":"tmpfs","source":"/etc","options":["rbind"]}`),
		"bind without source": bind(`{"type":"bind"}`),
		"a file system":       bind(`{"type":"ext4","source":"/dev/vda"}`),
		"virtiofs":            bind(`{"type":"virtiofs","source":"t1"}`),
		"no type":             bind(`{"source":"x"}`),
		"null mount":          bind(`null`),
		"namespace file":      `{"process":{"args":["x"]},"root":{"path":"rootfs"},"linux":{"namespaces":[{"type":"pid","path":"/etc/x"}]}}`,
		"a pid":               `{"process":{"args":["x"]},"root":{"path":"rootfs"},"linux":{"namespaces":[{"type":"ipc","path":"/proc/17/ns/ipc"}]}}`,
		"network of the pod":  `{"process":{"args":["x"]},"root":{"path":"rootfs"},"linux":{"namespaces":[{"type":"network","path":"pod"}]}}`,
		"ipc of a container":  `{"process":{"args":["x"]},"root":{"path":"rootfs"},"linux":{"namespaces":[{"type":"ipc","path":"container/c"}]}}`,
		"bind of shm":         bind(`{"type":"bind","source":"pod/shm"}`),
		"time namespace":      `{"process":{"args":["x"]},"root":{"path":"rootfs"},"linux":{"namespaces":[{"type":"time","path":"/proc/1/ns/time"}]}}`,
		"a clock":             `{"process":{"args":["x"]},"root":{"path":"rootfs"},"linux":{"namespaces":[{"type":"time"}],"timeOffsets":{"realtime":{"secs":1}}}}`,
		"a clock of nothing":  `{"process":{"args":["x"]},"root":{"path":"rootfs"},"linux":{"timeOffsets":{"boottime":null}}}`,
		"lines of a clock":    `{"process":{"args":["x"]},"root":{"path":"rootfs"},"linux":{"timeOffsets":{"boottime 1 1\nmonotonic":{"secs":1}}}}`,
		"mount namespace":     `{"process":{"args":["x"]},"root":{"path":"rootfs"},"linux":{"namespaces":[{"type":"mount","path":"/proc/1/ns/mnt"}]}}`,
	} {
		if _, err := confine(config); !errors.Is(err, errSpec) {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
}

func bind(mount string) string {
	return `{"process":{"args":["x"]},"root":{"path":"rootfs"},"mounts":[` + mount + `]}`
}

func TestConfineProcess(t *testing.T) {
	passwd := func() ([]byte, error) { return []byte("root:x:0:0::/root:/bin/sh\nuser:x:7:7::/home/user:\n"), nil }
	got, err := confineProcess([]byte(`{"args":["a"],"cwd":"/x"}`), true, passwd)
	if err != nil || got.arg0 != "a" || string(got.config) != `{"args":["a"],"cwd":"/x","env":["HOME=/root"],"terminal":true}` {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, in := range []string{``, `null`, `{}`, `{"args":[""]}`, `{"args":"a"}`} {
		if _, err := confineProcess([]byte(in), false, passwd); !errors.Is(err, errSpec) {
			t.Errorf("%s: %v, want a refusal", in, err)
		}
	}
}

func TestSetHome(t *testing.T) {
	passwd := func() ([]byte, error) {
		return []byte("short:line\nuser:x:7:7::/home/user:/bin/sh\nnone:x:8:8:::\nlater:x:7:7::/other:\n"), nil
	}
	missing := func() ([]byte, error) { return nil, os.ErrNotExist }
	for _, tt := range []struct {
		process, want string
		passwd        func() ([]byte, error)
	}{
		{`{"user":{"uid":7}}`, `["HOME=/home/user"]`, passwd},
		{`{"user":{"uid":8}}`, `["HOME=/"]`, passwd},
		{`{"user":{"uid":9},"env":["A=1"]}`, `["A=1","HOME=/"]`, passwd},
		{`{"env":["HOME=","A=1"]}`, `["A=1","HOME=/"]`, missing},
		{`{"user":{"uid":7},"env":["HOME=/x"]}`, `["HOME=/x"]`, passwd},
	} {
		process := decoded(t, tt.process)
		if err := setHome(process, tt.passwd); err != nil || encoded(t, process["env"]) != tt.want {
			t.Errorf("%s: env %s, %v; expected %s", tt.process, process["env"], err, tt.want)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "A_+.-9", ".hidden", "...", strings.Repeat("x", 255)} {
		if err := checkName("container", name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", "a b", "-a", "a\n", "\x00", "ä", strings.Repeat("x", 256)} {
		if err := checkName("container", name); !errors.Is(err, errSpec) {
			t.Errorf("%q: %v, want a refusal", name, err)
		}
	}
}

// FuzzConfineSpec: whatever is let through has no path of the guest in it but
// those below the share.
func FuzzConfineSpec(f *testing.F) {
	f.Add(bind(`{"type":"bind","source":"m/1","options":["bind"]}`))
	f.Add(bind(`{"type":"proc","Type":"bind","source":"proc"}`))
	f.Add(bind(`{"source":"notify","options":["bind"]},{"type":"tmpfs","source":"pod/shm"}`))
	f.Add(`{"process":{"args":["x"]},"root":{"path":"rootfs"},"linux":{"timeOffsets":{"boottime":{"secs":-1}},"namespaces":[{"type":"time"},{"type":"user"},{"type":"ipc","path":"pod"},{"type":"pid","path":"container/c"}]}}`)
	f.Fuzz(func(t *testing.T, config string) {
		got, err := confine(config)
		if err != nil {
			return
		}
		// Maps, since crun's parser tells upper from lower case.
		var spec, root, linux, hooks map[string]json.RawMessage
		var mounts, namespaces []map[string]any
		var rootPath, cgroup string
		decode := func(raw json.RawMessage, v any) {
			if raw == nil {
				return
			}
			if err := json.Unmarshal(raw, v); err != nil {
				t.Fatal(err)
			}
		}
		decode(got.config, &spec)
		decode(spec["root"], &root)
		decode(root["path"], &rootPath)
		decode(spec["linux"], &linux)
		decode(linux["cgroupsPath"], &cgroup)
		decode(linux["namespaces"], &namespaces)
		decode(spec["mounts"], &mounts)
		decode(spec["hooks"], &hooks)
		delete(hooks, "startContainer")
		if rootPath != share+"/rootfs" || cgroup != "/vc/c" || len(hooks) > 0 {
			t.Errorf("let through: %s", got.config)
		}
		for _, m := range mounts {
			fstype, _ := m["type"].(string)
			source, _ := m["source"].(string)
			ours := strings.HasPrefix(source, share+"/m/") || strings.HasPrefix(source, "/shm/with/") || source == "/notify/of/c"
			if !kernelMounts[fstype] && !ours {
				t.Errorf("let through: %s", got.config)
			}
		}
		for _, ns := range namespaces {
			if path, _ := ns["path"].(string); path != "" && !strings.HasPrefix(path, "/pod/") && !strings.HasPrefix(path, "/pid/of/") && path != guestNetwork || ns["type"] == "time" {
				t.Errorf("let through: %s", got.config)
			}
		}
	})
}
