package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// copySize is the size of the buffer of each stream, in bytes.
const copySize = 32 << 10

// maxConsoleTail bounds what is read from a terminal after its process has
// ended, in bytes: more than the kernel buffers.
const maxConsoleTail = 1 << 20

// stdio holds our ends of a process's pipes or the master of its terminal.
// A pipe is the buffer of its stream: nothing is read before the host has
// connected.
type stdio struct {
	mu        sync.Mutex
	endpoints map[api.Kind]*endpoint // guarded by mu
	exited    chan struct{}          // closed when the process has ended
	closed    bool                   // guarded by mu
	// over is closed when every stream has been connected and is done; open is
	// how many are not, guarded by mu. With none the first look closes it.
	over chan struct{}
	open int
}

// endpoint is one stream of a process.
type endpoint struct {
	file   *os.File  // non-blocking
	stream io.Closer // what is connected to it, nil until then
}

// spent stands for a stream that has been: the stream itself has buffers.
type spent struct{}

func (spent) Close() error { return nil }

// newStdio makes the pipes that the host asked for, and gives the process's
// ends of them, -1 for none. The caller closes those with closeFds.
func newStdio(want *api.Stdio) (*stdio, [3]int, error) {
	s := &stdio{endpoints: map[api.Kind]*endpoint{}, exited: make(chan struct{}), over: make(chan struct{})}
	fds := [3]int{-1, -1, -1}
	if want.GetTerminal() {
		return s, fds, nil // the terminal comes from crun
	}
	for i, p := range []struct {
		kind api.Kind
		want bool
	}{
		{api.KindStdin, want.GetStdin()}, {api.KindStdout, want.GetStdout()}, {api.KindStderr, want.GetStderr()},
	} {
		if !p.want {
			continue
		}
		var pipe [2]int
		if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
			closeFds(fds)
			s.close()
			return nil, fds, fmt.Errorf("make a pipe: %w", err)
		}
		ours, theirs := pipe[0], pipe[1]
		if p.kind == api.KindStdin {
			ours, theirs = theirs, ours
		}
		fds[i] = theirs
		// Cannot fail for a descriptor that is open.
		_ = unix.SetNonblock(ours, true)
		s.endpoints[p.kind] = &endpoint{file: os.NewFile(uintptr(ours), string(p.kind))}
		s.open++
	}
	return s, fds, nil
}

func closeFds(fds [3]int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// setConsole adds the terminal, once crun has made it.
func (s *stdio) setConsole(master *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		master.Close()
		return
	}
	s.endpoints[api.KindConsole] = &endpoint{file: master}
	s.open++
}

// served gives what is closed when no stream of the process is left. It is for a
// process that has ended: it gets no more of them.
func (s *stdio) served() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeOver()
	return s.over
}

// closeOver is called with mu held.
func (s *stdio) closeOver() {
	if s.open == 0 {
		select {
		case <-s.over:
		default:
			close(s.over)
		}
	}
}

// drop lets go of a stream that is done.
func (s *stdio) drop(kind api.Kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endpoints[kind].stream = spent{}
	s.open--
	select {
	case <-s.exited: // else a terminal may still come
		s.closeOver()
	default:
	}
}

// resize sets the window size of the terminal.
func (s *stdio) resize(width, height uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ep, ok := s.endpoints[api.KindConsole]
	if !ok {
		return fmt.Errorf("the process has no terminal: %w", unix.ENOTTY)
	}
	raw, err := ep.file.SyscallConn()
	if err != nil {
		return err
	}
	var ierr error
	err = raw.Control(func(fd uintptr) {
		ierr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(height), Col: uint16(width)})
	})
	return errors.Join(err, ierr)
}

// exit says that the process has ended: outputs are read to what is in them
// now, input stops.
func (s *stdio) exit() { close(s.exited) }

// close gives up every stream. Nothing more is delivered.
func (s *stdio) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, ep := range s.endpoints {
		ep.file.Close()
		if ep.stream != nil {
			ep.stream.Close()
		}
	}
}

