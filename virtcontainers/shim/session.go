package shim

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
	"github.com/vc-runtime/vc-runtime/virtcontainers/share"
)

// Session is a connection to one process in a guest. A shim has one, and so
// has a foreground exec, which is its own shim.
type Session struct {
	// FlushTimeout is how long the rest of the output may take after the
	// container was killed.
	FlushTimeout time.Duration

	// Release, if set, is called when nobody uses the file server any more but the
	// exit is still to be told, in a goroutine that Wait does not wait for.
	Release func()

	// GiveUpOutput lets go of an output file once the process has closed its
	// end, so that its reader sees the end too. It is for files that are the
	// session's alone.
	GiveUpOutput bool

	dir       string
	container string
	process   string
	stdio     monitor.Stdio
	conn      *monitor.Conn
	served    <-chan struct{} // closed when the file server has ended; nil without
	term      Terminal

	outputs sync.WaitGroup
	ending  chan struct{}     // closed when the machine is about to be gone
	exits   chan monitor.Exit // one value, or closed when the monitor has gone
}

// Terminal is the host's side of a process's terminal.
type Terminal struct {
	File *os.File // nil without a terminal
	// Width and Height are the size where the file has none.
	Width, Height uint16
}

// StdioOf says which streams a process needs: a descriptor that is closed or
// leads to /dev/null is /dev/null in the guest, without a stream.
func StdioOf(terminal bool, stdin, stdout, stderr *os.File) monitor.Stdio {
	if terminal {
		return monitor.Stdio{Terminal: true}
	}
	return monitor.Stdio{Stdin: matters(stdin), Stdout: matters(stdout), Stderr: matters(stderr)}
}

func matters(f *os.File) bool {
	var st unix.Stat_t
	if f == nil || unix.Fstat(int(f.Fd()), &st) != nil {
		return false
	}
	return st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3)
}

// Begin sends req, an OpCreate, to the monitor of the sandbox in dir, and returns
// when the container exists. file and server are those of its share.
func Begin(ctx context.Context, dir string, req *monitor.Request, file *os.File, server *share.Server) (*Session, *monitor.Reply, error) {
	return begun(dir, req, server, func(conn *monitor.Conn) (*monitor.Reply, error) { return conn.Call(ctx, req, file) })
}

// BeginExec sends req, an OpExec, to the monitor of the sandbox in dir, and returns
// when the process exists. Where many are asked for at once each waits for its turn;
// limit and waiting are those of [monitor.Conn.AnswerInTurn].
func BeginExec(ctx context.Context, dir string, req *monitor.Request, limit time.Duration, waiting func()) (*Session, *monitor.Reply, error) {
	return begun(dir, req, nil, func(conn *monitor.Conn) (*monitor.Reply, error) { return conn.CallInTurn(ctx, req, limit, waiting) })
}

func begun(dir string, req *monitor.Request, server *share.Server, call func(*monitor.Conn) (*monitor.Reply, error)) (*Session, *monitor.Reply, error) {
	conn, err := monitor.Dial(dir)
	if err != nil {
		return nil, nil, err
	}
	rep, err := call(conn)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	s := newSession(conn)
	s.dir, s.container, s.process, s.stdio = dir, req.Container, rep.Process, req.Stdio
	if server != nil {
		s.served = server.Done()
	}
	return s, rep, nil
}

// newSession is a session whose process has been made.
func newSession(conn *monitor.Conn) *Session {
	s := &Session{conn: conn, ending: make(chan struct{}), exits: make(chan monitor.Exit, 1)}
	go s.awaitExit()
	return s
}

// awaitExit reads the last replies. It ends with the connection.
func (s *Session) awaitExit() {
	defer close(s.exits)
	ending := sync.OnceFunc(func() { close(s.ending) })
	for {
		var rep monitor.Reply
		if _, err := s.conn.Receive(&rep); err != nil {
			return
		}
		if rep.Ending {
			ending()
		}
		if rep.Exit != nil {
			s.exits <- *rep.Exit
			return
		}
	}
}

// Connect joins the process's streams with the given files.
func (s *Session) Connect(ctx context.Context, stdin, stdout, stderr *os.File, term Terminal) error {
	s.term = term
	if s.stdio.Terminal {
		if !s.resize() && term.Width != 0 && term.Height != 0 {
			s.sendSize(term.Width, term.Height)
		}
		c, err := s.stream(ctx, api.KindConsole)
		if err != nil {
			return err
		}
		out := stdout
		if term.File != stdin {
			out = term.File
		}
		go io.Copy(c, term.File) // ends with the process: a read of a terminal cannot be stopped
		s.copyOut(out, c)
		return nil
	}
	if s.stdio.Stdin {
		c, err := s.stream(ctx, api.KindStdin)
		if err != nil {
			return err
		}
		go func() { // as above
			io.Copy(c, stdin)
			c.CloseWrite()
		}()
	}
	for _, o := range []struct {
		on   bool
		kind api.Kind
		file *os.File
	}{{s.stdio.Stdout, api.KindStdout, stdout}, {s.stdio.Stderr, api.KindStderr, stderr}} {
		if !o.on {
			continue
		}
		c, err := s.stream(ctx, o.kind)
		if err != nil {
			return err
		}
		s.copyOut(o.file, c)
	}
	return nil
}

