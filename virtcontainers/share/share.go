// Package share gives a container's rootfs and bind mounts to its guest: one
// virtiofs file server for each container, run by the container's shim.
//
// No mount is ever made in the host's mount namespace. The server is started
// in a mount namespace of its own, which holds a small read-only tmpfs with
// the rootfs at "rootfs" and the bind sources at "m/0", "m/1" and so on, and
// then confines itself to that folder (its own pivot_root, seccomp filter and
// capability bounding). It is a child of the shim in the shim's pid
// namespace: the kernel kills it, and with it releases every one of those
// mounts, before the shim's pid can go away, whatever ends the shim.
package share

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/trace"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// Config says what is shared and by which server.
type Config struct {
	Server string `json:"server"` // path of virtiofsd
	Cache  string `json:"cache"`  // auto, always or never (virtiofsd(1))
	Rootfs string `json:"rootfs"`
	Binds  []Bind `json:"binds,omitempty"`

	program []byte // of a scratch share, which has it in place of Rootfs
}

// Bind is a bind mount's source; the n-th one is at "m/n" in the share.
type Bind struct {
	Source string `json:"source"`
	// Destination is the absolute path in the container.
	Destination string `json:"destination"`
	// Recursive takes the mounts below the source along.
	Recursive bool `json:"recursive,omitempty"`
	// ReadOnly makes the source's own mount read-only on the host's side,
	// RecursiveReadOnly the mounts below it as well.
	ReadOnly          bool `json:"readOnly,omitempty"`
	RecursiveReadOnly bool `json:"recursiveReadOnly,omitempty"`
	// Private leaves out what the host mounts below the source later. That would be
	// held by the server from when the guest has seen it: the host could not unmount
	// it as long as the container lives.
	Private bool `json:"private,omitempty"`
}

// Server is a running file server.
type Server struct {
	// Socket is connected to the server and speaks vhost-user; it is meant
	// for the VM.
	Socket *os.File
	proc   *os.Process
	mounts *os.File // the mount namespace that it was started in, until LeaveHost
	stderr *tail
	done   chan struct{}
	err    error
}

// Start starts the file server. dir is the sandbox's folder: it lends its
// name to the staging mount and, for a moment, to a socket called name.
func Start(ctx context.Context, cfg *Config, dir, name string) (*Server, error) {
	if err := failpoint.Here(failpoint.ShimSocket); err != nil {
		return nil, err
	}
	l, err := monitor.Listen(dir, name)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	defer os.Remove(filepath.Join(dir, name))
	conn, err := monitor.DialFor(dir, name) // waits in the backlog
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	s := &Server{stderr: &tail{limit: 4 << 10}, done: make(chan struct{})}
	if s.Socket, err = conn.File(); err != nil {
		return nil, fmt.Errorf("file server's socket: %w", err)
	}
	if err := s.spawn(ctx, cfg, dir, l); err != nil {
		s.Socket.Close()
		return nil, err
	}
	return s, nil
}

// Done is closed when the server has ended.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err says how the server ended, with the last lines that it wrote to stderr.
func (s *Server) Err() error { return s.err }

func (s *Server) spawn(ctx context.Context, cfg *Config, dir string, l *net.UnixListener) error {
	lf, err := l.File()
	if err != nil {
		return fmt.Errorf("file server's socket: %w", err)
	}
	defer lf.Close()
	errR, errW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer errW.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		errR.Close()
		return err
	}
	defer null.Close()

	started := make(chan error, 1)
	go func() {
		// The thread takes the new mount namespace along when it ends with
		// this goroutine: it is not unlocked.
		runtime.LockOSThread()
		span := trace.Begin(ctx, trace.Phase, "lay out the share")
		err := stage(cfg, dir)
		span.End()
		if err == nil {
			s.mounts, err = threadMounts()
		}
		if err != nil {
			started <- err
			return
		}
		if err := failpoint.Here(failpoint.ShimSpawnServer); err != nil {
			started <- err
			return
		}
		span = trace.Begin(ctx, trace.Spawn, "start the file server")
		s.proc, err = os.StartProcess(cfg.Server, append([]string{filepath.Base(cfg.Server)}, args(cfg, dir)...), &os.ProcAttr{
			Dir:   "/",
			Env:   []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
			Files: []*os.File{null, null, errW, lf},
			Sys:   cfg.processAttr(),
		})
		span.End()
		if err != nil {
			err = fmt.Errorf("start the file server: %w", err)
		}
		started <- err
		if err == nil && cfg.program != nil {
			<-s.done // its death signal is the end of this thread
		}
	}()
	if err := <-started; err != nil {
		errR.Close()
		return err
	}
	go s.wait(errR)
	return nil
}

func (s *Server) wait(stderr *os.File) {
	defer close(s.done)
	go s.stderr.fill(stderr)
	st, err := s.proc.Wait()
	if err != nil {
		s.err = fmt.Errorf("wait for the file server: %w", err)
		return
	}
	s.err = fmt.Errorf("the file server has ended: %s: %s", st, s.stderr)
}

