package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/vc-runtime/vc-runtime/agent/mountpoint"
)

// errSpec marks a spec, a name or a tag that the agent refuses.
var errSpec = fmt.Errorf("refused: %w", syscall.EINVAL)

var (
	nameForm = regexp.MustCompile(`^[A-Za-z0-9_+.-]{1,255}$`)
	// bindForm is the only form of a bind source: a numbered entry of the
	// share.
	bindForm = regexp.MustCompile(`^m/(0|[1-9][0-9]{0,5})$`)
	// shmData is what a tmpfs for shared memory may be told.
	shmData = regexp.MustCompile(`^(mode=[0-7]{3,4}|size=[0-9]{1,19})$`)
)

// What a spec names things by that are the agent's to find.
const (
	// rootSource is the only form of root.path.
	rootSource = "rootfs"
	// podSource is the path of an IPC or UTS namespace that is the pod's.
	podSource = "pod"
	// podShmSource is the source of a tmpfs that is the pod's shared memory.
	podShmSource = "pod/shm"
	// notifySource is the source of a bind mount that is the folder of the
	// container's socket for sd_notify(3).
	notifySource = "notify"
	// containerSource, with the name of a container behind it, is the path of
	// a pid namespace that is that container's.
	containerSource = "container/"
	// guestNetwork is the only path of a network namespace: the guest's own.
	guestNetwork = "/proc/self/ns/net"
)

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

// places is what of the guest a container gets.
type places struct {
	share   string // folder of the bind sources
	rootfs  string
	cgroup  string // linux.cgroupsPath
	devices []device
	files   map[string][]byte // texts over files in /etc
	texts   string            // folder that has them
	user    string            // who the process is, if not empty
	tree    *mountpoint.Tree  // the rootfs, to be prepared; nil leaves it alone
	pod     Pod
	// notify makes the folder of the socket for sd_notify(3).
	notify func() (string, error)
	// pidNamespace gives the path of a container's pid namespace.
	pidNamespace func(container string) (string, error)
}

// guestSpec is what the agent learns of a spec while it rewrites it.
type guestSpec struct {
	config   []byte // the rewritten config.json, or process
	spec     object // what config is to be made of
	arg0     string
	priority priority
	clocks   clocks
}

// confineSpec rewrites a config.json of the host for crun: root.path and the
// bind sources get the share's folder in front, the cgroup becomes the
// container's, and what the containers of a pod share is found by its name. It
// refuses whatever would reach anything else of the guest. Nothing of the rootfs
// is looked at, which need not be there yet: fit follows when it is.
func confineSpec(config []byte, at places, terminal bool) (*guestSpec, error) {
	spec, err := decodeObject(config)
	if err != nil {
		return nil, fmt.Errorf("decode spec: %w", err)
	}
	if spec == nil {
		return nil, fmt.Errorf("empty spec: %w", errSpec)
	}
	// Annotations of the form run.oci.* steer crun; the others mean nothing
	// in the guest.
	delete(spec, "annotations")
	// crun 1.8.1 takes 1.0.x only (libcrun_container_create: "unknown
	// version specified"); later versions of the spec add optional members.
	spec["ociVersion"] = "1.0.2"
	err = errors.Join(
		confineHooks(spec),
		confineRoot(spec, at.rootfs),
		confineMounts(spec, at),
	)
	if err != nil {
		return nil, err
	}
	clocks, err := confineLinux(spec, at)
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
	arg0, err := setTerminal(process, terminal)
	if err != nil {
		return nil, err
	}
	priority, err := takePriority(process)
	if err != nil {
		return nil, err
	}
	return &guestSpec{spec: spec, arg0: arg0, priority: priority, clocks: clocks}, nil
}

// fit makes the config.json of a confined spec, by what its rootfs and its disks
// are.
func (s *guestSpec) fit(at places) error {
	var linux, process object
	if err := errors.Join(s.spec.get("linux", &linux), s.spec.get("process", &process)); err != nil {
		return err
	}
	if err := addDevices(linux, at.devices); err != nil {
		return err
	}
	if err := setUser(process, at.rootfs, at.user); err != nil {
		return err
	}
	if at.tree != nil {
		if err := prepareRootfs(at.tree, s.spec, process); err != nil {
			return err
		}
	}
	var err error
	s.config, err = json.Marshal(s.spec)
	return err
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
	}
	return nil
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
	root["path"] = rootfs
	return nil
}

