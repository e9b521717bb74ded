package monitor

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/trace"
)

// maxFrame bounds one message, in bytes: a guest spec is the largest.
const maxFrame = 8 << 20

// Conn frames messages on a unix stream socket: four bytes of length, big
// endian, then JSON. One file can ride on a message.
type Conn struct {
	*net.UnixConn
	writing sync.Mutex // one frame at a time
}

// NewConn frames messages on c.
func NewConn(c *net.UnixConn) *Conn { return &Conn{UnixConn: c} }

// FileConn makes a Conn of an inherited socket, and closes f.
func FileConn(f *os.File) (*Conn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("use inherited socket: %w", err)
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("use inherited socket: it is %s, not unix", c.LocalAddr().Network())
	}
	return NewConn(uc), nil
}

// Pair gives the two ends of a new connection: a Conn for the caller and a
// file for a child to inherit.
func Pair() (*Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	child := os.NewFile(uintptr(fds[1]), "socketpair")
	c, err := FileConn(os.NewFile(uintptr(fds[0]), "socketpair"))
	if err != nil {
		child.Close()
		return nil, nil, err
	}
	return c, child, nil
}

// Send writes one message. file, when not nil, is passed along; the caller
// still owns its own descriptor.
func (c *Conn) Send(v any, file *os.File) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(body) > maxFrame {
		return fmt.Errorf("message of %d bytes is over the limit of %d", len(body), maxFrame)
	}
	frame := append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body))), body...)
	c.writing.Lock()
	defer c.writing.Unlock()
	if file != nil {
		n, _, err := c.WriteMsgUnix(frame, unix.UnixRights(int(file.Fd())), nil)
		if err != nil {
			return err
		}
		if frame = frame[n:]; len(frame) == 0 {
			return nil // the peer may have gone by now, with everything it needs
		}
	}
	_, err = c.Write(frame)
	return err
}

// Receive reads one message into v, and the file that came with it, if any.
// A clean end of the connection is io.EOF.
func (c *Conn) Receive(v any) (*os.File, error) {
	var head [4]byte
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := c.ReadMsgUnix(head[:], oob)
	if n == 0 && (err == nil || errors.Is(err, io.EOF)) {
		return nil, io.EOF
	}
	if err != nil {
		return nil, err
	}
	file, err := passedFile(oob[:oobn])
	if err == nil {
		err = c.receiveBody(v, head[:], n)
	}
	if err != nil {
		if file != nil {
			file.Close()
		}
		return nil, err
	}
	return file, nil
}

func (c *Conn) receiveBody(v any, head []byte, have int) error {
	if _, err := io.ReadFull(c, head[have:]); err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	size := binary.BigEndian.Uint32(head)
	if size > maxFrame {
		return fmt.Errorf("message of %d bytes is over the limit of %d", size, maxFrame)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c, body); err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("decode message: %w", err)
	}
	return nil
}

// Call sends a request and waits for its first reply, until ctx ends. A reply
// that carries a failure is returned as that failure, and a connection that
// ends is ErrGone.
func (c *Conn) Call(ctx context.Context, req *Request, file *os.File) (*Reply, error) {
	return c.call(ctx, req, file, func() (*Reply, error) { return c.Answer(ctx, req.Op) })
}

// CallInTurn is Call with AnswerInTurn.
func (c *Conn) CallInTurn(ctx context.Context, req *Request, limit time.Duration, waiting func()) (*Reply, error) {
	return c.call(ctx, req, nil, func() (*Reply, error) { return c.AnswerInTurn(ctx, req.Op, limit, waiting) })
}

func (c *Conn) call(ctx context.Context, req *Request, file *os.File, answer func() (*Reply, error)) (*Reply, error) {
	defer trace.Begin(ctx, trace.Call, "monitor "+string(req.Op)).End()
	req.Trace = trace.From(ctx).Path()
	sendErr := c.Send(req, file)
	// Also after an error: the peer may have answered before it hung up.
	reply, err := answer()
	if reply == nil {
		err = errors.Join(err, sendErr)
	}
	return reply, err
}

