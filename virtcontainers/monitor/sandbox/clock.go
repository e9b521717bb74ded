package sandbox

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// A guest that takes longer than staleAfter to answer has set a time that had
// passed by then, and is told again, up to refreshTries times in all.
const (
	staleAfter   = 500 * time.Millisecond
	refreshTries = 3
)

// refresh gives the guest what a clone gets when it starts: the time, and entropy
// of its own.
func (m *Machine) refresh(ctx context.Context) error {
	entropy := make([]byte, 64)
	for range refreshTries {
		rand.Read(entropy) // never fails (crypto/rand)
		told := time.Now()
		_, err := m.Guest.Refresh(ctx, &api.RefreshRequest{TimeNs: told.UnixNano(), Entropy: entropy})
		if err != nil {
			return fmt.Errorf("refresh the guest: %w", err)
		}
		if time.Since(told) < staleAfter {
			break
		}
	}
	return nil
}

// longCreate is how long after Welcome the first container may be there without a
// doubt in the guest's clock.
const longCreate = 2 * time.Second

// catchUp is for when the first container is there. The guest was told the time in
// Welcome, and nothing says when it has read that: where it had no CPU for seconds, its
// clock would be late by them for good. So a guest that has taken long until here is
// told again.
func (m *Machine) catchUp(ctx context.Context) error {
	var err error
	m.caughtUp.Do(func() {
		if !m.welcomed.IsZero() && time.Since(m.welcomed) > longCreate {
			err = m.refresh(ctx)
		}
	})
	return err
}