func confineMounts(spec object, at places) error {
	var mounts []object
	if err := spec.get("mounts", &mounts); err != nil {
		return err
	}
	for i, m := range mounts {
		if err := confineMount(m, at); err != nil {
			return fmt.Errorf("mounts[%d]: %w", i, err)
		}
	}
	return nil
}

func confineMount(m object, at places) error {
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
		m["source"] = filepath.Join(at.share, source)
	case bind && source == notifySource:
		dir, err := at.notify()
		if err != nil {
			return err
		}
		m["source"] = dir
	case !bind && fstype == "tmpfs" && source == podShmSource:
		return bindShm(m, options, at.pod)
	case bind:
		return fmt.Errorf("bind source %.300q: %w", source, errSpec)
	case !kernelMounts[fstype]:
		return fmt.Errorf("type %.300q: %w", fstype, errSpec)
	}
	return nil
}

// bindShm makes a bind mount of the pod's shared memory out of a tmpfs of it.
func bindShm(m object, options []string, pod Pod) error {
	flags, data := []string{"bind"}, []string{}
	for _, o := range options {
		if shmData.MatchString(o) {
			data = append(data, o)
		} else {
			flags = append(flags, o)
		}
	}
	dir, err := pod.Shm(strings.Join(data, ","))
	if err != nil {
		return err
	}
	m["type"], m["source"], m["options"] = "bind", dir, flags
	return nil
}

// confineLinux gives the clocks of a time namespace, which is the agent's to
// make.
func confineLinux(spec object, at places) (clocks, error) {
	var linux object
	if err := spec.get("linux", &linux); err != nil {
		return nil, err
	}
	if linux == nil {
		linux = object{}
		spec["linux"] = linux
	}
	k, err := takeClocks(linux)
	if err != nil {
		return nil, err
	}
	own, err := confineNamespaces(linux, at)
	if err != nil {
		return nil, err
	}
	if !own {
		k = nil
	}
	linux["cgroupsPath"] = at.cgroup
	return k, nil
}

// confineNamespaces says whether there is a time namespace, which it takes out.
func confineNamespaces(linux object, at places) (time bool, err error) {
	var namespaces []object
	if err := linux.get("namespaces", &namespaces); err != nil || namespaces == nil {
		return false, err
	}
	kept := []object{}
	kinds := make(map[string]bool)
	for i, ns := range namespaces {
		kind, err := confineNamespace(ns, at)
		if err != nil {
			return false, fmt.Errorf("linux.namespaces[%d]: %w", i, err)
		}
		if kinds[kind] = true; kind != "time" {
			kept = append(kept, ns)
		}
	}
	// Where a namespace has a path, crun's exec opens all of the process's before
	// it enters the user namespace. From there it could not open those of a
	// process that is only created, nor enter those that belong to the guest.
	if kinds["user"] && !kinds["network"] {
		kept = append(kept, object{"type": "network", "path": guestNetwork})
	}
	linux["namespaces"] = kept
	return kinds["time"], nil
}

// confineNamespace resolves the path of a namespace, and gives its kind.
func confineNamespace(ns object, at places) (kind string, err error) {
	var path string
	if err := errors.Join(ns.get("type", &kind), ns.get("path", &path)); err != nil {
		return "", err
	}
	container, isContainer := strings.CutPrefix(path, containerSource)
	switch {
	case path == "", kind == "network" && path == guestNetwork:
		return kind, nil
	case path == podSource && (kind == "ipc" || kind == "uts"):
		path, err = at.pod.Namespace(kind)
	case isContainer && kind == "pid":
		path, err = at.pidNamespace(container)
	default:
		err = fmt.Errorf("path %.300q of type %.100q: %w", path, kind, errSpec)
	}
	if err != nil {
		return "", err
	}
	ns["path"] = path
	return kind, nil
}

// confineProcess checks an OCI process object for exec, and gives it back with
// the program it runs.
// passwd reads the container's /etc/passwd.
func confineProcess(b []byte, terminal bool, passwd func() ([]byte, error)) (*guestSpec, error) {
	process, err := decodeObject(b)
	if err != nil {
		return nil, fmt.Errorf("decode process: %w", err)
	}
	arg0, err := setTerminal(process, terminal)
	if err != nil {
		return nil, err
	}
	if err := setHome(process, passwd); err != nil {
		return nil, err
	}
	priority, err := takePriority(process)
	if err != nil {
		return nil, err
	}
	out, err := json.Marshal(process)
	return &guestSpec{config: out, arg0: arg0, priority: priority}, err
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
	process["terminal"] = terminal
	return args[0], nil
}
