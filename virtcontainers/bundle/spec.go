// Package bundle makes the bundles of containers that are run from images: a
// folder with a config.json made of the image's configuration and the user's
// wishes, and the disk that takes what the container writes. It runs in the
// command.
package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"slices"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/virtcontainers/oci"
)

// Options are what a user asks for beside the image; zero values leave it to
// the image.
type Options struct {
	ID       string
	Hostname string
	// Args take the place of the image's command, Entrypoint of its entry point;
	// an Entrypoint that is not nil but empty takes it away.
	Args       []string
	Entrypoint []string
	// Env is added: NAME=VALUE.
	Env      []string
	Workdir  string
	Terminal bool
	Volumes  []Volume
	// Memory is the limit in bytes, CPUs in CPUs.
	Memory int64
	CPUs   float64
	// ReadOnly makes the rootfs read-only.
	ReadOnly    bool
	Annotations map[string]string
	Hooks       *specs.Hooks
}

// Volume is a folder or file of the host in the container.
type Volume struct {
	Source, Destination string // absolute
	ReadOnly            bool
}

// defaultPath is the PATH of an image that has none: docker's.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// capabilities are docker's and podman's, which images are made for.
var capabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// stopSignal is the annotation for the signal that ends an image's process
// politely (image-spec, "Conversion to OCI Runtime Configuration").
const stopSignal = "org.opencontainers.image.stopSignal"

// Spec gives the config.json of a container made from an image (image-spec,
// conversion.md). Its user is not in it: only the rootfs knows the names.
func Spec(img *v1.Image, o Options) (*specs.Spec, error) {
	s := oci.DefaultSpec()
	s.Root = &specs.Root{Path: rootfsName, Readonly: o.ReadOnly}
	s.Hostname = o.Hostname
	s.Annotations = annotations(img, o)
	s.Hooks = o.Hooks
	p := s.Process
	p.Terminal = o.Terminal
	p.Rlimits, p.NoNewPrivileges = nil, false
	// No ambient ones: a process that is not root gets none, as with docker.
	p.Capabilities = &specs.LinuxCapabilities{
		Bounding: capabilities, Effective: capabilities, Permitted: capabilities,
	}
	var err error
	if p.Args, err = args(&img.Config, o); err != nil {
		return nil, err
	}
	if p.Env, err = env(&img.Config, o); err != nil {
		return nil, err
	}
	if p.Cwd, err = workdir(&img.Config, o); err != nil {
		return nil, err
	}
	for _, v := range o.Volumes {
		m, err := v.mount()
		if err != nil {
			return nil, err
		}
		s.Mounts = append(s.Mounts, m)
	}
	declared, err := Declared(img)
	if err != nil {
		return nil, err
	}
	for _, dir := range declared {
		taken := slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return path.Clean(m.Destination) == dir })
		if o.ReadOnly && !taken {
			// What is in it, and can be written to: as with docker.
			s.Mounts = append(s.Mounts, specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: dir, Options: []string{"nosuid", "nodev", "tmpcopyup"}})
		}
	}
	return s, limits(s.Linux.Resources, o)
}

// Declared are the folders that the image declares to be volumes, sorted. They are
// the container's own, and are there even where no layer has them.
func Declared(img *v1.Image) ([]string, error) {
	var dirs []string
	for dir := range img.Config.Volumes {
		clean := path.Clean(dir)
		if !path.IsAbs(dir) || clean == "/" {
			return nil, fmt.Errorf("volume %q of the image: expected an absolute path of a folder", dir)
		}
		dirs = append(dirs, clean)
	}
	slices.Sort(dirs)
	return slices.Compact(dirs), nil
}

// args puts entry point and command together as docker does: who replaces the
// entry point does not want the image's command.
func args(c *v1.ImageConfig, o Options) ([]string, error) {
	entry, cmd := c.Entrypoint, c.Cmd
	if o.Entrypoint != nil {
		entry, cmd = o.Entrypoint, nil
	}
	if len(o.Args) > 0 {
		cmd = o.Args
	}
	all := slices.Concat(entry, cmd)
	if len(all) == 0 {
		return nil, errors.New("the image names no command: expected one after its name")
	}
	return all, nil
}

// env is the image's environment with the user's over it.
func env(c *v1.ImageConfig, o Options) ([]string, error) {
	var all []string
	index := make(map[string]int)
	add := func(variable string) {
		name, _, _ := strings.Cut(variable, "=")
		if i, ok := index[name]; ok {
			all[i] = variable
			return
		}
		index[name] = len(all)
		all = append(all, variable)
	}
	add(defaultPath)
	add("HOSTNAME=" + o.Hostname)
	if o.Terminal {
		add("TERM=xterm")
	}
	for _, v := range slices.Concat(c.Env, o.Env) {
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" {
			return nil, fmt.Errorf("environment variable %q: expected NAME=VALUE", v)
		}
		add(v)
	}
	return all, nil
}

func workdir(c *v1.ImageConfig, o Options) (string, error) {
	dir := o.Workdir
	if dir == "" {
		dir = c.WorkingDir
	}
	if dir == "" {
		return "/", nil
	}
	if !path.IsAbs(dir) {
		return "", fmt.Errorf("working directory %q: expected an absolute path", dir)
	}
	return path.Clean(dir), nil
}

func (v Volume) mount() (specs.Mount, error) {
	for _, p := range []string{v.Source, v.Destination} {
		if !path.IsAbs(p) {
			return specs.Mount{}, fmt.Errorf("volume %s:%s: %q: expected an absolute path", v.Source, v.Destination, p)
		}
	}
	m := specs.Mount{Type: "bind", Source: v.Source, Destination: v.Destination, Options: []string{"rbind", "rprivate"}}
	if v.ReadOnly {
		m.Options = append(m.Options, "ro")
	}
	return m, nil
}

// cpuPeriod is the period that a number of CPUs is a quota of, in µs.
const cpuPeriod = 100_000

func limits(r *specs.LinuxResources, o Options) error {
	if o.Memory < 0 {
		return fmt.Errorf("memory %d: expected a number of bytes", o.Memory)
	}
	if o.Memory > 0 {
		r.Memory = &specs.LinuxMemory{Limit: &o.Memory}
	}
	if o.CPUs < 0 || math.IsNaN(o.CPUs) || o.CPUs > math.MaxInt32 || o.CPUs > 0 && o.CPUs < 0.01 {
		return fmt.Errorf("cpus %v: expected a number of at least 0.01", o.CPUs)
	}
	if o.CPUs > 0 {
		quota, period := int64(o.CPUs*cpuPeriod), uint64(cpuPeriod)
		r.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	return nil
}

// annotations are the image's labels and the user's over them. Those that would
// steer the runtime are not an image's to set.
func annotations(img *v1.Image, o Options) map[string]string {
	all := make(map[string]string)
	for name, value := range img.Config.Labels {
		if !strings.HasPrefix(name, "io.vc-runtime.") && !strings.HasPrefix(name, "io.kubernetes.") && !strings.HasPrefix(name, "org.systemd.") {
			all[name] = value
		}
	}
	if img.Config.StopSignal != "" {
		all[stopSignal] = img.Config.StopSignal
	}
	for name, value := range o.Annotations {
		all[name] = value
	}
	return all
}

// rootfsName is the bundle's rootfs: an empty folder, which the layers stand in
// for in the guest.
const rootfsName = "rootfs"

// filePerm is for what only root is to read.
const filePerm fs.FileMode = 0o600
