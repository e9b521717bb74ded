package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
)

const (
	sandboxVersion = 2 // 2 has Cgroup and Started
	sandboxRecord  = "sandbox.json"
	sandboxLock    = "lock"
)

// Sandbox is the record of a sandbox: which processes it consists of.
type Sandbox struct {
	// Version is that of the format; SaveSandbox sets it.
	Version int     `json:"version"`
	ID      string  `json:"id"`
	Monitor Process `json:"monitor"`
	VM      Process `json:"vm"` // zero until it runs
	// BootID is the boot that the processes belong to; this one where empty.
	BootID  string    `json:"bootID"`
	Created time.Time `json:"created"`
	// Cgroup is that of the sandbox's own on the host (package cgroup); empty
	// where its processes are in the cgroup of a container that is as long-lived.
	Cgroup json.RawMessage `json:"cgroup,omitempty"`
	// Started are the ids of the containers whose process runs, or has run: the
	// monitor writes them down, since the command that starts a container may be
	// killed before it can.
	Started []string `json:"started,omitempty"`
}

// noSandboxError is ErrNotExist for a sandbox.
type noSandboxError struct{ id string }

func (e noSandboxError) Error() string        { return "sandbox " + e.id + " does not exist" }
func (e noSandboxError) Is(target error) bool { return target == ErrNotExist }

// Sandbox reads the record of a sandbox. The processes of an earlier boot are
// left out of it. Errors are as with Container.
func (s *Store) Sandbox(id string) (*Sandbox, error) {
	if err := ValidateID(id); err != nil {
		return nil, err
	}
	sb := &Sandbox{}
	err := s.load(sandboxesDir, id, sandboxRecord, sandboxVersion, sb)
	if errors.Is(err, fs.ErrNotExist) {
		return s.claimed(id)
	}
	if err != nil {
		return nil, fmt.Errorf("read the state of sandbox %s: %w", id, err)
	}
	if sb.ID != id {
		return nil, corrupt(s.path(sandboxesDir, id, sandboxRecord), fmt.Errorf("id %q instead of %q", sb.ID, id))
	}
	if err := forgetBefore(sb.BootID, &sb.Monitor, &sb.VM); err != nil {
		return nil, err
	}
	return sb, nil
}

// claimed is the sandbox that has claimed a spare, and has no record of its own
// yet.
func (s *Store) claimed(id string) (*Sandbox, error) {
	sp, err := s.spareIn(sandboxesDir, id)
	if errors.Is(err, ErrNotExist) {
		return nil, noSandboxError{id}
	}
	if err != nil {
		return nil, err
	}
	return &Sandbox{Version: sandboxVersion, ID: id, Monitor: sp.Monitor, VM: sp.VM, BootID: sp.BootID, Created: sp.Created, Cgroup: sp.Cgroup}, nil
}

// SaveSandbox writes the record of a sandbox: first the create that spawns
// the monitor, then only the monitor.
func (s *Store) SaveSandbox(sb *Sandbox) error {
	if err := ValidateID(sb.ID); err != nil {
		return err
	}
	rec := *sb
	rec.Version = sandboxVersion
	if err := stampBoot(&rec.BootID); err != nil {
		return err
	}
	if err := s.save(sandboxesDir, sb.ID, sandboxRecord, &rec); err != nil {
		return fmt.Errorf("write the state of sandbox %s: %w", sb.ID, err)
	}
	return nil
}

// RemoveSandbox removes the folder of a sandbox that has ended, and what may
// be left in it: record, lock, sockets and the monitor's log. That there is
// none is no error. It gives ErrHeld while a monitor lives, and names files
// that are not ours in an error, and then removes nothing.
func (s *Store) RemoveSandbox(id string) error {
	held, err := s.SandboxHeld(id)
	if err != nil {
		return err
	}
	if held {
		return fmt.Errorf("remove the state of sandbox %s: %w", id, ErrHeld)
	}
	err = s.remove(sandboxesDir, id, sandboxRecord, ofMonitor)
	if err != nil {
		return fmt.Errorf("remove the state of sandbox %s: %w", id, err)
	}
	return nil
}

