package sandbox

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// awaitReady waits until the container is ready, has ended, or the peer has
// gone.
func (s *Sandbox) awaitReady(ctx context.Context, conn *monitor.Conn, req *monitor.Request) error {
	c, err := s.container(req.Container)
	if err != nil {
		return err
	}
	m, err := s.ready(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // the peer says nothing more: this ends with it, or with serve
		defer cancel()
		var none monitor.Request
		conn.Receive(&none)
	}()
	go func() {
		defer cancel()
		select {
		case <-c.init.ended:
		case <-c.killed:
		case <-ctx.Done():
		}
	}()
	if err := failpoint.Here(failpoint.MonitorReady); err != nil {
		return err
	}
	_, err = m.Guest.WaitReady(ctx, &api.ContainerRequest{Container: c.name})
	if ctx.Err() != nil && err != nil {
		return fmt.Errorf("container %s has ended: %w", c.id, unix.ESRCH)
	}
	return err
}
