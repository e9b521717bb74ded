package crun

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// seals are those that crun wants to see on its own program
// (CRUN_MEMFD_SEALS of its cloned_binary.c).
const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// Seal moves the program into a memory file that nobody can write to any more
// (memfd_create(2), file sealing). Without it each run of crun copies itself
// into such a file and starts once more, so that no container can overwrite the
// program through /proc/<pid>/exe (CVE-2019-5736). The file at Path is gone
// afterwards. Not to be called while crun runs.
func (r *Runtime) Seal() error {
	src, err := os.Open(r.Path)
	if err != nil {
		return fmt.Errorf("seal crun: %w", err)
	}
	defer src.Close()
	fd, err := unix.MemfdCreate("crun", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("seal crun: memfd_create: %w", err)
	}
	sealed := os.NewFile(uintptr(fd), "crun")
	if err := fill(sealed, src); err != nil {
		return errors.Join(fmt.Errorf("seal crun: %w", err), sealed.Close())
	}
	if err := os.Remove(r.Path); err != nil {
		return errors.Join(fmt.Errorf("seal crun: %w", err), sealed.Close())
	}
	r.sealed = sealed
	r.Path = fmt.Sprintf("/proc/self/fd/%d", fd)
	return nil
}

// fill copies a program and seals it.
func fill(sealed, src *os.File) error {
	if _, err := io.Copy(sealed, src); err != nil {
		return err
	}
	if err := unix.Fchmod(int(sealed.Fd()), 0o755); err != nil {
		return err
	}
	_, err := unix.FcntlInt(sealed.Fd(), unix.F_ADD_SEALS, seals)
	return err
}
