package state

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"
)

// A failure to make spares is counted, and has creates wait for longer each time;
// it goes with success, and with all that there is of spares.
func TestSpareFailure(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.SpareFailure(); !errors.Is(err, ErrNotExist) {
		t.Errorf("nothing has failed: %v", err)
	}
	if err := s.ForgetSpareFailure(); err != nil {
		t.Errorf("there is nothing to forget: %v", err)
	}
	note := func(machine, why string) *SpareFailure {
		t.Helper()
		if err := s.NoteSpareFailure(machine, errors.New(why)); err != nil {
			t.Fatal(err)
		}
		f, err := s.SpareFailure()
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	note("m", "first")
	if f := note("m", "second"); f.Count != 2 || f.Error != "second" {
		t.Errorf("after two failures: %+v", f)
	}
	if f := note("other", "third"); f.Count != 1 {
		t.Errorf("the first failure for another machine: %+v", f)
	}
	for range 2 {
		if err := s.ForgetSpareFailure(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.SpareFailure(); !errors.Is(err, ErrNotExist) {
		t.Errorf("it is forgotten: %v", err)
	}
	if f := note("other", "again"); f.Count != 1 {
		t.Errorf("after a success: %+v", f)
	}
	lock, err := s.LockSpares(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := lock.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(s.path(sparesDir)); !os.IsNotExist(err) {
		t.Errorf("the folder of the spares is still there: %v", err)
	}
}

func TestSpareFailureWaits(t *testing.T) {
	at := time.Now()
	for _, tt := range []struct {
		count int
		after time.Duration
		waits bool
	}{
		{1, 0, true}, {1, 9 * time.Second, true}, {1, 11 * time.Second, false},
		{2, 19 * time.Second, true}, {2, 21 * time.Second, false},
		{7, 599 * time.Second, true}, {1 << 60, 599 * time.Second, true}, {1 << 60, 601 * time.Second, false},
		{1, -time.Second, false}, // the clock was set back
	} {
		f := &SpareFailure{Time: at, Count: tt.count}
		if got := f.Waits(at.Add(tt.after)); got != tt.waits {
			t.Errorf("%s after failure %d: waits %t", tt.after, tt.count, got)
		}
	}
}
