package state

import (
	"context"
	"errors"
	"fmt"
)

// Lock is the lock of one sandbox id, held.
type Lock struct{ file *lockFile }

// LockSandbox takes the lock of a sandbox id, and waits for it until ctx ends.
// Who starts its monitor, joins it, or removes what an ended one has left holds
// it, since the containers of a pod come and go independently of each other. It
// dies with its holder, is not reentrant, and nobody waits for a guest while he
// holds it. It is taken in the course of operations, which do not begin while it
// is held.
func (s *Store) LockSandbox(ctx context.Context, id string) (*Lock, error) {
	f, err := s.take(sandboxLocksDir, id, "lock", func(f *lockFile) error { return f.wait(ctx) })
	if errors.Is(err, errHeld) {
		if _, p := s.holder(sandboxLocksDir, id); p.Pid != 0 {
			err = fmt.Errorf("pid %d has it: %w", p.Pid, context.Cause(ctx))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("lock sandbox %s: %w", id, err)
	}
	return &Lock{f}, nil
}

// Release gives the lock to the next one who waits. Only the first call does
// something; all give its error.
func (l *Lock) Release() error { return l.file.close() }
