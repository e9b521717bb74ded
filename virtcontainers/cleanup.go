package virtcontainers

import (
	"context"
	"errors"
	"time"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
)

// cleanup is a stack of how to undo what has been done.
type cleanup struct {
	steps []func(context.Context) error
}

// cleanupTimeout caps all the steps of a cleanup together.
const cleanupTimeout = 20 * time.Second

func (c *cleanup) push(step func(context.Context) error) { c.steps = append(c.steps, step) }

// run undoes everything, last things first. It uses a context of its own, as
// the caller's may be the reason for the undoing; every step runs, and the
// errors are joined. A second run does nothing.
func (c *cleanup) run() error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	var errs []error
	for len(c.steps) > 0 {
		step := c.steps[len(c.steps)-1]
		c.steps = c.steps[:len(c.steps)-1]
		errs = append(errs, failpoint.Here(failpoint.CreateUndo), step(ctx))
	}
	return errors.Join(errs...)
}
