package sandbox

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// maxAside is how many containers a machine may hold on to that should have left it.
const maxAside = 16

// aside counts the containers that have ended, and which the guest does not let go
// of: something in there waits for an answer of a file server that was killed, for
// ever, since virtiofs can be neither aborted nor taken away meanwhile (fs/fuse/virtio_fs.c,
// virtio_fs_remove, Linux 6.1, which would hold up all hotplug of the machine). So
// their devices stay plugged. Their names in the guest are nobody else's, and nothing
// of the host is held: they cost the guest what they are made of, and the machine a
// slot each.
type aside struct {
	mu    sync.Mutex
	count int
	again chan struct{} // closed when it makes sense to ask the guest once more; nil for no one who waits
}

// full gives an error where the machine holds on to too many.
func (a *aside) full() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.count < maxAside {
		return nil
	}
	return fmt.Errorf("the virtual machine does not let go of %d containers whose shims were killed: it takes no more of them: %w", a.count, unix.ENOSPC)
}

func (a *aside) add(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.count += n
}

// change is for the next time that something changes in the machine.
func (a *aside) change() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.again == nil {
		a.again = make(chan struct{})
	}
	return a.again
}

// changed has those who wait for a change ask the guest once more.
func (a *aside) changed() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.again != nil {
		close(a.again)
		a.again = nil
	}
}

// putAside leaves a container to the guest that could not remove it in time. What is
// left of it is taken away should the guest ever come to it: the call waits there for
// as long as the machine lives, and where it fails it is made again when another
// container comes or goes.
func (s *Sandbox) putAside(c *container) {
	c.desert()
	s.aside.add(1)
	c.log.Warn("the guest does not let go of the container: it is put aside")
	s.requests.Go(func() {
		for {
			change := s.aside.change()
			_, err := s.machine.Guest.RemoveContainer(context.Background(), &api.ContainerRequest{Container: c.name})
			if err == nil {
				break
			}
			select {
			case <-change:
			case <-s.machine.Guest.Done():
				return
			case <-s.idle:
				return
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Config.Runtime.TeardownTimeout.Std())
		defer cancel()
		if err := unplug(ctx, c.takeDevices()); err != nil && !errors.Is(err, context.Canceled) {
			c.log.WithError(err).Warn("unplug the devices of a container that was put aside")
		}
		s.aside.add(-1)
		c.log.Info("the guest has let go of the container")
	})
}

// desert has nobody wait for the container's processes any more.
func (c *container) desert() { c.desertOnce.Do(func() { close(c.deserted) }) }
