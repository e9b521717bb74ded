package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"syscall"
)

// errSpec marks a spec, a name or a tag that the agent refuses.
var errSpec = fmt.Errorf("refused: %w", syscall.EINVAL)

var (
	nameForm = regexp.MustCompile(`^[A-Za-z0-9_+.-]{1,255}$`)
	// bindForm is the only form of a bind source: a numbered entry of the
	// share.
	bindForm = regexp.MustCompile(`^m/(0|[1-9][0-9]{0,5})$`)
	nsForm   = regexp.MustCompile(`^/proc/([1-9][0-9]{0,9}|self)/ns/(cgroup|ipc|net|pid|user|uts)$`)
)

// rootSource is the only form of root.path.
const rootSource = "rootfs"

// kernelMounts are the types of mount that take nothing from outside the
// container.
var kernelMounts = map[string]bool{
	"proc": true, "sysfs": true, "tmpfs": true, "devpts": true, "mqueue": true, "cgroup": true, "cgroup2": true,
}

// checkName accepts names of containers and processes, and tags: they become
// file names and arguments.
func checkName(what, name string) error {
	if !nameForm.MatchString(name) || name == "." || name == ".." || name[0] == '-' {
		return fmt.Errorf("%s %.300q: %w", what, name, errSpec)
	}
	return nil
}

// object is a JSON object of which only some members are looked at; the rest
// is passed on as it is.
type object map[string]json.RawMessage

// get decodes a member into v; a member that is missing leaves v alone.
func (o object) get(key string, v any) error {
	raw, ok := o[key]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%s: %w (%w)", key, errSpec, err)
	}
	return nil
}

func (o object) set(key string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	o[key] = raw
	return nil
}

// places is what of the guest a container gets.
type places struct {
	share   string // folder of the bind sources
	rootfs  string
	cgroup  string // linux.cgroupsPath
	devices []device
	files   map[string][]byte // texts over files in /etc
	texts   string            // folder that has them
	user    string            // who the process is, if not empty
}

// guestSpec is what the agent learns of a spec while it rewrites it.
type guestSpec struct {
	config []byte // the rewritten config.json
	arg0   string
}

// confineSpec rewrites a config.json of the host for crun: root.path and the
// bind sources get the share's folder in front, the cgroup becomes cgroupsPath.
// It refuses whatever would reach anything else of the guest.
func confineSpec(config []byte, at places, terminal bool) (*guestSpec, error) {
	var spec object
	if err := json.Unmarshal(config, &spec); err != nil {
		return nil, fmt.Errorf("decode spec: %w (%w)", errSpec, err)
	}
	if spec == nil {
		return nil, fmt.Errorf("empty spec: %w", errSpec)
	}
	// Annotations of the form run.oci.* steer crun; the others mean nothing
	// in the guest.
	delete(spec, "annotations")
	// crun 1.8.1 takes 1.0.x only (libcrun_container_create: "unknown
	// version specified"); later versions of the spec add optional members.
	err := errors.Join(
		spec.set("ociVersion", "1.0.2"),
		confineHooks(spec),
		confineRoot(spec, at.rootfs),
		confineMounts(spec, at.share),
		confineLinux(spec, at.cgroup, at.devices),
	)
	if err != nil {
		return nil, err
	}
	if err := addFiles(spec, at.texts, at.files); err != nil {
		return nil, err
	}
	var process object
	if err := spec.get("process", &process); err != nil {
		return nil, err
	}
	if err := setUser(process, at.rootfs, at.user); err != nil {
		return nil, err
	}
	arg0, err := setTerminal(process, terminal)
	if err != nil {
		return nil, err
	}
	if err := spec.set("process", process); err != nil {
		return nil, err
	}
	out, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	return &guestSpec{config: out, arg0: arg0}, nil
}

// confineHooks lets startContainer hooks through, which run inside the
// container. All others would run in the guest.
func confineHooks(spec object) error {
	var hooks object
	if err := spec.get("hooks", &hooks); err != nil {
		return err
	}
	for kind := range hooks {
		if kind != "startContainer" {
			return fmt.Errorf("hooks.%.100s in the guest: %w", kind, errSpec)
		}
	}
	if len(hooks) == 0 {
		delete(spec, "hooks")
		return nil
	}
	return spec.set("hooks", hooks)
}

func confineRoot(spec object, rootfs string) error {
	var root object
	var path string
	if err := errors.Join(spec.get("root", &root), root.get("path", &path)); err != nil {
		return err
	}
	if path != rootSource {
		return fmt.Errorf("root.path %q, want %q: %w", path, rootSource, errSpec)
	}
	return errors.Join(
		root.set("path", rootfs),
		spec.set("root", root),
	)
}

func confineMounts(spec object, share string) error {
	var mounts []object
	if err := spec.get("mounts", &mounts); err != nil {
		return err
	}
	for i, m := range mounts {
		if err := confineMount(m, share); err != nil {
			return fmt.Errorf("mounts[%d]: %w", i, err)
		}
	}
	if mounts == nil {
		return nil
	}
	return spec.set("mounts", mounts)
}

func confineMount(m object, share string) error {
	var source, fstype string
	var options []string
	err := errors.Join(m.get("source", &source), m.get("type", &fstype), m.get("options", &options))
	if err != nil {
		return err
	}
	bind := fstype == "bind"
	for _, o := range options {
		bind = bind || o == "bind" || o == "rbind"
	}
	switch {
	case m == nil:
		return fmt.Errorf("null: %w", errSpec)
	case bind && bindForm.MatchString(source):
		return m.set("source", filepath.Join(share, source))
	case bind:
		return fmt.Errorf("bind source %.300q: %w", source, errSpec)
	case !kernelMounts[fstype]:
		return fmt.Errorf("type %.300q: %w", fstype, errSpec)
	}
	return nil
}

func confineLinux(spec object, cgroupsPath string, devices []device) error {
	var linux object
	if err := spec.get("linux", &linux); err != nil {
		return err
	}
	if linux == nil {
		linux = object{}
	}
	var namespaces []object
	if err := linux.get("namespaces", &namespaces); err != nil {
		return err
	}
	for _, ns := range namespaces {
		var path string
		if err := ns.get("path", &path); err != nil {
			return err
		}
		if path != "" && !nsForm.MatchString(path) {
			return fmt.Errorf("namespace path %.300q: %w", path, errSpec)
		}
	}
	if namespaces != nil {
		// Written anew: of members with one name, this parser and crun's
		// need not take the same.
		if err := linux.set("namespaces", namespaces); err != nil {
			return err
		}
	}
	return errors.Join(addDevices(linux, devices), linux.set("cgroupsPath", cgroupsPath), spec.set("linux", linux))
}

// confineProcess checks an OCI process object for exec, and gives it back with
// the program it runs.
func confineProcess(b []byte, terminal bool) (out []byte, arg0 string, err error) {
	var process object
	if err := json.Unmarshal(b, &process); err != nil {
		return nil, "", fmt.Errorf("decode process: %w (%w)", errSpec, err)
	}
	if arg0, err = setTerminal(process, terminal); err != nil {
		return nil, "", err
	}
	out, err = json.Marshal(process)
	return out, arg0, err
}

// setTerminal makes process.terminal agree with the streams that the host
// asked for, and gives the program.
func setTerminal(process object, terminal bool) (arg0 string, err error) {
	var args []string
	if err := process.get("args", &args); err != nil {
		return "", err
	}
	if len(args) == 0 || args[0] == "" {
		return "", fmt.Errorf("process without args: %w", errSpec)
	}
	return args[0], process.set("terminal", terminal)
}
