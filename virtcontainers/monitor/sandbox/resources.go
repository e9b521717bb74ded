package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
	"github.com/vc-runtime/vc-runtime/virtcontainers/stats"
)

// full says of a machine without a free slot what the slots are for. Any other
// error it gives back as it is.
func (s *Sandbox) full(err error) error {
	if !errors.Is(err, hypervisor.ErrNoSlot) {
		return err
	}
	return fmt.Errorf("%w: each container, network interface and eight disks of a pod take one of %d (hypervisor.hotplug_slots)",
		err, s.cfg.Config.Hypervisor.HotplugSlots)
}

// update sets limits of the container's cgroup in the guest, and makes room for
// them first.
func (c *container) update(ctx context.Context, req *monitor.Request) error {
	c.s.size.set(c.id, req.Demand)
	if err := c.s.fit(ctx, c.s.machine, c.id); err != nil {
		return err
	}
	_, err := c.s.machine.Guest.UpdateContainer(ctx, &api.UpdateContainerRequest{Container: c.name, Resources: req.Spec})
	return err
}

// stats reads the container's cgroup in the guest.
func (c *container) stats(ctx context.Context) (*monitor.Reply, error) {
	rep, err := c.s.machine.Guest.ContainerStats(ctx, &api.ContainerRequest{Container: c.name})
	if err != nil {
		return nil, err
	}
	st := &monitor.Stats{Files: rep.Files}
	for _, i := range rep.Interfaces {
		st.Interfaces = append(st.Interfaces, stats.Interface{
			Name:    i.Name,
			RxBytes: i.RxBytes, RxPackets: i.RxPackets, RxErrors: i.RxErrors, RxDropped: i.RxDropped,
			TxBytes: i.TxBytes, TxPackets: i.TxPackets, TxErrors: i.TxErrors, TxDropped: i.TxDropped,
		})
	}
	return &monitor.Reply{Stats: st}, nil
}

// noteOOM leaves the file that says to engines that the guest's OOM killer has
// ended a process of the container: they look for its name only.
func (c *container) noteOOM() {
	if c.oomFile == "" || !c.init.exit.OOM {
		return
	}
	f, err := os.OpenFile(c.oomFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o644)
	switch {
	case err == nil:
		f.Close()
	case !errors.Is(err, fs.ErrExist):
		c.log.WithError(err).Error("note the container's OOM kill")
	}
}

// serveEvents tells the peer of each OOM kill in the container, until the
// container's end or the peer's.
func (s *Sandbox) serveEvents(conn *monitor.Conn, req *monitor.Request) {
	c, err := s.container(req.Container)
	if err != nil {
		reply(conn, err)
		return
	}
	kills, leave := c.oom.join()
	defer leave()
	if !reply(conn, nil) {
		return
	}
	gone := make(chan struct{})
	go func() { // the peer says nothing more: this ends with it, or with serve
		defer close(gone)
		var none monitor.Request
		conn.Receive(&none)
	}()
	for {
		select {
		case _, ok := <-kills:
			if !ok || conn.Send(&monitor.Reply{OOM: true}, nil) != nil {
				return
			}
		case <-gone:
			return
		}
	}
}

// watchOOM looks out for OOM kills until the container's end, and tells those
// that have joined.
func (c *container) watchOOM() {
	defer c.oom.close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		<-c.init.ended
		cancel()
	}()
	var known uint64
	for {
		rep, err := c.s.machine.Guest.WaitOOM(ctx, &api.WaitOOMRequest{Container: c.name, Known: known})
		if err != nil {
			<-c.init.ended
			break
		}
		if rep.Kills <= known {
			c.log.WithError(fmt.Errorf("%d OOM kills after %d", rep.Kills, known)).Warn("the agent does not count")
			return
		}
		known = rep.Kills
		c.oom.tell()
	}
	if known == 0 && c.init.exit.OOM { // it was the end
		c.oom.tell()
	}
}
