package integration

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestKilledCreate kills create after one time or another. Whatever it had
// done by then: `delete --force` leaves nothing, the rootfs is released, and
// the same create works at once.
func TestKilledCreate(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	// The first one makes the template, which takes longer.
	e.OK("run", "--bundle", e.Bundle(testenv.Args("true")).Dir, e.ID())
	for _, after := range []time.Duration{5, 15, 40, 80, 150, 250, 350, 450, 600} {
		after *= time.Millisecond
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			e := suite.New(t)
			b, id := e.Bundle(testenv.Args("true")), e.ID()
			e.Call(testenv.Command{
				Args: []string{"create", "--bundle", b.Dir, id},
				Null: true, // its shim may live on
				Started: func(pid int) {
					time.Sleep(after) // a fault at a point of time, not a wait for anything
					if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
						t.Error(err) // ESRCH: it was quicker, which is a case too
					}
				},
			})
			e.OK("delete", "--force", id)
			if err := b.Overlay.Cycle(); err != nil {
				t.Error(err)
			}
			e.Fails("does not exist", "state", id)
			e.OK("run", "--bundle", b.Dir, id)
		})
	}
}
