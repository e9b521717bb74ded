package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// events is a subscription to something that the kernel announces by netlink.
// It is made before the state it guards is looked at, so that no change can be
// missed.
type events struct {
	f *os.File
}

// listenUevents subscribes to what happens to devices.
func listenUevents() (*events, error) { return listen(unix.NETLINK_KOBJECT_UEVENT, 1) }

// listenLinks subscribes to what happens to network interfaces.
func listenLinks() (*events, error) { return listen(unix.NETLINK_ROUTE, unix.RTMGRP_LINK) }

func listen(protocol int, groups uint32) (*events, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("open the event socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("subscribe to events: %w", err)
	}
	return &events{f: os.NewFile(uintptr(fd), "events")}, nil
}

func (u *events) close() { u.f.Close() }

// wait returns when something has happened since the subscription or the last
// wait. What it was does not matter: the caller looks again.
func (u *events) wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { u.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var buf [8192]byte
	_, err := u.f.Read(buf[:])
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, unix.ENOBUFS): // events were lost: look again
		return nil
	case err != nil:
		return fmt.Errorf("read events: %w", err)
	}
	return nil
}
