package server

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/agent/spans"
)

// service answers the calls of the host. Each method translates a request and
// an error; the work is done by Server and container.
type service struct{ s *Server }

var _ api.AgentService = service{}

// maxSignal is the highest signal of Linux (SIGRTMAX).
const maxSignal = 64

func (v service) CreateContainer(ctx context.Context, req *api.CreateContainerRequest) (*api.CreateContainerResponse, error) {
	pid, err := v.s.create(ctx, req)
	if err != nil {
		return nil, api.ToStatus(err)
	}
	return &api.CreateContainerResponse{Pid: uint32(pid)}, nil
}

func (v service) StartContainer(ctx context.Context, req *api.ContainerRequest) (*api.Empty, error) {
	return v.with(ctx, req.GetContainer(), func(ctx context.Context, c *container) error {
		return v.s.cfg.Runtime.Start(ctx, c.inRuntime())
	})
}

func (v service) ExecProcess(ctx context.Context, req *api.ExecProcessRequest) (*api.ExecProcessResponse, error) {
	var pid int
	_, err := v.with(ctx, req.GetContainer(), func(ctx context.Context, c *container) (err error) {
		if err := checkName("process", req.GetProcess()); err != nil {
			return err
		}
		pid, err = c.exec(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &api.ExecProcessResponse{Pid: uint32(pid)}, nil
}

func (v service) SignalProcess(ctx context.Context, req *api.SignalProcessRequest) (*api.Empty, error) {
	return v.with(ctx, req.GetContainer(), func(_ context.Context, c *container) error {
		if req.GetSignal() > maxSignal {
			return fmt.Errorf("signal %d: %w", req.GetSignal(), syscall.EINVAL)
		}
		sig := syscall.Signal(req.GetSignal())
		if req.GetAll() {
			return c.signalAll(sig)
		}
		return c.signal(req.GetProcess(), sig)
	})
}

func (v service) WaitProcess(ctx context.Context, req *api.ProcessRequest) (*api.WaitProcessResponse, error) {
	c, err := v.s.container(req.GetContainer())
	if err != nil {
		return nil, api.ToStatus(err)
	}
	p, err := c.process(req.GetProcess())
	if err != nil {
		return nil, api.ToStatus(err)
	}
	if err := wait(ctx, p.done, "the process"); err != nil {
		return nil, api.ToStatus(err)
	}
	if p.child == nil {
		return nil, api.ToStatus(fmt.Errorf("the process was not started: %w", syscall.ESRCH))
	}
	if req.GetProcess() != initName {
		go c.dropServed(req.GetProcess(), p)
	}
	return &api.WaitProcessResponse{ExitCode: uint32(p.child.Code()), Oom: p.oom}, nil
}

func (v service) ResizeConsole(ctx context.Context, req *api.ResizeConsoleRequest) (*api.Empty, error) {
	return v.with(ctx, req.GetContainer(), func(_ context.Context, c *container) error {
		p, err := c.process(req.GetProcess())
		if err != nil {
			return err
		}
		return p.io.resize(req.GetWidth(), req.GetHeight())
	})
}

func (v service) RemoveContainer(ctx context.Context, req *api.ContainerRequest) (*api.Empty, error) {
	c := v.s.toRemove(req.GetContainer())
	if c == nil {
		return &api.Empty{}, nil // removed before, or not there yet
	}
	if err := v.s.remove(ctx, c); err != nil {
		return nil, api.ToStatus(err)
	}
	return &api.Empty{}, nil
}

func (v service) ListProcesses(ctx context.Context, req *api.ContainerRequest) (*api.ListProcessesResponse, error) {
	resp := &api.ListProcessesResponse{}
	_, err := v.with(ctx, req.GetContainer(), func(_ context.Context, c *container) error {
		pids, err := c.group.Pids()
		for _, pid := range pids {
			resp.Pids = append(resp.Pids, uint32(pid))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

func (v service) PauseContainer(ctx context.Context, req *api.ContainerRequest) (*api.Empty, error) {
	return v.with(ctx, req.GetContainer(), func(ctx context.Context, c *container) error {
		return c.group.Freeze(ctx)
	})
}

func (v service) ResumeContainer(ctx context.Context, req *api.ContainerRequest) (*api.Empty, error) {
	return v.with(ctx, req.GetContainer(), func(ctx context.Context, c *container) error {
		return c.group.Thaw(ctx)
	})
}

func (v service) UpdateContainer(ctx context.Context, req *api.UpdateContainerRequest) (*api.Empty, error) {
	return v.with(ctx, req.GetContainer(), func(ctx context.Context, c *container) error {
		return v.s.cfg.Runtime.Update(ctx, c.inRuntime(), req.GetResources())
	})
}

func (v service) ContainerStats(ctx context.Context, req *api.ContainerRequest) (*api.ContainerStatsResponse, error) {
	resp := &api.ContainerStatsResponse{}
	_, err := v.with(ctx, req.GetContainer(), func(_ context.Context, c *container) (err error) {
		if resp.Files, err = c.group.Stats(); err != nil {
			return err
		}
		resp.Interfaces, err = v.s.cfg.Machine.Counters()
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

func (v service) WaitOOM(ctx context.Context, req *api.WaitOOMRequest) (*api.WaitOOMResponse, error) {
	resp := &api.WaitOOMResponse{}
	_, err := v.with(ctx, req.GetContainer(), func(ctx context.Context, c *container) (err error) {
		resp.Kills, err = c.group.WaitOOM(ctx, req.GetKnown())
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

func (v service) WaitReady(ctx context.Context, req *api.ContainerRequest) (*api.Empty, error) {
	return v.with(ctx, req.GetContainer(), func(ctx context.Context, c *container) error {
		if _, err := c.process(initName); err != nil { // create is still at it
			return err
		}
		return c.notify.wait(ctx)
	})
}

func (v service) OnlineResources(ctx context.Context, req *api.OnlineResourcesRequest) (*api.Empty, error) {
	if err := v.s.cfg.Machine.Online(ctx, int(req.GetCpus()), req.GetMemory()); err != nil {
		return nil, api.ToStatus(err)
	}
	return &api.Empty{}, nil
}

func (v service) ConfigureNetwork(ctx context.Context, req *api.ConfigureNetworkRequest) (*api.Empty, error) {
	if v.s.cfg.Network == nil {
		return nil, api.ToStatus(fmt.Errorf("this agent has no network: %w", syscall.ENOSYS))
	}
	if err := v.s.cfg.Ready(ctx); err != nil {
		return nil, api.ToStatus(err)
	}
	if err := v.s.cfg.Network.Configure(ctx, req); err != nil {
		return nil, api.ToStatus(err)
	}
	return &api.Empty{}, nil
}

// Rehearse is refused where it could disturb somebody.
func (v service) Rehearse(ctx context.Context, _ *api.Empty) (*api.Empty, error) {
	v.s.mu.Lock()
	used := len(v.s.containers) > 0
	v.s.mu.Unlock()
	switch {
	case v.s.cfg.Rehearse == nil:
		return nil, api.ToStatus(fmt.Errorf("rehearse: %w", syscall.ENOTSUP))
	case used:
		return nil, api.ToStatus(fmt.Errorf("rehearse: there are containers: %w", syscall.EBUSY))
	}
	if err := v.s.cfg.Rehearse(ctx); err != nil {
		return nil, api.ToStatus(err)
	}
	return &api.Empty{}, nil
}

func (v service) Refresh(_ context.Context, req *api.RefreshRequest) (*api.Empty, error) {
	if v.s.cfg.Refresh == nil {
		return nil, api.ToStatus(fmt.Errorf("refresh: %w", syscall.ENOTSUP))
	}
	if err := v.s.cfg.Refresh(time.Unix(0, req.GetTimeNs()), req.GetEntropy()); err != nil {
		return nil, api.ToStatus(err)
	}
	return &api.Empty{}, nil
}

func (v service) Spans(_ context.Context, req *api.SpansRequest) (*api.SpansResponse, error) {
	if v.s.cfg.Spans == nil {
		return &api.SpansResponse{Now: spans.Now()}, nil
	}
	found, last := v.s.cfg.Spans.After(req.GetAfter())
	return &api.SpansResponse{Now: spans.Now(), Last: last, Spans: found}, nil
}

func (v service) Dump(context.Context, *api.Empty) (*api.DumpResponse, error) {
	return &api.DumpResponse{Text: dump()}, nil
}

// with runs f on a container as a call in flight: a removal cancels it and
// waits for its end.
func (v service) with(ctx context.Context, name string, f func(context.Context, *container) error) (*api.Empty, error) {
	c, err := v.s.container(name)
	if err != nil {
		return nil, api.ToStatus(err)
	}
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return nil, api.ToStatus(err)
	}
	defer end()
	if err := f(ctx, c); err != nil {
		return nil, api.ToStatus(err)
	}
	return &api.Empty{}, nil
}
