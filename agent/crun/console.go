package crun

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// consoleSocket receives the master of a terminal from crun
// (--console-socket: one connection, one message with one descriptor).
type consoleSocket struct {
	l *net.UnixListener
}

func listenConsole(path string) (*consoleSocket, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for the console: %w", err)
	}
	return &consoleSocket{l: l}, nil
}

func (s *consoleSocket) close() { s.l.Close() }

// receive gives the terminal that crun has sent. It is called when crun has
// succeeded: the connection and the message wait in the kernel by then.
func (s *consoleSocket) receive(ctx context.Context) (*os.File, error) {
	deadline := time.Now().Add(consoleWait)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	s.l.SetDeadline(deadline)
	conn, err := s.l.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("receive the console: %w", err)
	}
	defer conn.Close()
	conn.SetDeadline(deadline)
	data, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(data, oob)
	if err != nil {
		return nil, fmt.Errorf("receive the console: %w", err)
	}
	fd, err := oneFd(oob[:n])
	if err != nil {
		return nil, fmt.Errorf("receive the console: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "console"), nil
}

func oneFd(oob []byte) (int, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1, err
	}
	if len(msgs) != 1 {
		return -1, fmt.Errorf("%d control messages, want one", len(msgs))
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		return -1, err
	}
	if len(fds) != 1 {
		return -1, fmt.Errorf("%d descriptors, want one", len(fds))
	}
	unix.CloseOnExec(fds[0])
	return fds[0], nil
}

// consoleWait bounds how long the console message may take once crun has
// reported success.
const consoleWait = 10 * time.Second
