package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state"
)

var (
	// ErrBusy is a cgroup that has processes and so cannot be removed.
	ErrBusy = errors.New("cgroup has processes")
	// ErrNested is a cgroup below which others have made more.
	ErrNested = errors.New("cgroup has cgroups below it")
)

// settlePause is how long an ended process may still be listed.
const settlePause = 5 * time.Millisecond

// Remove waits until the cgroup's processes have ended and removes it: those
// of its folders that Create has made, or all where it has made the unit that
// they belong to, and no other. It ends no process itself. All steps run, also after one that fails; what is not
// there (any more) is no error, so that it may be repeated.
//
// Errors: ErrBusy and ctx's, ErrNested, or that of a system call or of
// systemd.
func (c *Cgroup) Remove(ctx context.Context) error {
	var errs []error
	for _, g := range c.Groups {
		if g.Made || c.UnitMade {
			errs = append(errs, g.waitEmpty(ctx))
		}
	}
	// Stopping a unit would kill what is in it.
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	if c.UnitMade {
		if err := c.units.stop(ctx, c.Unit); err != nil {
			errs = append(errs, fmt.Errorf("stop unit %s: %w", c.Unit, err))
		}
	}
	for _, g := range c.Groups {
		// systemd leaves a v1 folder that is busy at the moment when it looks.
		if g.Made || c.UnitMade {
			errs = append(errs, g.remove(ctx))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	return nil
}

// remove removes the folder, again and again while it has processes that end.
func (g *Group) remove(ctx context.Context) error {
	if err := onCgroupFS(g.Dir); gone(err) {
		return nil
	} else if err != nil {
		return err
	}
	for {
		err := unix.Rmdir(g.Dir)
		if err == nil || gone(err) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return &os.PathError{Op: "rmdir", Path: g.Dir, Err: err}
		}
		pids, perr := g.pids()
		if perr != nil {
			return perr
		}
		if len(pids) == 0 {
			// Either the last one has ended meanwhile, or that is not why.
			if err := unix.Rmdir(g.Dir); err == nil || gone(err) {
				return nil
			}
			return fmt.Errorf("%w: %s", ErrNested, g.Dir)
		}
		if err := g.waitEmpty(ctx); err != nil {
			return err
		}
	}
}

// waitEmpty waits for the end of each process of the group. v1 has no event
// for an empty group, but each process has one for its end.
func (g *Group) waitEmpty(ctx context.Context) error {
	var last []int
	for {
		pids, err := g.pids()
		if err != nil || len(pids) == 0 {
			return err
		}
		if slices.Equal(pids, last) {
			// They have ended, and the kernel is about to say so here too.
			select {
			case <-ctx.Done():
			case <-time.After(settlePause):
			}
		}
		last = pids
		if err := waitAll(ctx, pids); err != nil {
			return fmt.Errorf("%w: %s: %s: %w", ErrBusy, g.Dir, strings.Join(describe(pids), ", "), err)
		}
	}
}

func waitAll(ctx context.Context, pids []int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, pid := range pids {
		if pid == 0 { // one that this pid namespace does not see
			return errors.New("a process of another pid namespace")
		}
		p, err := state.FindProcess(pid)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err == nil {
			err = p.Wait(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// describe names processes for an error.
func describe(pids []int) []string {
	var names []string
	for _, pid := range pids {
		s := "process " + strconv.Itoa(pid)
		if b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm")); err == nil {
			s += " (" + strings.TrimSpace(string(b)) + ")"
		}
		names = append(names, s)
	}
	return names
}

// onCgroupFS makes sure that a folder is a cgroup: the record that names it
// may be older than the host's mounts.
func onCgroupFS(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if st.Type != unix.CGROUP_SUPER_MAGIC && st.Type != unix.CGROUP2_SUPER_MAGIC {
		return fmt.Errorf("%s is not a cgroup", dir)
	}
	return nil
}
