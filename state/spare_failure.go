package state

import (
	"errors"
	"fmt"
	"io/fs"
	"time"
)

const (
	spareFailure        = "failure.json" // beside the folders of the spares
	spareFailureVersion = 1
)

// How long creates make no spare after one that has failed: twice as long after
// each further one.
const (
	firstSpareWait = 10 * time.Second
	mostSpareWait  = 10 * time.Minute
)

// SpareFailure is the record of why there are no spares. Who tries to make some
// leaves it, so that not every create tries again; who succeeds removes it.
type SpareFailure struct {
	// Version is that of the format; NoteSpareFailure sets it.
	Version int `json:"version"`
	// Machine is for whom they were to be, as in Spare: others try all the same.
	Machine string `json:"machine"`
	// Error is what went wrong last, at Time, after Count failures in a row.
	Error string    `json:"error"`
	Time  time.Time `json:"time"`
	Count int       `json:"count"`
}

// Retry is from when on creates try again.
func (f *SpareFailure) Retry() time.Time {
	wait := firstSpareWait
	for range f.Count - 1 {
		if wait = min(2*wait, mostSpareWait); wait == mostSpareWait {
			break
		}
	}
	return f.Time.Add(wait)
}

// Waits reports whether a create is not to try again yet. A clock that was set
// back keeps nobody waiting.
func (f *SpareFailure) Waits(now time.Time) bool {
	return now.Before(f.Retry()) && !now.Before(f.Time)
}

// SpareFailure reads the record. ErrNotExist is that nothing has failed; other
// errors are as with Container.
func (s *Store) SpareFailure() (*SpareFailure, error) {
	dir, err := s.open(sparesDir)
	f := &SpareFailure{}
	if err == nil {
		defer dir.Close()
		err = readRecord(dir, spareFailure, spareFailureVersion, f)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("read why there are no spares: %w", err)
	}
	return f, nil
}

// NoteSpareFailure records that spares for a machine could not be made.
func (s *Store) NoteSpareFailure(machine string, why error) error {
	f := &SpareFailure{Version: spareFailureVersion, Machine: machine, Error: why.Error(), Time: time.Now().UTC(), Count: 1}
	if last, err := s.SpareFailure(); err == nil && last.Machine == machine {
		f.Count += last.Count
	}
	dir, err := s.makeKind(sparesDir)
	if err == nil {
		defer dir.Close()
		err = writeRecord(dir, spareFailure, f)
	}
	if err != nil {
		return fmt.Errorf("record why there are no spares: %w", err)
	}
	return nil
}

// ForgetSpareFailure removes the record. That there is none is no error.
func (s *Store) ForgetSpareFailure() error {
	dir, err := s.open(sparesDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		defer dir.Close()
		err = unlink(dir, spareFailure, 0)
	}
	if err != nil {
		return fmt.Errorf("remove why there are no spares: %w", err)
	}
	return nil
}