// ofMonitor reports whether a file in the folder of a sandbox or a spare is ours.
func ofMonitor(e fs.DirEntry) bool {
	name := e.Name()
	switch {
	case e.Type().IsRegular():
		return name == sandboxLock || name == "monitor.log" || name == spareRecord || isTemp(name, sandboxRecord) || isTemp(name, spareRecord)
	case e.Type() == fs.ModeSocket:
		return strings.HasSuffix(name, ".sock")
	}
	return false
}

// Sandboxes lists the ids of sandboxes that have a folder, sorted. The folder
// may lack a record.
func (s *Store) Sandboxes() ([]string, error) {
	ids, err := s.names(sandboxesDir)
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	return ids, nil
}

// SandboxDir is the path of a sandbox's folder, which need not exist. For an
// invalid id it is a path at which nothing ever exists.
func (s *Store) SandboxDir(id string) string {
	if ValidateID(id) != nil {
		return s.path(sandboxesDir, "(invalid id)")
	}
	return s.path(sandboxesDir, id)
}

// MakeSandboxDir makes a sandbox's folder, mode 0700, where it is missing, and
// gives its path.
func (s *Store) MakeSandboxDir(id string) (string, error) {
	if err := ValidateID(id); err != nil {
		return "", err
	}
	dir, _, err := s.makeDir(sandboxesDir, id)
	if err != nil {
		return "", fmt.Errorf("make the folder of sandbox %s: %w", id, err)
	}
	return s.SandboxDir(id), dir.Close()
}

// HoldSandbox proves that the monitor, which calls it, lives, until it closes
// the result or dies. The folder must exist. It gives ErrHeld where another
// monitor has the sandbox.
//
// The lock is an open file description lock (F_OFD_SETLK, fcntl(2)), since
// F_OFD_GETLK can tell whether one is held without taking it: with flock(2) a
// probe would have to take the lock for a moment, in which the monitor could
// not get it.
func (s *Store) HoldSandbox(id string) (io.Closer, error) {
	if err := ValidateID(id); err != nil {
		return nil, err
	}
	f, err := s.hold(sandboxesDir, id)
	if err != nil {
		return nil, fmt.Errorf("hold sandbox %s: %w", id, err)
	}
	return f, nil
}

func (s *Store) hold(kind, id string) (*os.File, error) {
	dir, err := s.open(kind, id)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	f, err := openBeneath(dir, sandboxLock, unix.O_RDWR|unix.O_CREAT)
	if err != nil {
		return nil, err
	}
	failpoint.Trace("take", sandboxLock)
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		err = ErrHeld
	}
	if err == nil {
		err = inPlace(f, s.path(kind, id, sandboxLock))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// inPlace gives an error when path is not, or no more, the file f: a lock on
// a file that has been removed is seen by nobody.
func inPlace(f *os.File, path string) error {
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	there, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(mine, there) {
		return fmt.Errorf("%s was replaced", path)
	}
	return nil
}

// SandboxHeld reports whether the sandbox's monitor lives. It neither waits
// nor gets in the monitor's way. A sandbox without a folder is not held.
func (s *Store) SandboxHeld(id string) (bool, error) {
	if err := ValidateID(id); err != nil {
		return false, err
	}
	held, err := s.sandboxHeld(id)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("test the lock of sandbox %s: %w", id, err)
	}
	return held, nil
}

func (s *Store) sandboxHeld(id string) (bool, error) {
	dir, err := s.open(sandboxesDir, id)
	if err != nil {
		return false, err
	}
	defer dir.Close()
	f, err := openBeneath(dir, sandboxLock, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return false, err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return false, err
	}
	return lock.Type != unix.F_UNLCK, nil
}