// copyOut copies output until its end, or until nobody reads it any more,
// which the process then sees as a closed pipe.
func (s *Session) copyOut(to *os.File, from *net.UnixConn) {
	s.outputs.Go(func() {
		defer from.Close()
		io.Copy(onlyWriter{to}, from)
		if s.GiveUpOutput && !s.stdio.Terminal {
			giveUp(to)
		}
	})
}

// onlyWriter hides from io.Copy that a file can read from a socket by itself: with
// splice(2), without blocking, and again and again while its reader is slow. A
// standard stream is no file that Go polls.
type onlyWriter struct{ io.Writer }

// giveUp makes a standard stream lead to /dev/null. It is not closed: the next
// file to be opened would take its number.
func giveUp(f *os.File) {
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return // the reader waits for the shim's end then
	}
	defer unix.Close(null)
	unix.Dup3(null, int(f.Fd()), unix.O_CLOEXEC)
}

func (s *Session) stream(ctx context.Context, kind api.Kind) (*net.UnixConn, error) {
	conn, err := monitor.Dial(s.dir)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	_, err = conn.Call(ctx, &monitor.Request{
		Op: monitor.OpStream, Container: s.container, Process: s.process, Stream: string(kind),
	}, nil)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect %s: %w", kind, err)
	}
	return conn.UnixConn, nil
}

// streamTimeout is how long the monitor may take to connect a stream.
const streamTimeout = time.Minute

// Wait passes signals on until the process has ended and its output is
// written, and gives the process's exit code. Where the monitor has gone
// before it could tell, that is 137 and monitor.ErrGone.
func (s *Session) Wait(signals <-chan os.Signal) (int, error) {
	ending, served := s.ending, s.served
	late := time.NewTimer(endTimeout)
	late.Stop() // until something has happened that the exit comes soon after
	defer late.Stop()
	for {
		select {
		case sig := <-signals:
			s.pass(sig)
		case <-ending:
			// The file server may go, and what it has to say is no news.
			ending, served = nil, nil
			late.Reset(endTimeout)
			if s.Release != nil {
				go s.Release()
			}
		case exit, ok := <-s.exits:
			if !ok {
				return s.gone()
			}
			s.flush(exit)
			return exit.Code, nil
		case <-late.C:
			return s.gone()
		case <-served:
			// Without its rootfs the container cannot go on: the monitor ends
			// it, at the latest when the connection ends. But the file server
			// also ends by itself when the VM does, just before the exit is told.
			served = nil
			s.conn.Send(&monitor.Request{Op: monitor.OpUnserved}, nil)
			late.Reset(s.FlushTimeout)
		}
	}
}

// endTimeout is how long the exit may take once the machine has been killed: more
// than the monitor gives its process (10 s) and the network (10 s) before it tells
// the exit all the same. A monitor that is stopped meanwhile is not waited for.
const endTimeout = 30 * time.Second

// gone is the end where there is no monitor to tell of it.
func (s *Session) gone() (int, error) {
	s.flush(monitor.Exit{Killed: true})
	return exitGone, monitor.ErrGone
}

// flush waits until all output is written: for ever, since a reader may take
// its time, or for FlushTimeout where somebody waits for the end.
func (s *Session) flush(exit monitor.Exit) {
	done := make(chan struct{})
	go func() { s.outputs.Wait(); close(done) }()
	if !exit.Killed {
		<-done
		return
	}
	select {
	case <-done:
	case <-time.After(s.FlushTimeout):
	}
}

// pass sends a signal on to the process in the guest.
func (s *Session) pass(sig os.Signal) {
	n, ok := sig.(unix.Signal)
	switch {
	case !ok, n == unix.SIGCHLD, n == unix.SIGURG, n == unix.SIGPIPE:
	case n == unix.SIGWINCH && s.stdio.Terminal:
		s.resize()
	default:
		s.conn.Send(&monitor.Request{Op: monitor.OpSignal, Signal: int(n)}, nil)
	}
}

// resize tells the guest the size of the host's terminal, if it has one.
func (s *Session) resize() bool {
	ws, err := unix.IoctlGetWinsize(int(s.term.File.Fd()), unix.TIOCGWINSZ)
	if err != nil || ws.Col == 0 || ws.Row == 0 {
		return false
	}
	s.sendSize(ws.Col, ws.Row)
	return true
}

func (s *Session) sendSize(w, h uint16) {
	s.conn.Send(&monitor.Request{Op: monitor.OpResize, Width: w, Height: h}, nil)
}

// Close gives the session up, which kills the process where it still runs.
func (s *Session) Close() { s.conn.Close() }
