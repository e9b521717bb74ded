package virtcontainers

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
)

// cleanup is a stack of how to undo what has been done.
type cleanup struct {
	steps []undoStep
}

type undoStep struct {
	undo func(context.Context) error
	// sandbox is set for what a sandbox is recognized and found by: it stays where
	// the sandbox is kept for the same request.
	sandbox bool
}

// cleanupTimeout caps all the steps of a cleanup together.
const cleanupTimeout = 20 * time.Second

func (c *cleanup) push(undo func(context.Context) error) {
	c.steps = append(c.steps, undoStep{undo: undo})
}

// pushSandbox is push for what keepSandbox leaves out.
func (c *cleanup) pushSandbox(undo func(context.Context) error) {
	c.steps = append(c.steps, undoStep{undo, true})
}

// keepSandbox takes the steps out that would take the sandbox away.
func (c *cleanup) keepSandbox() {
	c.steps = slices.DeleteFunc(c.steps, func(s undoStep) bool { return s.sandbox })
}

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
		errs = append(errs, failpoint.Here(failpoint.CreateUndo), step.undo(ctx))
	}
	return errors.Join(errs...)
}