// serve connects a stream of the host with the process and returns when it is
// done. Each stream can be connected once.
func (s *stdio) serve(kind api.Kind, stream io.ReadWriteCloser) error {
	defer stream.Close()
	file, err := s.take(kind, stream)
	if err != nil {
		return err
	}
	defer s.drop(kind)
	defer file.Close()
	switch kind {
	case api.KindStdin:
		s.copyIn(file, stream)
	case api.KindConsole:
		go s.copyConsoleIn(file, stream)
		s.copyOut(file, stream, readConsole)
	default:
		go func() {
			// The host sends nothing here: it has gone away when this
			// ends, and the process is to see a broken pipe.
			io.Copy(io.Discard, stream)
			file.Close()
		}()
		s.copyOut(file, stream, readFile)
	}
	return nil
}

func (s *stdio) take(kind api.Kind, stream io.Closer) (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ep, ok := s.endpoints[kind]
	switch {
	case !ok:
		return nil, fmt.Errorf("no stream %q: %w", kind, unix.ENOENT)
	case ep.stream != nil || s.closed:
		return nil, fmt.Errorf("stream %q was connected before: %w", kind, unix.EBUSY)
	}
	ep.stream = stream
	return ep.file, nil
}

// copyIn copies what the host sends until it ends, nobody reads it or the
// process has ended, and closes the file. After that it closes our side, which
// tells the host, and drops the rest.
func (s *stdio) copyIn(file *os.File, stream io.ReadWriteCloser) {
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-s.exited:
			file.Close()
			stream.Close()
		case <-done:
		}
	}()
	io.CopyBuffer(onlyWriter{file}, onlyReader{stream}, make([]byte, copySize))
	file.Close()
	stream.Close()
	io.Copy(io.Discard, onlyReader{stream})
}

// copyConsoleIn copies what the host types. Its end is not the end of the
// output.
func (s *stdio) copyConsoleIn(file *os.File, stream io.Reader) {
	io.CopyBuffer(onlyWriter{file}, onlyReader{stream}, make([]byte, copySize))
	io.Copy(io.Discard, onlyReader{stream})
}

// onlyReader and onlyWriter keep io.CopyBuffer from using ReadFrom and WriteTo
// with buffers of their own.
type onlyReader struct{ io.Reader }
type onlyWriter struct{ io.Writer }

// copyOut copies the output of a process until its end, or the host's. When
// the process has ended, what is in the pipe at that moment still belongs to
// it; a descendant that holds on to the pipe is cut off.
func (s *stdio) copyOut(file *os.File, stream io.Writer, read readFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-s.exited:
			file.SetReadDeadline(time.Unix(1, 0))
		case <-ctx.Done():
		}
	}()
	buf := make([]byte, copySize)
	for {
		n, err := read(file, buf)
		if n > 0 {
			if _, werr := stream.Write(buf[:n]); werr != nil {
				return
			}
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			drain(file, stream, buf)
			return
		}
		if err != nil {
			return
		}
	}
}

type readFunc func(f *os.File, b []byte) (int, error)

func readFile(f *os.File, b []byte) (int, error) { return f.Read(b) }

// readConsole reads from the master of a terminal. EIO means that nobody has
// the terminal open, which the process can undo by opening it again: its
// end is the end of the process.
func readConsole(f *os.File, b []byte) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n int
	var rerr error
	err = raw.Read(func(fd uintptr) bool {
		n, rerr = readFd(fd, b)
		return rerr != unix.EAGAIN && rerr != unix.EIO
	})
	return max(n, 0), errors.Join(err, rerr)
}

func readFd(fd uintptr, b []byte) (n int, err error) {
	for {
		n, err = syscall.Read(int(fd), b)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// drain copies what is in the pipe or the terminal now, without waiting.
func drain(file *os.File, stream io.Writer, buf []byte) {
	raw, err := file.SyscallConn()
	if err != nil {
		return
	}
	left := maxConsoleTail
	err = raw.Control(func(fd uintptr) {
		// For a pipe this is the exact number. A terminal's master counts
		// only what its line discipline has got so far.
		if n, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ); err == nil && !isTerminal(fd) {
			left = n
		}
	})
	for err == nil && left > 0 {
		var n int
		var rerr error
		err = raw.Control(func(fd uintptr) { n, rerr = readFd(fd, buf[:min(left, len(buf))]) })
		if rerr != nil || n <= 0 {
			return
		}
		left -= n
		if _, err := stream.Write(buf[:n]); err != nil {
			return
		}
	}
}

func isTerminal(fd uintptr) bool {
	_, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
	return err == nil
}
