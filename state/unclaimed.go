package state

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"
)

const (
	unclaimedDir     = "unclaimed"
	unclaimedVersion = 2 // 2 has Sandbox
	unclaimedRecord  = "unclaimed.json"
)

// Unclaimed is the record of a sandbox, or of the room in one, that is kept for the
// same create to come again. It lies beside those of containers and sandboxes, so that everybody can
// look for such records at the cost of an empty folder.
type Unclaimed struct {
	// Version is that of the format; SaveUnclaimed sets it.
	Version int    `json:"version"`
	ID      string `json:"id"` // of the container that there would be
	BootID  string `json:"bootID"`
	// Until is when it has to go, as time since the boot (CLOCK_BOOTTIME,
	// clock_gettime(2)).
	Until time.Duration `json:"until"`
	// Sandbox is the one that goes on with room for the container; "" where the
	// sandbox itself is kept. Nothing of the container is needed for that.
	Sandbox string `json:"sandbox,omitempty"`
}

// SinceBoot is the time since the host's boot, with the time in suspension.
func SinceBoot() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, fmt.Errorf("time since boot: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

// SaveUnclaimed writes the record. The sandbox's monitor does.
func (s *Store) SaveUnclaimed(u *Unclaimed) error {
	if err := ValidateID(u.ID); err != nil {
		return err
	}
	rec := *u
	rec.Version = unclaimedVersion
	if err := s.save(unclaimedDir, u.ID, unclaimedRecord, &rec); err != nil {
		return fmt.Errorf("record unclaimed sandbox %s: %w", u.ID, err)
	}
	return nil
}

// Unclaimed reads the record of one id. Errors are as with Container.
func (s *Store) Unclaimed(id string) (*Unclaimed, error) {
	if err := ValidateID(id); err != nil {
		return nil, err
	}
	u := &Unclaimed{}
	err := s.load(unclaimedDir, id, unclaimedRecord, unclaimedVersion, u)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("read the record of unclaimed sandbox %s: %w", id, err)
	}
	return u, nil
}

// UnclaimedIDs lists the ids that have a record, sorted.
func (s *Store) UnclaimedIDs() ([]string, error) {
	ids, err := s.names(unclaimedDir)
	if err != nil {
		return nil, fmt.Errorf("list unclaimed sandboxes: %w", err)
	}
	return ids, nil
}

// RemoveUnclaimed removes the record. That there is none is no error.
func (s *Store) RemoveUnclaimed(id string) error {
	if err := ValidateID(id); err != nil {
		return err
	}
	err := s.remove(unclaimedDir, id, unclaimedRecord, func(e fs.DirEntry) bool {
		return e.Type().IsRegular() && isTemp(e.Name(), unclaimedRecord)
	})
	if err != nil {
		return fmt.Errorf("remove the record of unclaimed sandbox %s: %w", id, err)
	}
	return nil
}