// AnswerInTurn is Answer for a request that may have to wait for its turn behind
// others. limit is for how long nothing may be heard of it: whenever the others have
// come on, waiting is called, and it begins anew.
func (c *Conn) AnswerInTurn(ctx context.Context, op Op, limit time.Duration, waiting func()) (*Reply, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(limit, func() {
		cancel(fmt.Errorf("%w: nothing heard for %s (call_timeout)", context.DeadlineExceeded, limit))
	})
	defer silence.Stop()
	for {
		reply, err := c.Answer(ctx, op)
		if err != nil || !reply.Waiting {
			return reply, err
		}
		silence.Reset(limit)
		waiting()
	}
}

// Answer is the second half of Call, for a request that was sent.
func (c *Conn) Answer(ctx context.Context, op Op) (*Reply, error) {
	failpoint.Trace("await", string(op))
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var reply Reply
	if _, err := c.Receive(&reply); err != nil {
		return nil, gone(ctx, op, err)
	}
	if reply.Failure != nil {
		return &reply, reply.Failure
	}
	return &reply, nil
}

func gone(ctx context.Context, op Op, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", op, context.Cause(ctx))
	}
	return fmt.Errorf("%s: %w (%v)", op, ErrGone, err)
}

// Dial connects to the monitor of the sandbox whose folder is dir, and checks
// that root serves it. It gives ErrGone where nobody does.
func Dial(dir string) (*Conn, error) {
	c, err := dialBeneath(dir, SocketName)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
			return nil, ErrGone
		}
		return nil, err
	}
	if err := CheckPeer(c); err != nil {
		c.Close()
		return nil, err
	}
	return NewConn(c), nil
}

// Listen makes the socket called name in dir. The path of a folder may be
// longer than a socket address takes (108 bytes, unix(7)): it goes by
// descriptor.
func Listen(dir, name string) (*net.UnixListener, error) {
	var l *net.UnixListener
	err := withDir(dir, func(short string) (err error) {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: short + "/" + name})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on %s/%s: %w", dir, name, err)
	}
	l.SetUnlinkOnClose(false) // that path is gone by then
	return l, nil
}

func dialBeneath(dir, name string) (*net.UnixConn, error) {
	var c *net.UnixConn
	err := withDir(dir, func(short string) (err error) {
		c, err = net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: short + "/" + name})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect to %s/%s: %w", dir, name, err)
	}
	return c, nil
}

// withDir calls f with a short path of dir that is good for the call.
func withDir(dir string, f func(short string) error) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	return f("/proc/self/fd/" + strconv.Itoa(fd))
}

// DialFor connects to a socket that is to be served by a child which inherits
// its listener: the connection waits in the backlog.
func DialFor(dir, name string) (*net.UnixConn, error) { return dialBeneath(dir, name) }

// PeerPid is the pid of the process at the other end, as the caller's pid
// namespace numbers it.
func PeerPid(c *net.UnixConn) (int, error) {
	cred, err := peer(c)
	if err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// CheckPeer makes sure that the other end is of the caller's own user.
func CheckPeer(c *net.UnixConn) error {
	cred, err := peer(c)
	if err != nil {
		return err
	}
	if int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("the other end of the socket has uid %d, expected %d", cred.Uid, os.Geteuid())
	}
	return nil
}

func peer(c *net.UnixConn) (*unix.Ucred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	if cerr != nil {
		return nil, fmt.Errorf("SO_PEERCRED: %w", cerr)
	}
	return cred, nil
}

// passedFile takes the one descriptor out of a control message.
func passedFile(oob []byte) (*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("control message: %w", err)
	}
	var file *os.File
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return nil, fmt.Errorf("control message: %w", err)
		}
		for _, fd := range fds {
			if file != nil {
				unix.Close(fd)
				continue
			}
			unix.CloseOnExec(fd)
			file = os.NewFile(uintptr(fd), "passed")
		}
	}
	return file, nil
}
