package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/hashicorp/yamux"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// rehearsal is the name of the container that a rehearsal runs.
const rehearsal = "rehearsal"

// Rehearse plays the host of this server: it greets it, and runs a container
// with spec and share to its end. A template does this before it is saved, so
// that no clone has to make what is made once: tables of message types, caches
// of the kernel, the stacks and buffers of a session.
func (s *Server) Rehearse(ctx context.Context, share string, spec []byte) error {
	if err := rehearseGreeting(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	host, guest := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, guest) }()
	err := play(ctx, host, share, spec)
	cancel()
	host.Close()
	// How the session ends when its host has gone does not matter; why it had
	// ended before does.
	if ended := <-served; err != nil {
		err = errors.Join(err, ended)
	}
	return err
}

// rehearseGreeting sends each half of the greeting once.
func rehearseGreeting() error {
	host, guest := net.Pipe()
	defer host.Close()
	defer guest.Close()
	go func() {
		var hello api.Hello
		if api.ReadLine(host, &hello) == nil {
			api.WriteLine(host, api.Welcome{Protocol: hello.Protocol, TimeNs: time.Now().UnixNano(), Entropy: make([]byte, 64)})
		}
	}()
	_, err := Greet(guest, api.Hello{Protocol: api.ProtocolVersion})
	return err
}

// play is the host of a rehearsal.
func play(ctx context.Context, conn net.Conn, share string, spec []byte) error {
	cfg := yamux.DefaultConfig()
	cfg.EnableKeepAlive = false
	cfg.LogOutput = io.Discard
	mux, err := yamux.Client(conn, cfg)
	if err != nil {
		return err
	}
	defer mux.Close()
	calls, err := openStream(mux, api.StreamHeader{Kind: api.KindRPC})
	if err != nil {
		return err
	}
	rpc := ttrpc.NewClient(calls)
	defer rpc.Close()
	return playContainer(ctx, mux, api.NewAgentClient(rpc), share, spec)
}

func playContainer(ctx context.Context, mux *yamux.Session, agent api.AgentService, share string, spec []byte) error {
	only := &api.ContainerRequest{Container: rehearsal}
	// The first call of a session asks for what is not there.
	if _, err := agent.ListProcesses(ctx, only); !errors.Is(api.FromStatus(err), syscall.ESRCH) {
		return fmt.Errorf("rehearse: list: %w", err)
	}
	_, err := agent.CreateContainer(ctx, &api.CreateContainerRequest{
		Container: rehearsal, ShareTag: share, Spec: spec, Stdio: &api.Stdio{Stdin: true, Stdout: true, Stderr: true},
	})
	if err != nil {
		return fmt.Errorf("rehearse: create: %w", err)
	}
	var streams []net.Conn
	for _, kind := range []api.Kind{api.KindStdin, api.KindStdout, api.KindStderr} {
		stream, err := openStream(mux, api.StreamHeader{Kind: kind, Container: rehearsal})
		if err != nil {
			return err
		}
		defer stream.Close()
		streams = append(streams, stream)
	}
	if _, err := agent.StartContainer(ctx, only); err != nil {
		return fmt.Errorf("rehearse: start: %w", err)
	}
	for _, output := range streams[1:] {
		if _, err := io.Copy(io.Discard, output); err != nil {
			return err
		}
	}
	end, err := agent.WaitProcess(ctx, &api.ProcessRequest{Container: rehearsal})
	if err == nil && end.GetExitCode() != 0 {
		err = fmt.Errorf("exit code %d", end.GetExitCode())
	}
	if err != nil {
		return fmt.Errorf("rehearse: wait: %w", err)
	}
	if _, err := agent.RemoveContainer(ctx, only); err != nil {
		return fmt.Errorf("rehearse: remove: %w", err)
	}
	return nil
}

func openStream(mux *yamux.Session, header api.StreamHeader) (net.Conn, error) {
	stream, err := mux.Open()
	if err != nil {
		return nil, err
	}
	if err := api.WriteLine(stream, header); err != nil {
		return nil, errors.Join(err, stream.Close())
	}
	return stream, nil
}
