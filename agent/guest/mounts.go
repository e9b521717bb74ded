package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// CgroupRoot is where the cgroup v2 tree is.
const CgroupRoot = "/sys/fs/cgroup"

// ContainersCgroup is the folder below CgroupRoot that holds the containers'.
const ContainersCgroup = "vc"

type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

const nosuid = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV

// early is what the agent itself needs to find its channel.
var early = []mount{
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	{"proc", "/proc", "proc", nosuid, ""},
	{"sysfs", "/sys", "sysfs", nosuid, ""},
}

// late is what containers need.
var late = []mount{
	{"cgroup2", CgroupRoot, "cgroup2", nosuid, ""},
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"},
	{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"mqueue", "/dev/mqueue", "mqueue", nosuid, ""},
	{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
}

func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data)
	if err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount %s on %s: %w", m.fstype, m.target, err)
	}
	return nil
}

// MoveRoot makes a mount of the initramfs and moves it over the root. The
// initramfs itself is no mount that pivot_root could move, and without that
// no OCI runtime can change the root of a container.
func MoveRoot() error {
	const stage = "/mnt"
	if err := os.MkdirAll(stage, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/", stage, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind the root: %w", err)
	}
	if err := unix.Chdir(stage); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	return unix.Chdir("/")
}

// MountEarly mounts what is needed to find the channel.
func MountEarly() error {
	for _, m := range early {
		if err := m.do(); err != nil {
			return err
		}
	}
	return nil
}

// Finish does the rest of the set-up, which no call needs before the first
// container: the remaining mounts, cgroups, loopback, limits. All steps run;
// what failed is joined.
func Finish() error {
	var errs []error
	for _, m := range late {
		errs = append(errs, m.do())
	}
	errs = append(errs,
		delegate(CgroupRoot),
		os.MkdirAll(filepath.Join(CgroupRoot, ContainersCgroup), 0o755),
		delegate(filepath.Join(CgroupRoot, ContainersCgroup)),
		onlineByItself(),
		loopbackUp(),
		unix.Sethostname([]byte("localhost")),
		raiseLimits(),
	)
	return errors.Join(errs...)
}

// delegate offers every controller of a cgroup to those below it.
func delegate(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	var on []string
	for _, c := range strings.Fields(string(b)) {
		on = append(on, "+"+c)
	}
	if len(on) == 0 {
		return nil
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(strings.Join(on, " ")), 0)
}

// loopbackUp brings up lo of the guest's own network namespace.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	return nil
}

// maxFiles is the limit of open files that containers inherit when their spec
// sets none: the kernel's default for init is 1024/4096.
const maxFiles = 1 << 20

func raiseLimits() error {
	// syscall.Setrlimit and not unix.Prlimit: it keeps the Go runtime from
	// giving the old limit back to children.
	err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: maxFiles, Max: maxFiles})
	if err != nil {
		return fmt.Errorf("raise the limit of open files: %w", err)
	}
	return nil
}
