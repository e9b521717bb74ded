package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// The calls of agent/api. Each returns when the agent has answered or ctx has
// ended. What the agent reports is an *api.GuestError, which errors.Is compares
// with an errno; other errors are of the session.

var _ api.AgentService = (*Client)(nil)

// ErrEnded is what a call gives when the session ends before its answer: as a rule
// the machine has ended.
var ErrEnded = errors.New("the session with the agent has ended")

// guestTime is how many times as long as the caller's a guest's deadline is.
const guestTime = 10

// call runs one call aside: a guest that does not read can block the sending
// of it, which ttrpc does not relate to ctx.
//
// ttrpc would tell the guest how much time there is. That is measured by the
// guest's clock, which QEMU derives from the counters of the host's CPUs when it
// emulates: it leaps when the host was suspended or moved, or where CPUs
// disagree. So the guest gets much more time: it only has to end, at some time,
// what nobody waits for any more.
func call[Req, Resp any](ctx context.Context, req Req, f func(context.Context, Req) (Resp, error)) (Resp, error) {
	type result struct {
		resp Resp
		err  error
	}
	ready := make(chan result, 1)
	aside, cancel := context.WithoutCancel(ctx), func() {}
	if end, ok := ctx.Deadline(); ok {
		aside, cancel = context.WithTimeout(aside, guestTime*time.Until(end))
	}
	go func() { // ends with the answer, or the session
		defer cancel()
		resp, err := f(aside, req)
		ready <- result{resp, err}
	}()
	select {
	case r := <-ready:
		if errors.Is(r.err, ttrpc.ErrClosed) {
			return r.resp, fmt.Errorf("%w: %w", ErrEnded, r.err)
		}
		return r.resp, api.FromStatus(r.err)
	case <-ctx.Done():
		var none Resp
		return none, ctx.Err()
	}
}

// CreateContainer creates a container; its process waits for StartContainer.
// A missing executable is ENOENT, one that may not be run EACCES, a name in
// use EEXIST.
func (c *Client) CreateContainer(ctx context.Context, req *api.CreateContainerRequest) (*api.CreateContainerResponse, error) {
	return call(ctx, req, c.agent.CreateContainer)
}

// StartContainer lets the container's process exec.
func (c *Client) StartContainer(ctx context.Context, req *api.ContainerRequest) (*api.Empty, error) {
	return call(ctx, req, c.agent.StartContainer)
}

// ExecProcess starts a further process in a container.
func (c *Client) ExecProcess(ctx context.Context, req *api.ExecProcessRequest) (*api.ExecProcessResponse, error) {
	return call(ctx, req, c.agent.ExecProcess)
}

// SignalProcess sends a signal. ESRCH: the process has ended.
func (c *Client) SignalProcess(ctx context.Context, req *api.SignalProcessRequest) (*api.Empty, error) {
	return call(ctx, req, c.agent.SignalProcess)
}

// WaitProcess waits for the end of a process.
func (c *Client) WaitProcess(ctx context.Context, req *api.ProcessRequest) (*api.WaitProcessResponse, error) {
	return call(ctx, req, c.agent.WaitProcess)
}

// ResizeConsole sets the window size of a terminal, in characters.
func (c *Client) ResizeConsole(ctx context.Context, req *api.ResizeConsoleRequest) (*api.Empty, error) {
	return call(ctx, req, c.agent.ResizeConsole)
}

// RemoveContainer kills and removes a container, and unmounts its share.
func (c *Client) RemoveContainer(ctx context.Context, req *api.ContainerRequest) (*api.Empty, error) {
	return call(ctx, req, c.agent.RemoveContainer)
}

// ListProcesses gives the guest's pids of a container.
func (c *Client) ListProcesses(ctx context.Context, req *api.ContainerRequest) (*api.ListProcessesResponse, error) {
	return call(ctx, req, c.agent.ListProcesses)
}

// PauseContainer freezes a container.
func (c *Client) PauseContainer(ctx context.Context, req *api.ContainerRequest) (*api.Empty, error) {
	return call(ctx, req, c.agent.PauseContainer)
}

// ResumeContainer undoes PauseContainer.
func (c *Client) ResumeContainer(ctx context.Context, req *api.ContainerRequest) (*api.Empty, error) {
	return call(ctx, req, c.agent.ResumeContainer)
}

// UpdateContainer sets the limits of a container's guest cgroup.
func (c *Client) UpdateContainer(ctx context.Context, req *api.UpdateContainerRequest) (*api.Empty, error) {
	return call(ctx, req, c.agent.UpdateContainer)
}

// ContainerStats gives the statistics of a container's guest cgroup.
func (c *Client) ContainerStats(ctx context.Context, req *api.ContainerRequest) (*api.ContainerStatsResponse, error) {
	return call(ctx, req, c.agent.ContainerStats)
}

// WaitOOM waits until the guest's OOM killer has ended more processes of the
// container than are known. ESRCH: the container has gone.
func (c *Client) WaitOOM(ctx context.Context, req *api.WaitOOMRequest) (*api.WaitOOMResponse, error) {
	return call(ctx, req, c.agent.WaitOOM)
}

// WaitReady waits until the container has said that it is ready. EINVAL: it
// cannot.
func (c *Client) WaitReady(ctx context.Context, req *api.ContainerRequest) (*api.Empty, error) {
	return call(ctx, req, c.agent.WaitReady)
}

// OnlineResources has the guest use what was plugged, waiting for it.
func (c *Client) OnlineResources(ctx context.Context, req *api.OnlineResourcesRequest) (*api.Empty, error) {
	return call(ctx, req, c.agent.OnlineResources)
}

// ConfigureNetwork sets up the guest's network, waiting for its devices.
func (c *Client) ConfigureNetwork(ctx context.Context, req *api.ConfigureNetworkRequest) (*api.Empty, error) {
	return call(ctx, req, c.agent.ConfigureNetwork)
}

// Rehearse has the guest run a container of its own to its end. EBUSY: it has
// containers already.
func (c *Client) Rehearse(ctx context.Context, req *api.Empty) (*api.Empty, error) {
	return call(ctx, req, c.agent.Rehearse)
}

// Refresh sets the guest's clock and feeds its entropy pool.
func (c *Client) Refresh(ctx context.Context, req *api.RefreshRequest) (*api.Empty, error) {
	return call(ctx, req, c.agent.Refresh)
}

// Spans gives what the agent has noted of its work, for a trace.
func (c *Client) Spans(ctx context.Context, req *api.SpansRequest) (*api.SpansResponse, error) {
	return call(ctx, req, c.agent.Spans)
}

// Dump gives a text on what the agent and the guest are doing. It is the guest's,
// and not to be trusted.
func (c *Client) Dump(ctx context.Context, req *api.Empty) (*api.DumpResponse, error) {
	return call(ctx, req, c.agent.Dump)
}
