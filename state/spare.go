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
)

const (
	sparesDir    = "spares"
	spareVersion = 1
	spareRecord  = "spare.json"
	sparesLock   = "lock" // see SparesLock
	sparesLog    = "log"  // why there is none
	// endedPrefix begins the name of a spare that nobody can claim any more.
	endedPrefix = "ended-"
)

// Spare is the record of a spare: a monitor with a machine that was started
// before anybody asked for it. Its folder becomes that of the sandbox which
// claims it, with the monitor's lock, socket and log in it.
type Spare struct {
	// Version is that of the format; SaveSpare sets it.
	Version int `json:"version"`
	// Machine and Surroundings tell for whom it is: what its machine was made
	// of, and where its processes live.
	Machine      string `json:"machine"`
	Surroundings string `json:"surroundings"`
	// Template is the key of the template that the machine is a clone of.
	Template string          `json:"template,omitempty"`
	Monitor  Process         `json:"monitor"`
	VM       Process         `json:"vm"` // zero until it runs
	Cgroup   json.RawMessage `json:"cgroup,omitempty"`
	BootID   string          `json:"bootID"`
	Created  time.Time       `json:"created"`
	// Ready is whether it can be claimed.
	Ready bool `json:"ready"`
}

// MakeSpareDir makes the folder of a spare, mode 0700, and gives its path.
func (s *Store) MakeSpareDir(id string) (string, error) {
	if err := ValidateID(id); err != nil {
		return "", err
	}
	dir, _, err := s.makeDir(sparesDir, id)
	if err != nil {
		return "", fmt.Errorf("make the folder of spare %s: %w", id, err)
	}
	return s.SpareDir(id), dir.Close()
}

// SpareDir is the path of a spare's folder, which need not exist.
func (s *Store) SpareDir(id string) string { return s.path(sparesDir, id) }

// SaveSpare writes the record: first who spawns the monitor, then the monitor.
// It gives ErrNotExist where the spare has been withdrawn.
func (s *Store) SaveSpare(id string, sp *Spare) error {
	if err := ValidateID(id); err != nil {
		return err
	}
	rec := *sp
	rec.Version = spareVersion
	dir, err := s.open(sparesDir, id)
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNotExist
	}
	if err == nil {
		defer dir.Close()
		err = writeRecord(dir, spareRecord, &rec)
	}
	if err != nil {
		return fmt.Errorf("record spare %s: %w", id, err)
	}
	return nil
}

// Spare reads the record of a spare. Errors are as with Container.
func (s *Store) Spare(id string) (*Spare, error) {
	if err := ValidateID(id); err != nil {
		return nil, err
	}
	return s.spareIn(sparesDir, id)
}

// SpareOf reads the record of the spare that a sandbox has claimed, which stays in
// its folder: ErrNotExist for a sandbox that has none.
func (s *Store) SpareOf(sandbox string) (*Spare, error) {
	if err := ValidateID(sandbox); err != nil {
		return nil, err
	}
	return s.spareIn(sandboxesDir, sandbox)
}

// spareIn reads the record of what is, or was, a spare.
func (s *Store) spareIn(kind, id string) (*Spare, error) {
	sp := &Spare{}
	err := s.load(kind, id, spareRecord, spareVersion, sp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("read the record of spare %s: %w", id, err)
	}
	if err := forgetBefore(sp.BootID, &sp.Monitor, &sp.VM); err != nil {
		return nil, err
	}
	return sp, nil
}

// Spares lists the ids of spares that can be claimed or may become so, sorted.
// ended are those that cannot any more.
func (s *Store) Spares() (ids, ended []string, err error) {
	all, err := s.names(sparesDir)
	if err != nil {
		return nil, nil, fmt.Errorf("list spares: %w", err)
	}
	for _, id := range all {
		if strings.HasPrefix(id, endedPrefix) {
			ended = append(ended, id)
		} else {
			ids = append(ids, id)
		}
	}
	return ids, ended, nil
}

// ClaimSpare makes a spare's folder that of a sandbox which has none. Of all
// who try exactly one succeeds; the others get ErrNotExist, and ErrExist where
// the sandbox has a folder. Whoever claims it has to see to its end.
func (s *Store) ClaimSpare(id, sandbox string) error {
	if err := errors.Join(ValidateID(id), ValidateID(sandbox)); err != nil {
		return err
	}
	to, err := s.makeKind(sandboxesDir)
	if err != nil {
		return fmt.Errorf("claim spare %s: %w", id, err)
	}
	defer to.Close()
	return s.moveSpare(id, to, sandbox)
}

// WithdrawSpare takes a spare out of the pool, for its end, and gives the id
// that it has from then on. Errors are as with ClaimSpare.
func (s *Store) WithdrawSpare(id string) (string, error) {
	if strings.HasPrefix(id, endedPrefix) {
		return id, nil
	}
	if err := ValidateID(id); err != nil {
		return "", err
	}
	to, err := s.open(sparesDir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", ErrNotExist
	}
	if err != nil {
		return "", fmt.Errorf("withdraw spare %s: %w", id, err)
	}
	defer to.Close()
	return EndedSpare(id), s.moveSpare(id, to, EndedSpare(id))
}

// EndedSpare is the id of a spare when it has been withdrawn.
func EndedSpare(id string) string { return endedPrefix + id }

func (s *Store) moveSpare(id string, to *os.File, name string) error {
	from, err := s.open(sparesDir)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNotExist
	}
	if err != nil {
		return err
	}
	defer from.Close()
	err = unix.Renameat2(int(from.Fd()), id, int(to.Fd()), name, unix.RENAME_NOREPLACE)
	switch {
	case errors.Is(err, unix.ENOENT):
		return ErrNotExist
	case errors.Is(err, unix.EEXIST):
		return ErrExist
	case err != nil:
		return fmt.Errorf("move spare %s: %w", id, err)
	}
	return nil
}

// HoldSpare is HoldSandbox for the monitor of a spare. The lock goes with the
// folder.
func (s *Store) HoldSpare(id string) (io.Closer, error) {
	if err := ValidateID(id); err != nil {
		return nil, err
	}
	f, err := s.hold(sparesDir, id)
	if err != nil {
		return nil, fmt.Errorf("hold spare %s: %w", id, err)
	}
	return f, nil
}

// RemoveSpare removes the folder of a spare whose monitor has ended or is about
// to. That there is none is no error.
func (s *Store) RemoveSpare(id string) error {
	if err := ValidateID(id); err != nil {
		return err
	}
	err := s.remove(sparesDir, id, spareRecord, ofMonitor)
	if err != nil {
		return fmt.Errorf("remove the state of spare %s: %w", id, err)
	}
	return nil
}

// OpenSparesLog opens the log that says why there is no spare, empty: it has
// what went wrong last.
func (s *Store) OpenSparesLog() (*os.File, error) {
	dir, err := s.makeKind(sparesDir)
	if err != nil {
		return nil, fmt.Errorf("log of the spares: %w", err)
	}
	defer dir.Close()
	return openBeneath(dir, sparesLog, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC)
}
