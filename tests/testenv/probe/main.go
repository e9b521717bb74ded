// Probe runs inside of containers and does what busybox's shell cannot.
package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// probes are the sub-commands; each gets one path, a URL or a name.
var probes = map[string]func(path string) error{
	"tree":    tree,
	"mmap":    sharedMapping,
	"tmpfile": tmpfile,
	"rename":  renameFlags,
	"lock":    locks,
	"remount": remount,
	"unlink":  unlinked,
	"status":  status,
	"network": network,
	"get":     get,
	"replace": replace,
	"notify":  notify,
	"names":   names,
	"leave":   leave,
}

func main() {
	if len(os.Args) != 3 || probes[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: probe NAME PATH")
		os.Exit(2)
	}
	if err := probes[os.Args[1]](os.Args[2]); err != nil {
		fmt.Fprintf(os.Stderr, "probe %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
	fmt.Println("probe", os.Args[1], "ok")
}

// status shows the identity and the capabilities in /proc/self/status.
func status(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(b) {
		if bytes.HasPrefix(line, []byte("Uid:")) || bytes.HasPrefix(line, []byte("Gid:")) || bytes.HasPrefix(line, []byte("Cap")) {
			os.Stdout.Write(line)
		}
	}
	return nil
}

// network says at once what network there is: of the interface called as the
// last element of path whether it is up, its first address, and the gateway of the
// default route (proc(5), /proc/net/route).
func network(path string) error {
	i, err := net.InterfaceByName(filepath.Base(path))
	if err != nil {
		return err
	}
	addresses, err := i.Addrs()
	if err != nil {
		return err
	}
	routes, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return err
	}
	var first, gateway string
	for _, a := range addresses[:min(1, len(addresses))] {
		first = a.String()
	}
	for line := range bytes.Lines(routes) {
		var name string
		var destination, by uint32
		if _, err := fmt.Sscanf(string(line), "%s %x %x", &name, &destination, &by); err == nil && name == i.Name && destination == 0 {
			gateway = net.IP(binary.LittleEndian.AppendUint32(nil, by)).String()
		}
	}
	up := "down"
	if i.Flags&net.FlagUp != 0 && i.Flags&net.FlagRunning != 0 {
		up = "up"
	}
	fmt.Printf("%s %s, %s, by %s\n", i.Name, up, first, gateway)
	return nil
}

// replace says how long it takes until a file of a volume is seen to be another
// one. path is the file, a colon, and a folder in which the host is asked to replace
// the file: it does when it finds the file "ask" there, and says so by the file
// "done".
//
// What counts is when a look at the file begins, by this one process's clock: a
// machine that is short of time only makes looks rarer. An old answer to one
// that has begun more than staleLimit after "done" was there is an error.
func replace(path string) error {
	file, folder, _ := strings.Cut(path, ":")
	old, err := os.ReadFile(file) // known from now on
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "ask"), nil, 0o644); err != nil {
		return err
	}
	for {
		if _, err := os.Stat(filepath.Join(folder, "done")); err == nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	for done := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		begun := time.Since(done)
		now, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if !bytes.Equal(now, old) {
			fmt.Printf("%s after %d ms\n", now, begun.Milliseconds())
			return nil
		}
		if begun > staleLimit {
			return fmt.Errorf("still %q to a look that has begun %s after the file was replaced", now, begun)
		}
	}
}

// staleLimit is the promise. A guest relies on what it knows of a file for half of
// it.
const staleLimit = time.Second

// get shows what a web server answers.
func get(url string) error {
	res, err := http.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(os.Stdout, res.Body)
	return err
}

