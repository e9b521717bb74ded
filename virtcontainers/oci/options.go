package oci

import (
	"fmt"
	"strings"
)

// mountOptions is what the options of a mount say.
type mountOptions struct {
	guest []string // for the guest's runtime, without bind and rbind

	recursive                   bool // of a bind mount: rbind
	readOnly, recursiveReadOnly bool
	propagation                 Propagation
}

// mountFlags are the options that crun 1.8 takes as flags, with what the guest
// gets: the recursive form of an attribute is the plain one there, because
// nothing is mounted below in the guest.
var mountFlags = map[string]string{
	"ro": "ro", "rw": "rw", "suid": "suid", "nosuid": "nosuid", "dev": "dev", "nodev": "nodev",
	"exec": "exec", "noexec": "noexec", "sync": "sync", "async": "async", "dirsync": "dirsync",
	"mand": "mand", "nomand": "nomand", "atime": "atime", "noatime": "noatime",
	"diratime": "diratime", "nodiratime": "nodiratime", "relatime": "relatime",
	"norelatime": "norelatime", "strictatime": "strictatime", "nostrictatime": "nostrictatime",

	"rro": "ro", "rrw": "rw", "rsuid": "suid", "rnosuid": "nosuid", "rdev": "dev", "rnodev": "nodev",
	"rexec": "exec", "rnoexec": "noexec", "ratime": "atime", "rnoatime": "noatime",
	"rdiratime": "diratime", "rnodiratime": "nodiratime", "rrelatime": "relatime",
	"rnorelatime": "norelatime", "rstrictatime": "strictatime", "rnostrictatime": "nostrictatime",
}

// mountPropagation are the options that set a mount's propagation.
var mountPropagation = map[string]Propagation{
	"private": Private, "rprivate": Private, "slave": Slave, "rslave": Slave,
	"shared": Shared, "rshared": Shared, "unbindable": Unbindable, "runbindable": Unbindable,
}

// mountRefused are options that would change the meaning of the mount.
var mountRefused = map[string]string{
	"remount": "there is nothing to remount yet",
	"idmap":   "the guest's virtiofs cannot map ids",
	"ridmap":  "the guest's virtiofs cannot map ids",
}

// labels are the options of an SELinux label; the guest's kernel has none.
var labels = set("context", "fscontext", "defcontext", "rootcontext", "seclabel")

// readOptions reads a mount's options; later ones win. What is unknown is an
// error, but for bind mounts, where runc ignores it too. What says nothing of
// propagation is a slave, as all that runc mounts.
func (r *report) readOptions(options []string, field string, fsys filesystem) (mountOptions, error) {
	o := mountOptions{propagation: Slave}
	for i, opt := range options {
		at := fmt.Sprintf("%s.options[%d]", field, i)
		flag, isFlag := mountFlags[opt]
		propagation, isPropagation := mountPropagation[opt]
		key, _, _ := strings.Cut(opt, "=")
		switch {
		case opt == "defaults" || opt == "":
		case opt == "bind" || opt == "rbind":
			o.recursive = opt == "rbind"
		case isFlag:
			o.setReadOnly(opt)
			o.guest = append(o.guest, flag)
		case isPropagation:
			o.propagation = propagation
			o.guest = append(o.guest, opt)
		case mountRefused[opt] != "":
			return o, fmt.Errorf("%s %q: %s", at, opt, mountRefused[opt])
		case labels[key]:
			r.drop(at, "the guest's kernel has no SELinux")
		case fsys.data[key]:
			o.guest = append(o.guest, opt)
		case fsys.kind == "bind":
			r.drop(at, fmt.Sprintf("%q says nothing for a bind mount", opt))
		default:
			return o, fmt.Errorf("%s %q: unknown for type %s", at, opt, fsys.kind)
		}
	}
	return o, nil
}

func (o *mountOptions) setReadOnly(opt string) {
	switch opt {
	case "ro":
		o.readOnly = true
	case "rro":
		o.readOnly, o.recursiveReadOnly = true, true
	case "rw", "rrw":
		o.readOnly, o.recursiveReadOnly = false, false
	}
}
