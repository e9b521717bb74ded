package state

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/state/filelock"
	"github.com/vc-runtime/vc-runtime/state/lifecycle"
)

// lockFile is a file that one process at a time has, by flock(2): an operation's,
// or a lock's. The kernel takes it back when its holder dies, and hands it on
// to a waiter as soon as it is free.
type lockFile struct {
	file    *flock.Flock
	path    string
	kind    string // its folder
	release sync.Once
	err     error
}

// errHeld is what take gives for a file that is not waited for.
var errHeld = errors.New("somebody else has it")

// take gets the file of an id, by (*lockFile).try or wait, and signs it.
func (s *Store) take(kind, id, sign string, get func(*lockFile) error) (*lockFile, error) {
	if err := ValidateID(id); err != nil {
		return nil, err
	}
	dir, err := s.makeKind(kind)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	keepSpare(dir)
	spared := false
	for {
		l := &lockFile{path: s.path(kind, id)}
		// The library opens the file, here so that a symlink is an error.
		l.file = flock.New(l.path, flock.SetFlag(os.O_CREATE|os.O_RDONLY|unix.O_NOFOLLOW))
		err := get(l)
		if !spared && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)) {
			spared = true
			if useSpare(dir, id) {
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		current, err := l.current()
		if err == nil && current {
			l.sign(sign)
			l.kind = kind
			failpoint.Trace("take", kind)
			return l, nil
		}
		if err := errors.Join(err, l.file.Unlock()); err != nil {
			return nil, err
		}
	}
}

// spare is a file in a folder of such files that becomes one of them where the
// file system has no room for another one: what has to be deleted then needs
// one as well. It is no id, and not removed.
const spare = "spare~"

// keepSpare makes the spare where there is none. Without room there is none for
// now.
func keepSpare(dir *os.File) {
	fd, err := unix.Openat(int(dir.Fd()), spare, unix.O_CREAT|unix.O_EXCL|unix.O_RDONLY|unix.O_CLOEXEC, 0o600)
	if err == nil {
		unix.Close(fd)
	}
}

// useSpare gives the spare the name of another one, which takes no room. It
// reports whether there is a file of that name now.
func useSpare(dir *os.File, id string) bool {
	err := unix.Renameat2(int(dir.Fd()), spare, int(dir.Fd()), id, unix.RENAME_NOREPLACE)
	return err == nil || errors.Is(err, unix.EEXIST)
}

// try gets the flock if nobody has it, and gives errHeld where somebody does.
func (l *lockFile) try() error {
	ok, err := l.file.TryLock()
	if err == nil && !ok {
		err = errHeld
	}
	return err
}

// wait gets the flock of whatever file is at the path now.
func (l *lockFile) wait(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := l.try(); !errors.Is(err, errHeld) {
		return err
	}
	err := filelock.Wait(ctx, l.file.Lock, l.giveBack)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w: %w", errHeld, err)
	}
	return err
}

// current reports whether the locked file is the one at the path. It is not
// where the last holder has removed it: then it belongs to who has the new file.
func (l *lockFile) current() (bool, error) {
	mine, err := l.file.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Lstat(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return os.SameFile(mine, there), nil
}

// giveBack is close for one that may be on a file which is not current.
func (l *lockFile) giveBack() {
	if current, err := l.current(); err == nil && current {
		l.close()
		return
	}
	l.file.Unlock()
}

// close removes the file, and gives it to the next one who waits. Only the first
// call does something; all give its error.
func (l *lockFile) close() error {
	l.release.Do(func() {
		// Removed while it is held, and only by its holder: who waits for
		// the removed file finds it gone, and begins anew.
		l.err = errors.Join(os.Remove(l.path), l.file.Unlock())
		if l.kind != "" {
			failpoint.Trace("release", l.kind)
		}
	})
	return l.err
}

// signature is the first line of such a file: what for, pid and start time.
const signature = "%s %d %d\n"

// sign writes the holder into the file, and removes what an earlier one that was
// killed has left there. The file is held without it as well: on a full disk its
// holder just cannot be named, or ended by force.
func (l *lockFile) sign(what string) {
	self, err := Self()
	if err != nil {
		return
	}
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_TRUNC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintf(f, signature, what, self.Pid, self.StartTime)
}

// signedBy reads who has the file. It is nobody where that is not known.
func signedBy(f *os.File) (what string, p Process) {
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil {
		return "", Process{} // it has not signed yet
	}
	if _, err := fmt.Sscanf(strings.TrimSpace(line), strings.TrimSpace(signature), &what, &p.Pid, &p.StartTime); err != nil {
		return "", Process{}
	}
	return what, p
}

// holder is signedBy for a path.
func (s *Store) holder(kind, id string) (what string, p Process) {
	f, err := os.OpenFile(s.path(kind, id), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", Process{}
	}
	defer f.Close()
	if what, p = signedBy(f); !p.Alive() {
		return "", Process{} // it has left the file
	}
	return what, p
}

// Leftover is the file of an operation or a lock whose holder was killed.
type Leftover struct {
	ID, Path string
	// Operation says that it is of an operation, and not of a lock.
	Operation bool
	kind      string
	s         *Store
}

// Leftovers finds what holders that were killed have left. The next one to need
// such a file uses it.
func (s *Store) Leftovers() ([]Leftover, error) {
	var left []Leftover
	for _, kind := range []string{operationsDir, sandboxLocksDir, formerDir} {
		entries, err := os.ReadDir(s.path(kind))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list %s: %w", kind, err)
		}
		for _, e := range entries {
			f := Leftover{ID: e.Name(), Path: s.path(kind, e.Name()), Operation: kind != sandboxLocksDir, kind: kind, s: s}
			if ValidateID(f.ID) != nil || !e.Type().IsRegular() {
				continue
			}
			probe := flock.New(f.Path, flock.SetFlag(os.O_RDONLY|unix.O_NOFOLLOW))
			ok, err := probe.TryLock()
			if err == nil && ok {
				left = append(left, f)
			}
			if err := probe.Unlock(); err != nil {
				return nil, fmt.Errorf("look at %s: %w", f.Path, err)
			}
		}
	}
	return left, nil
}

// Remove removes the file, unless somebody has it by now.
func (f *Leftover) Remove() error {
	l, err := f.s.take(f.kind, f.ID, string(lifecycle.OpCleanup), (*lockFile).try)
	if err != nil {
		return err
	}
	return l.close()
}
