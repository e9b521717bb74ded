package testenv

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Console receives a terminal as conmon does: one descriptor through a unix
// socket, without an answer.
type Console struct {
	e    *Env
	Path string

	l      *net.UnixListener
	master *os.File
	done   chan struct{}

	mu  sync.Mutex // guards buf
	buf strings.Builder
}

// NewConsole listens for a terminal. Its path is short: a socket's address
// has 108 bytes (unix(7)).
func (e *Env) NewConsole() *Console {
	e.Helper()
	f, err := os.CreateTemp(e.Dir, "tty")
	if err != nil {
		e.Fatal(err)
	}
	f.Close()
	os.Remove(f.Name())
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: f.Name()})
	if err != nil {
		e.Fatal(err)
	}
	return &Console{e: e, Path: f.Name(), l: l}
}

// Receive takes the terminal, which has been sent already, and collects its
// output from now on.
func (c *Console) Receive() {
	c.e.Helper()
	fd, err := c.receive()
	if err == nil {
		err = c.open(fd)
	}
	if err != nil {
		c.e.Fatalf("console socket: %v", err)
	}
}

func (c *Console) receive() (int, error) {
	c.l.SetDeadline(time.Now().Add(5 * time.Second))
	conn, err := c.l.AcceptUnix()
	if err != nil {
		return -1, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	data, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*4))
	_, n, _, _, err := conn.ReadMsgUnix(data, oob)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return -1, errors.Join(err, errors.New("one control message expected"))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.Join(err, errors.New("one descriptor expected"))
	}
	unix.CloseOnExec(fds[0])
	return fds[0], nil
}

// open takes the master fd, and collects what comes out of it.
func (c *Console) open(fd int) error {
	// Non-blocking, so that Close ends a read.
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	c.master = os.NewFile(uintptr(fd), "master")
	c.done = make(chan struct{})
	go c.collect()
	return nil
}

// Command runs the runtime at a terminal of its own, as a user does, and gives
// the terminal and the runtime's pid.
func (e *Env) Command(width, height uint16, args ...string) (*Console, int) {
	e.Helper()
	return e.AtTerminal(width, height, Command{Path: e.Runtime, Args: append(e.Globals(), args...), Env: e.environ()})
}

// AtTerminal runs a program at a terminal of its own. Of the command only Path,
// Args and Env count.
func (e *Env) AtTerminal(width, height uint16, cmd Command) (*Console, int) {
	e.Helper()
	c := &Console{e: e}
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = c.open(fd)
	}
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	var n int
	if err == nil {
		n, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
	}
	if err != nil {
		e.Fatalf("make a terminal: %v", err)
	}
	c.Resize(width, height)
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		e.Fatal(err)
	}
	defer slave.Close()
	pid, err := e.reaper.start(cmd.Path, append([]string{cmd.Path}, cmd.Args...), &os.ProcAttr{
		Dir: "/", Env: nonNil(cmd.Env), Files: []*os.File{slave, slave, slave},
		Sys: &syscall.SysProcAttr{Setsid: true, Setctty: true},
	})
	if err != nil {
		e.Fatal(err)
	}
	return c, pid
}

func (c *Console) collect() {
	defer close(c.done)
	b := make([]byte, 4096)
	for {
		n, err := c.master.Read(b)
		c.mu.Lock()
		c.buf.Write(b[:n])
		c.mu.Unlock()
		if err != nil {
			return // EIO: nobody has the slave any more
		}
	}
}

// Output is what has come so far, with plain line ends.
func (c *Console) Output() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.ReplaceAll(c.buf.String(), "\r\n", "\n")
}

// Rest waits until nobody has the terminal any more, and gives all its output,
// byte by byte.
func (c *Console) Rest() string {
	<-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String()
}

// Expect waits until the output has the text.
func (c *Console) Expect(text string) {
	c.e.Helper()
	Eventually(c.e, DefaultTimeout, func() error {
		if out := c.Output(); !strings.Contains(out, text) {
			return errors.New("terminal: no " + text + " in: " + out)
		}
		return nil
	})
}

// AwaitRaw waits until the program at the terminal has made it raw.
func (c *Console) AwaitRaw() {
	c.e.Helper()
	Eventually(c.e, DefaultTimeout, func() error {
		if c.Settings().Lflag&unix.ICANON != 0 {
			return errors.New("the terminal is not raw, which shows: " + c.Output())
		}
		return nil
	})
}

// Settings are the terminal's.
func (c *Console) Settings() unix.Termios {
	c.e.Helper()
	rc, err := c.master.SyscallConn()
	if err != nil {
		c.e.Fatal(err)
	}
	var settings *unix.Termios
	var get error
	err = rc.Control(func(fd uintptr) { settings, get = unix.IoctlGetTermios(int(fd), unix.TCGETS) })
	if err := errors.Join(err, get); err != nil {
		c.e.Fatal(err)
	}
	return *settings
}

// Type writes into the terminal.
func (c *Console) Type(text string) {
	c.e.Helper()
	if _, err := io.WriteString(c.master, text); err != nil {
		c.e.Fatal(err)
	}
}

// Resize sets the terminal's size.
func (c *Console) Resize(width, height uint16) {
	c.e.Helper()
	rc, err := c.master.SyscallConn()
	if err != nil {
		c.e.Fatal(err)
	}
	var set error
	err = rc.Control(func(fd uintptr) {
		set = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height})
	})
	if err := errors.Join(err, set); err != nil {
		c.e.Fatal(err)
	}
}

// Close closes the socket and the master.
func (c *Console) Close() {
	if c.l != nil {
		c.l.Close()
	}
	if c.master == nil {
		return
	}
	c.master.Close()
	<-c.done
	c.master = nil
}
