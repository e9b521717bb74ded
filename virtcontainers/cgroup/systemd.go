package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// ErrNoSystemd is a host on which systemd does not run. The text is runc's.
var ErrNoSystemd = errors.New("systemd cgroup flag passed, but systemd support for managing cgroups is not available")

// units makes and removes scopes.
type units interface {
	// start makes a scope with the properties, and waits until it is there.
	start(ctx context.Context, unit string, props []dbus.Property) error
	// set sets properties of a scope, until it is stopped.
	set(ctx context.Context, unit string, props []dbus.Property) error
	// stop removes a scope; one that does not exist is no error.
	stop(ctx context.Context, unit string) error
}

// Names of systemd's D-Bus errors (org.freedesktop.systemd1(5)).
const (
	errUnitExists = "org.freedesktop.systemd1.UnitExists"
	errNoSuchUnit = "org.freedesktop.systemd1.NoSuchUnit"
)

// systemdBus asks the host's systemd, by the system bus or, where there is
// none, by systemd's own socket.
type systemdBus struct{}

func (systemdBus) connect(ctx context.Context) (*dbus.Conn, error) {
	// sd_booted(3)
	if st, err := os.Lstat("/run/systemd/system"); err != nil || !st.IsDir() {
		return nil, ErrNoSystemd
	}
	conn, err := dbus.NewWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	return conn, nil
}

func (b systemdBus) start(ctx context.Context, unit string, props []dbus.Property) error {
	conn, err := b.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	job := func(done chan<- string) error {
		_, err := conn.StartTransientUnitContext(ctx, unit, "replace", props, done)
		return err
	}
	err = wait(ctx, job)
	if isBusError(err, errUnitExists) {
		// A failed unit of that name may be left over; a live one stays and
		// is an error.
		if rerr := conn.ResetFailedUnitContext(ctx, unit); rerr == nil {
			err = wait(ctx, job)
		}
	}
	return err
}

// properties are those of the scope: as runc sets them, and the limits, which
// systemd would undo if they were written to the folder instead
// (systemd.scope(5), systemd.resource-control(5)).
func (c *Cgroup) properties(first int, lim Limits) []dbus.Property {
	var props []dbus.Property
	set := func(name string, value any) {
		props = append(props, dbus.Property{Name: name, Value: godbus.MakeVariant(value)})
	}
	set("Description", "vc-runtime container "+c.Unit)
	set("Slice", c.Slice)
	set("PIDs", []uint32{uint32(first)})
	// The folder is ours: systemd does not move processes out of it.
	set("Delegate", true)
	// The default dependencies would end the container at the start of a
	// shutdown, before the manager that wants to stop it.
	set("DefaultDependencies", false)
	set("MemoryAccounting", true)
	set("CPUAccounting", true)
	set("TasksAccounting", true)
	if c.v2() {
		set("IOAccounting", true)
	} else {
		set("BlockIOAccounting", true)
	}
	return append(props, lim.properties(c.v2())...)
}

func (b systemdBus) set(ctx context.Context, unit string, props []dbus.Property) error {
	conn, err := b.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.SetUnitPropertiesContext(ctx, unit, true, props...)
}

func (b systemdBus) stop(ctx context.Context, unit string) error {
	conn, err := b.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	err = wait(ctx, func(done chan<- string) error {
		_, err := conn.StopUnitContext(ctx, unit, "replace", done)
		return err
	})
	if isBusError(err, errNoSuchUnit) {
		return nil // systemd removes an empty scope by itself
	}
	if rerr := conn.ResetFailedUnitContext(ctx, unit); rerr != nil && !isBusError(rerr, errNoSuchUnit) {
		err = errors.Join(err, rerr)
	}
	return err
}

// wait runs a job of systemd and waits for its end.
func wait(ctx context.Context, job func(done chan<- string) error) error {
	done := make(chan string, 1)
	if err := job(done); err != nil {
		return err
	}
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("systemd's job ended as %q", result)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for systemd's job: %w", ctx.Err())
	}
}

func isBusError(err error, name string) bool {
	var e godbus.Error
	return errors.As(err, &e) && e.Name == name
}
