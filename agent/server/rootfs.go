package server

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/mountpoint"
)

// maxPasswd bounds how much of a container's /etc/passwd is read, in bytes.
const maxPasswd = 1 << 20

// mountFields are the members of a mount that matter for its mount point.
type mountFields struct {
	Destination, Source, Type string
	Options                   []string
}

// prepareRootfs does in a confined spec, and in the rootfs, what runc does and
// crun does not: mount points of mode 0755, also where a symlink dangles, a
// tmpfs with the mode of the folder that it covers, and HOME for every user.
func prepareRootfs(tree *mountpoint.Tree, spec, process object) error {
	var linux object
	var mounts []object
	var uids, gids []idMapping
	if err := errors.Join(spec.get("linux", &linux), spec.get("mounts", &mounts)); err != nil {
		return err
	}
	if err := errors.Join(linux.get("uidMappings", &uids), linux.get("gidMappings", &gids)); err != nil {
		return err
	}
	tree.UID, tree.GID = rootOf(uids), rootOf(gids)
	for i, m := range mounts {
		if err := prepareMount(tree, m); err != nil {
			return fmt.Errorf("mounts[%d]: %w", i, err)
		}
	}
	return setHome(process, func() ([]byte, error) { return tree.ReadFile("/etc/passwd", maxPasswd) })
}

func prepareMount(tree *mountpoint.Tree, m object) error {
	var f mountFields
	err := errors.Join(m.get("destination", &f.Destination), m.get("source", &f.Source), m.get("type", &f.Type), m.get("options", &f.Options))
	if err != nil {
		return err
	}
	from, file := "", false
	if slices.Contains(f.Options, "bind") || slices.Contains(f.Options, "rbind") { // confined by now
		from = f.Source
		st, err := os.Lstat(from)
		if err != nil {
			return nil // crun says so
		}
		file = !st.IsDir()
	}
	before, err := tree.Mount(filepath.Join("/", f.Destination), from, file)
	if err != nil || before == 0 || f.Type != "tmpfs" || from != "" || slices.ContainsFunc(f.Options, isMode) {
		return nil // what cannot be made is left to crun, which has the better text
	}
	m["options"] = append(f.Options, fmt.Sprintf("mode=%o", before))
	return nil
}

func isMode(option string) bool { return strings.HasPrefix(option, "mode=") }

type idMapping struct {
	ContainerID, HostID, Size int
}

// rootOf gives what the container's root is outside of its user namespace.
func rootOf(mappings []idMapping) int {
	for _, m := range mappings {
		if m.ContainerID == 0 && m.Size > 0 {
			return m.HostID
		}
	}
	return 0
}

// setHome sets HOME where the environment has none, or an empty one: to what
// passwd says of the user, or "/".
func setHome(process object, passwd func() ([]byte, error)) error {
	var env []string
	var user struct{ UID uint32 }
	if err := errors.Join(process.get("env", &env), process.get("user", &user)); err != nil {
		return err
	}
	for i, v := range slices.Backward(env) {
		if value, ok := strings.CutPrefix(v, "HOME="); ok && value != "" {
			return nil
		} else if ok {
			env = slices.Delete(env, i, i+1)
		}
	}
	home := "/"
	if b, err := passwd(); err == nil {
		home = homeOf(b, user.UID)
	}
	process["env"] = append(env, "HOME="+home)
	return nil
}

// homeOf looks a user up in a passwd file (passwd(5)).
func homeOf(passwd []byte, uid uint32) string {
	for line := range bytes.Lines(passwd) {
		f := strings.Split(strings.TrimSuffix(string(line), "\n"), ":")
		if len(f) < 6 {
			continue
		}
		if n, err := strconv.ParseUint(f[2], 10, 32); err == nil && uint32(n) == uid && f[5] != "" && !strings.Contains(f[5], "\x00") {
			return f[5]
		}
	}
	return "/"
}

// passwdOf reads /etc/passwd as a process of a running container sees it.
func passwdOf(pid int) ([]byte, error) {
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, "etc/passwd", &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "etc/passwd")
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(err, unix.EINVAL)
	}
	buf := make([]byte, maxPasswd)
	n, err := f.Read(buf)
	return buf[:n], err
}
