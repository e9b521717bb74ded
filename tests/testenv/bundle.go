package testenv

import (
	"encoding/json"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Bundle is an OCI bundle.
type Bundle struct {
	ID      string // of the container; "" for any
	Dir     string
	Overlay *Overlay // nil where the rootfs is a plain folder
	Rootfs  string
	Spec    *specs.Spec
}

// Option changes a bundle's spec.
type Option func(*specs.Spec)

// Bundle makes a bundle whose rootfs is an overlay, and writes its
// config.json.
func (e *Env) Bundle(options ...Option) *Bundle {
	e.Helper()
	dir, err := os.MkdirTemp(e.Dir, "bundle-")
	if err != nil {
		e.Fatal(err)
	}
	o := e.NewOverlay(filepath.Join(filepath.Base(dir), "rootfs"))
	b := &Bundle{Dir: dir, Overlay: o, Rootfs: o.Dir, Spec: DefaultSpec()}
	return b.finish(e, options)
}

// PlainBundle makes a bundle with an empty folder as its rootfs.
func (e *Env) PlainBundle(options ...Option) *Bundle {
	e.Helper()
	dir, err := os.MkdirTemp(e.Dir, "bundle-")
	if err != nil {
		e.Fatal(err)
	}
	b := &Bundle{Dir: dir, Rootfs: filepath.Join(dir, "rootfs"), Spec: DefaultSpec()}
	if err := os.Mkdir(b.Rootfs, 0o755); err != nil {
		e.Fatal(err)
	}
	return b.finish(e, options)
}

func (b *Bundle) finish(e *Env, options []Option) *Bundle {
	e.Helper()
	for _, o := range options {
		o(b.Spec)
	}
	b.Write(e)
	return b
}

// Write writes config.json, again after a change of the spec.
func (b *Bundle) Write(e *Env) {
	e.Helper()
	j, err := json.MarshalIndent(b.Spec, "", "\t")
	if err == nil {
		err = os.WriteFile(filepath.Join(b.Dir, "config.json"), j, 0o644)
	}
	if err != nil {
		e.Fatal(err)
	}
}

// DefaultSpec is `runc spec` without a terminal and with a writable rootfs,
// running for ever.
func DefaultSpec() *specs.Spec {
	caps := []string{
		"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
		"CAP_NET_BIND_SERVICE", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
	}
	return &specs.Spec{
		Version:  "1.0.2",
		Root:     &specs.Root{Path: "rootfs"},
		Hostname: "guest",
		Process: &specs.Process{
			Args: []string{"sleep", "1000000"},
			Env:  []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"},
			Cwd:  "/",
			Capabilities: &specs.LinuxCapabilities{
				Bounding: caps, Effective: caps, Permitted: caps,
			},
			Rlimits:         []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
			NoNewPrivileges: true,
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
			},
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

// Args sets the command line.
func Args(args ...string) Option {
	return func(s *specs.Spec) { s.Process.Args = args }
}

// Shell runs a script.
func Shell(script string) Option { return Args("sh", "-c", script) }

// Terminal asks for a terminal of the given size.
func Terminal(width, height uint) Option {
	return func(s *specs.Spec) {
		s.Process.Terminal = true
		s.Process.ConsoleSize = &specs.Box{Width: width, Height: height}
	}
}

// Annotation sets an annotation.
func Annotation(key, value string) Option {
	return func(s *specs.Spec) {
		if s.Annotations == nil {
			s.Annotations = make(map[string]string)
		}
		s.Annotations[key] = value
	}
}

// Grace is how long TERM waits before it kills.
func Grace(value string) Option { return Annotation("io.vc-runtime.stop.grace", value) }

// Bind adds a bind mount.
func Bind(source, destination string, options ...string) Option {
	return func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{
			Source: source, Destination: destination, Type: "bind",
			Options: append([]string{"rbind"}, options...),
		})
	}
}

// Capabilities adds to the process's capabilities.
func Capabilities(more ...string) Option {
	return func(s *specs.Spec) {
		c := s.Process.Capabilities
		c.Bounding = append(c.Bounding, more...)
		c.Effective = append(c.Effective, more...)
		c.Permitted = append(c.Permitted, more...)
	}
}
