package guest

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// channels is struct ethtool_channels of linux/ethtool.h: the command, then how many
// queues for receiving, sending, other things and both there can be and are.
type channels [9]uint32

// Places in channels.
const (
	channelsCmd = 0
	maxCombined = 4
	inCombined  = 8
)

// channelsRequest is the struct ifreq of an ethtool request (netdevice(7)).
type channelsRequest struct {
	name [unix.IFNAMSIZ]byte
	data *channels
	_    [24 - unsafe.Sizeof(uintptr(0))]byte
}

// useQueues has an interface use all queues that the host has given it, as
// `ethtool -L` does: the driver begins with one for each CPU that was in use when it
// found the device. A device with one queue needs nothing.
func useQueues(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket for ethtool requests: %w", err)
	}
	defer unix.Close(fd)
	c := channels{channelsCmd: unix.ETHTOOL_GCHANNELS}
	err = ethtool(fd, name, &c)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil // another driver's: it has one
	}
	if err != nil {
		return fmt.Errorf("ask for the queues: %w", err)
	}
	if c[inCombined] >= c[maxCombined] {
		return nil
	}
	c[channelsCmd], c[inCombined] = unix.ETHTOOL_SCHANNELS, c[maxCombined]
	if err := ethtool(fd, name, &c); err != nil {
		return fmt.Errorf("use %d queues: %w", c[maxCombined], err)
	}
	return nil
}

func ethtool(fd int, name string, c *channels) error {
	req := channelsRequest{data: c}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(c)
	if errno != 0 {
		return errno
	}
	return nil
}
