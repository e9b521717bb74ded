package virtcontainers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// readiness waits for a container's word that it is ready, to pass it on to the
// service manager. The guest's part in it is one bit: the text is ours.
type readiness struct {
	host *net.UnixConn // to the manager
	conn *monitor.Conn // on which the monitor will say so
	pid  int           // of the container
}

// readiness begins to wait, before the start, so that nothing is missed. It is
// nil where nobody wants to know, or the container was created without a socket.
func (r *Runtime) readiness(rec *state.Container) (*readiness, error) {
	if r.NotifySocket == "" || !rec.Notify {
		return nil, nil
	}
	if err := failpoint.Here(failpoint.StartNotify); err != nil {
		return nil, err
	}
	host, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: r.NotifySocket})
	if err != nil {
		return nil, fmt.Errorf("NOTIFY_SOCKET: %w", err)
	}
	var conn *monitor.Conn
	if err = failpoint.Here(failpoint.StartReady); err == nil {
		conn, err = monitor.Dial(r.Store.SandboxDir(rec.Sandbox))
	}
	if err == nil {
		err = conn.Send(&monitor.Request{Op: monitor.OpReady, Container: rec.ID}, nil)
	}
	if err != nil {
		host.Close()
		return nil, fmt.Errorf("wait for container %s to be ready: %w", rec.ID, err)
	}
	return &readiness{host: host, conn: conn, pid: rec.Shim.Pid}, nil
}

func (n *readiness) close() {
	if n != nil {
		n.host.Close()
		n.conn.Close()
	}
}

// pass waits, for as long as the container takes, and tells the manager which
// process stands for the service from now on: mainPid, or the container's where
// that is 0. A container that ends without a word is no error, as for runc. The
// end of ctx ends only the wait for the manager.
func (n *readiness) pass(ctx context.Context, mainPid int) error {
	if n == nil {
		return nil
	}
	defer n.close()
	var rep monitor.Reply
	if _, err := n.conn.Receive(&rep); err != nil {
		return nil // the sandbox has ended
	}
	if rep.Failure != nil {
		if errors.Is(rep.Failure, unix.ESRCH) {
			return nil
		}
		return rep.Failure
	}
	if mainPid == 0 {
		mainPid = n.pid
	}
	if err := failpoint.Here(failpoint.StartTell); err != nil {
		return err
	}
	for _, text := range []string{"READY=1\n", "MAINPID=" + strconv.Itoa(mainPid) + "\n"} {
		if _, err := n.host.Write([]byte(text)); err != nil {
			return fmt.Errorf("NOTIFY_SOCKET: %w", err)
		}
	}
	return n.barrier(ctx)
}

// sendFile sends a message with a descriptor. WriteMsgUnix does not take a
// socket for datagrams that is connected.
func sendFile(c *net.UnixConn, text string, f *os.File) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), []byte(text), unix.UnixRights(int(f.Fd())), nil, 0)
		return !errors.Is(sent, unix.EAGAIN)
	})
	return errors.Join(err, os.NewSyscallError("sendmsg", sent))
}

// barrierTimeout is how long a manager may take to read what it was told
// (runc 1.5).
const barrierTimeout = 30 * time.Second

// barrier waits until the manager has read everything (sd_notify_barrier(3)):
// it looks up who a message is from, which has to live until then. A manager
// that does not know barriers closes the descriptor unread.
func (n *readiness) barrier(ctx context.Context) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("NOTIFY_SOCKET: %w", err)
	}
	defer r.Close()
	err = sendFile(n.host, "BARRIER=1", w)
	w.Close()
	if err != nil {
		return fmt.Errorf("NOTIFY_SOCKET: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, barrierTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Unix(1, 0)) })()
	r.Read(make([]byte, 1)) // until its end: nothing is written
	return nil
}