// args are virtiofsd's arguments. The -o forms are understood by QEMU's own
// virtiofsd (docs/tools/virtiofsd.rst, QEMU 7.2) and, as compatibility
// options, by the later one in Rust.
func args(cfg *Config, dir string) []string {
	args := []string{
		"--fd=3",
		"-o", "source=" + dir,
		"-o", "cache=" + cacheMode(cfg.Cache),
		"-o", "sandbox=namespace",
		"-o", "xattr",
		"-o", "announce_submounts",
		"-o", "no_posix_lock", // the default; said because the guest relies on its own locks
		"--rlimit-nofile=" + strconv.FormatUint(fileLimit(), 10),
	}
	if cfg.Cache == "auto" && hasOption(cfg.Server, timeoutOption) {
		args = append(args, "-o", "timeout=0.5")
	}
	return args
}

// timeoutOption is how QEMU's virtiofsd describes to its parser for how many seconds
// the guest may rely on a name and on attributes. It is a second otherwise: then
// what the host replaces could be seen a moment later than within a second. The
// server in Rust has no such option, and refuses it.
const timeoutOption = "timeout=%lf"

// What a server is looked into with, and up to which size, in bytes. The buffer is
// small: a shim lives as long as its container.
const (
	lookBuffer = 32 << 10
	maxServer  = 16 << 20
)

// hasOption looks for the text of an option in the server's file. Asking the
// server would cost each container the run of a program.
func hasOption(server, option string) bool {
	f, err := os.Open(server)
	if err != nil {
		return false // whoever starts it says why
	}
	defer f.Close()
	r := io.LimitReader(f, maxServer)
	buf := make([]byte, lookBuffer)
	for kept := 0; ; {
		n, err := io.ReadFull(r, buf[kept:])
		if bytes.Contains(buf[:kept+n], []byte(option)) {
			return true
		}
		if err != nil {
			return false
		}
		kept = copy(buf, buf[len(buf)-len(option)+1:]) // it may lie across the end
	}
}

// cacheMode is the server's word for a configured cache.
func cacheMode(cache string) string {
	if cache == "never" {
		return "none"
	}
	return cache
}

// fileLimit is how many files the server may hold open: what this process may
// set, at most a million.
func fileLimit() uint64 {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return 0 // leaves the limit as it is
	}
	return min(lim.Max, 1_000_000)
}

// stage moves the calling thread into a new mount namespace and lays the
// share out at dir there.
func stage(cfg *Config, dir string) error {
	// The sources are opened before anything is covered by the staging mount.
	trees := make([]int, 0, 1+len(cfg.Binds))
	defer func() {
		for _, fd := range trees {
			unix.Close(fd)
		}
	}()
	root, err := openRoot(cfg)
	if err != nil {
		return err
	}
	trees = append(trees, root)
	for _, b := range cfg.Binds {
		fd, err := openTree(b)
		if err != nil {
			return err
		}
		trees = append(trees, fd)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return fmt.Errorf("new mount namespace: %w", err)
	}
	// Nothing that happens here may reach the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make the mount namespace a slave: %w", err)
	}
	if err := failpoint.Here(failpoint.ShimMount); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=1m,mode=0755"); err != nil {
		return fmt.Errorf("mount staging tmpfs: %w", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "m"), 0o755); err != nil {
		return err
	}
	for i, fd := range trees {
		target := filepath.Join(dir, "rootfs")
		if i > 0 {
			target = filepath.Join(dir, "m", strconv.Itoa(i-1))
		}
		if err := attach(fd, target); err != nil {
			return err
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("make the staging tmpfs read-only: %w", err)
	}
	return nil
}

// openTree gives a detached copy of the mount tree at the source. What the
// host mounts or unmounts below it later is followed (slave), unless it is to be
// private; what happens in the copy never reaches the host.
func openTree(b Bind) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if b.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	if err := failpoint.Here(failpoint.ShimOpenTree); err != nil {
		return -1, err
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, b.Source, flags)
	if err != nil {
		return -1, fmt.Errorf("share %s: %w", b.Source, err)
	}
	attr := unix.MountAttr{Propagation: unix.MS_SLAVE}
	if b.Private {
		attr.Propagation = unix.MS_PRIVATE
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("share %s: set its propagation: %w", b.Source, err)
	}
	if b.ReadOnly || b.RecursiveReadOnly {
		flags := uint(unix.AT_EMPTY_PATH)
		if b.RecursiveReadOnly {
			flags |= unix.AT_RECURSIVE
		}
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(fd, "", flags, &attr); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("share %s: make it read-only: %w", b.Source, err)
		}
	}
	return fd, nil
}

// attach puts a detached mount at target, in the staging folder.
func attach(fd int, target string) error {
	if err := failpoint.Here(failpoint.ShimAttach); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("share: stat: %w", err)
	}
	var err error
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.Mkdir(target, 0o755)
	} else {
		err = os.WriteFile(target, nil, 0o644)
	}
	if err != nil {
		return err
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach %s: %w", target, err)
	}
	return nil
}

// tail keeps the end of what a reader gives.
type tail struct {
	limit int
	mu    sync.Mutex
	buf   []byte
}

func (t *tail) fill(f *os.File) {
	defer f.Close()
	b := make([]byte, 1024)
	for {
		n, err := f.Read(b)
		t.mu.Lock()
		t.buf = append(t.buf, b[:n]...)
		if over := len(t.buf) - t.limit; over > 0 {
			t.buf = append(t.buf[:0], t.buf[over:]...)
		}
		t.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(strings.Split(strings.TrimSpace(string(t.buf)), "\n"), " | ")
}
