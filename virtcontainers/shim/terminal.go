package shim

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// catchSignals catches whatever can be caught, so that it can be passed on.
func catchSignals() <-chan os.Signal {
	c := make(chan os.Signal, 64)
	signal.Notify(c)
	return c
}

// sendConsole makes a terminal, sends its master through the console socket
// and keeps the slave: as the shim's controlling terminal, so that a change of
// size comes as SIGWINCH, and raw, since the guest's terminal does the
// processing.
func sendConsole(socket *os.File, width, height uint16) (*os.File, error) {
	defer socket.Close()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a terminal: %w", err)
	}
	defer master.Close()
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, fmt.Errorf("unlock the terminal: %w", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, fmt.Errorf("find the terminal: %w", err)
	}
	name := "/dev/pts/" + strconv.Itoa(n)
	slave, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the terminal: %w", err)
	}
	if width != 0 && height != 0 {
		unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height})
	}
	if err := unix.IoctlSetInt(int(slave.Fd()), unix.TIOCSCTTY, 0); err != nil {
		slave.Close()
		return nil, fmt.Errorf("take the terminal: %w", err)
	}
	if _, err := MakeRaw(slave); err != nil {
		slave.Close()
		return nil, err
	}
	if err := sendFile(socket, master, name); err != nil {
		slave.Close()
		return nil, err
	}
	return slave, nil
}

// sendFile passes one descriptor, with its name as the data, as runc does.
// The receiver answers nothing.
func sendFile(socket, f *os.File, name string) error {
	c, err := net.FileConn(socket)
	if err != nil {
		return fmt.Errorf("console socket: %w", err)
	}
	defer c.Close()
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("console socket is %s, expected a unix socket", c.LocalAddr().Network())
	}
	if _, _, err := uc.WriteMsgUnix([]byte(name), unix.UnixRights(int(f.Fd())), nil); err != nil {
		return fmt.Errorf("send the terminal through the console socket: %w", err)
	}
	return nil
}

// MakeRaw sets a terminal raw (cfmakeraw(3)) and gives its earlier settings.
func MakeRaw(f *os.File) (*unix.Termios, error) {
	old, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("read the terminal's settings: %w", err)
	}
	raw := *old
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag &^= unix.CSIZE | unix.PARENB
	raw.Cflag |= unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &raw); err != nil {
		return nil, fmt.Errorf("set the terminal raw: %w", err)
	}
	return old, nil
}

// RestoreTerminal undoes MakeRaw.
func RestoreTerminal(f *os.File, old *unix.Termios) error {
	return unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, old)
}

// loopbackUp brings the loopback interface up (netdevice(7)).
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(ifr))); errno != 0 {
		return fmt.Errorf("bring the loopback interface up: %w", errno)
	}
	return nil
}