// tree makes one of each kind of file in a folder.
func tree(dir string) error {
	in := func(name string) string { return filepath.Join(dir, name) }
	var errs []error
	step := func(name string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	unix.Umask(0)
	step("owned", os.WriteFile(in("owned"), []byte("content\n"), 0o640))
	step("chown", os.Chown(in("owned"), 1000, 1000))
	step("setuid", os.WriteFile(in("setuid"), []byte("#!\n"), 0o755))
	step("chmod", unix.Chmod(in("setuid"), 0o4755))
	step("folder", unix.Mkdir(in("folder"), 0o1777))
	step("symlink", os.Symlink("../anywhere", in("symlink")))
	step("hard link", os.Link(in("owned"), in("hardlink")))
	step("fifo", unix.Mkfifo(in("fifo"), 0o600))
	step("device", unix.Mknod(in("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	step("socket", socket(in("socket")))
	step("xattr", unix.Setxattr(in("owned"), "user.colour", []byte("green"), 0))
	step("sparse", sparse(in("sparse")))
	step("times", unix.UtimesNanoAt(unix.AT_FDCWD, in("setuid"), []unix.Timespec{
		{Sec: 1_000_000_000, Nsec: 123456789}, {Sec: 1_100_000_000, Nsec: 987654321}}, 0))
	return errors.Join(errs...)
}

// socket leaves a unix socket that answers as long as it is listened on.
func socket(path string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	return c.Close()
}

// sparse makes a file of 1 GiB with 4 KiB at its end.
func sparse(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte("x"), 4096), 1<<30-4096); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

// sharedMapping writes a file through a shared mapping.
func sharedMapping(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(8192); err != nil {
		return err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	copy(m, "first")
	copy(m[4096:], "second")
	if err := unix.Msync(m, unix.MS_SYNC); err != nil {
		return fmt.Errorf("msync: %w", err)
	}
	return unix.Munmap(m)
}

// tmpfile makes a file without a name in a folder and then gives it one. A
// file system may lack that, and then must say so.
func tmpfile(dir string) error {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD,
		filepath.Join(dir, "named"), unix.AT_SYMLINK_FOLLOW)
}

// renameFlags uses the flags of renameat2(2).
func renameFlags(dir string) error {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := errors.Join(os.WriteFile(a, []byte("a"), 0o644), os.WriteFile(b, []byte("b"), 0o644)); err != nil {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_NOREPLACE); !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("RENAME_NOREPLACE: %v, expected EEXIST", err)
	}
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		return fmt.Errorf("RENAME_EXCHANGE: %w", err)
	}
	got, err := os.ReadFile(a)
	if err != nil || string(got) != "b" {
		return fmt.Errorf("after RENAME_EXCHANGE a has %q: %v", got, err)
	}
	return nil
}

// locks takes the three kinds of locks, and is refused a second one.
func locks(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	g, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer g.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("flock: %w", err)
	}
	if err := unix.Flock(int(g.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("second flock: %v, expected EWOULDBLOCK", err)
	}
	all := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &all); err != nil {
		return fmt.Errorf("OFD lock: %w", err)
	}
	if err := unix.FcntlFlock(g.Fd(), unix.F_OFD_SETLK, &all); !errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("second OFD lock: %v, expected EAGAIN", err)
	}
	return nil
}

// notify says on a socket of sd_notify(3) what does not matter to anybody, then
// that this is ready, and then more.
func notify(path string) error {
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		return err
	}
	defer c.Close()
	long := bytes.Repeat([]byte("STATUS=long\n"), 1000)
	for _, text := range []string{"STATUS=READY=1", "MAINPID=1\nFDSTORE=1", "", string(long), "READY=1\nMAINPID=1\nSTATUS=up"} {
		if _, err := c.Write([]byte(text)); err != nil {
			return err
		}
	}
	// It is not the container's: what others do with it is not at risk.
	if err := os.Remove(path); !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("remove the socket: %v, expected EROFS", err)
	}
	return nil
}

// remount tries to make a read-only mount writable, and then to write into it.
// It gives an error where that works.
func remount(dir string) error {
	err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND, "")
	fmt.Println("remount:", err)
	err = os.WriteFile(filepath.Join(dir, "broken"), []byte("x"), 0o644)
	if !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("write after remount: %v, expected EROFS", err)
	}
	return nil
}

// unlinked uses a file that has lost its name.
func unlinked(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Remove(path); err != nil {
		return err
	}
	if _, err := f.WriteString("0123456789"); err != nil {
		return err
	}
	if err := f.Truncate(5); err != nil {
		return fmt.Errorf("truncate: %w", err)
	}
	b := make([]byte, 10)
	if n, _ := f.ReadAt(b, 0); string(b[:n]) != "01234" {
		return fmt.Errorf("read %q", b[:n])
	}
	st, err := f.Stat()
	if err == nil && st.Size() != 5 {
		err = fmt.Errorf("size %d", st.Size())
	}
	return err
}
