package share

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// scratchSize is how much the rootfs of a scratch share holds.
const scratchSize = "1m"

// Program is where a scratch share has its program, in the rootfs.
const Program = "/bin/program"

// StartScratch is Start for a share with nothing of the host in it: its rootfs is
// a small tmpfs with one program, which lives in the server's mount namespace only.
// It is for who is no shim: the server ends with the calling process, whatever
// ends that, and at the latest when the machine at its socket does. End ends it
// before.
func StartScratch(ctx context.Context, server, cache string, program []byte, dir, name string) (*Server, error) {
	return Start(ctx, &Config{Server: server, Cache: cache, program: program}, dir, name)
}

// End ends the server, and returns when it, and with it every mount of the share,
// has gone.
func (s *Server) End(ctx context.Context) error {
	s.Socket.Close() // which may have been closed
	if err := s.proc.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill the file server: %w", err)
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of the file server: %w", ctx.Err())
	}
}

// processAttr makes the server of a scratch share what a shim is to the others:
// the PID 1 of a pid namespace, with which its child ends.
func (c *Config) processAttr() *syscall.SysProcAttr {
	if c.program == nil {
		return &syscall.SysProcAttr{Setpgid: true}
	}
	return &syscall.SysProcAttr{Setpgid: true, Cloneflags: unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
}

// openRoot gives a detached mount of what is to be the share's rootfs.
func openRoot(cfg *Config) (int, error) {
	if cfg.program == nil {
		return openTree(Bind{Source: cfg.Rootfs, Recursive: true})
	}
	root, err := newMount("tmpfs", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, "size", scratchSize, "mode", "0755")
	if err != nil {
		return -1, err
	}
	if err := writeProgram(root, cfg.program); err != nil {
		unix.Close(root)
		return -1, fmt.Errorf("make a scratch share: %w", err)
	}
	return root, nil
}

func writeProgram(root int, program []byte) error {
	if err := unix.Mkdirat(root, "bin", 0o755); err != nil {
		return &os.PathError{Op: "mkdir", Path: "bin", Err: err}
	}
	fd, err := unix.Openat(root, Program[1:], unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o755)
	if err != nil {
		return &os.PathError{Op: "open", Path: Program, Err: err}
	}
	f := os.NewFile(uintptr(fd), Program)
	_, err = f.Write(program)
	return errors.Join(err, f.Close())
}
