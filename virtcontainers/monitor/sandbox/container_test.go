package sandbox

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// TestCreateBesidePlug has the agent asked for the container before its share is
// there: what it does without files takes none of the container's time then.
func TestCreateBesidePlug(t *testing.T) {
	asked, plugged := make(chan struct{}), make(chan struct{})
	b := startBench(t, func(vm *fakeVM) *fakeGuest {
		vm.plug = func(ctx context.Context) error {
			defer close(plugged)
			return await(ctx, asked)
		}
		g := newGuest(vm)
		g.create = func(ctx context.Context) error {
			close(asked)
			return await(ctx, plugged)
		}
		return g
	}, nil)
	if _, err := b.create(); err != nil {
		t.Error(err)
	}
}

// TestPlugFails has an agent that waits for a share which does not come: the create
// fails for that, and nothing goes on.
func TestPlugFails(t *testing.T) {
	asked, gone := make(chan struct{}), make(chan struct{})
	b := startBench(t, func(vm *fakeVM) *fakeGuest {
		vm.plug = func(ctx context.Context) error { return errors.Join(await(ctx, asked), errors.New("no such device")) }
		g := newGuest(vm)
		g.create = func(ctx context.Context) error {
			close(asked)
			<-ctx.Done()
			close(gone)
			return ctx.Err()
		}
		return g
	}, nil)
	_, err := b.create()
	if err == nil || !strings.Contains(err.Error(), "attach the shared files to the VM: no such device") {
		t.Errorf("create: %v", err)
	}
	within(t, gone, "the end of the call")
	b.first.Close()
	within(t, b.ended, "the monitor's end")
}

func await(ctx context.Context, c <-chan struct{}) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
