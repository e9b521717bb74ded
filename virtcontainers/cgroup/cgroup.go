package cgroup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
)

// Cgroup is one cgroup in every hierarchy of the host. It encodes to JSON, and
// Load makes it again, with its driver: a later command need not be told.
type Cgroup struct {
	// Slice and Unit are those of the systemd driver; empty for cgroupfs.
	Slice string `json:"slice,omitempty"`
	Unit  string `json:"unit,omitempty"`
	// UnitMade is whether Create has made the unit.
	UnitMade bool    `json:"unitMade,omitempty"`
	Groups   []Group `json:"groups"`

	units units
	owner string // see SetOwner
}

// Group is a cgroup in one hierarchy.
type Group struct {
	// Controllers are those of a v1 hierarchy, separated by commas; empty for
	// v2.
	Controllers string `json:"controllers"`
	Mount       string `json:"mount"` // the hierarchy's mount point
	Dir         string `json:"dir"`   // the cgroup's folder, below Mount
	// Made is whether the folder is this cgroup's own: it was not there when
	// New looked, and Create has not found it made by somebody else. Only
	// such a folder is ever removed.
	Made bool `json:"made"`
}

// New finds out what Create will make for a placement, and makes nothing yet.
// The caller records the Cgroup before it calls Create, and again afterwards,
// so that nothing is left behind if it is killed in between.
//
// Errors: ErrNone, or that of a system call.
func New(p Placement) (*Cgroup, error) {
	h, err := readHost()
	if err != nil {
		return nil, err
	}
	return newOn(h, p, systemdBus{})
}

func newOn(h host, p Placement, u units) (*Cgroup, error) {
	c := &Cgroup{Slice: p.Slice, Unit: p.Unit, units: u}
	for _, hy := range h {
		g, err := h.group(hy, p)
		if err != nil {
			return nil, err
		}
		_, err = os.Lstat(g.Dir)
		g.Made = errors.Is(err, fs.ErrNotExist)
		if err != nil && !g.Made {
			return nil, fmt.Errorf("look for the cgroup: %w", err)
		}
		c.Groups = append(c.Groups, g)
	}
	return c, c.check()
}

// Load makes the Cgroup that was recorded as JSON.
func Load(record json.RawMessage) (*Cgroup, error) {
	c := &Cgroup{units: systemdBus{}}
	d := json.NewDecoder(bytes.NewReader(record))
	d.DisallowUnknownFields()
	err := d.Decode(c)
	if err == nil {
		err = c.check()
	}
	if err != nil {
		return nil, fmt.Errorf("recorded cgroup: %w", err)
	}
	return c, nil
}

// check makes sure that no folder but one below a mount is ever touched.
func (c *Cgroup) check() error {
	if len(c.Groups) == 0 {
		return ErrNone
	}
	for _, g := range c.Groups {
		if !filepath.IsAbs(g.Mount) || filepath.Clean(g.Dir) != g.Dir || !strings.HasPrefix(g.Dir, strings.TrimSuffix(g.Mount, "/")+"/") {
			return fmt.Errorf("cgroup %q is not below %q", g.Dir, g.Mount)
		}
	}
	return nil
}

// Create makes the cgroup with the process first in it; the systemd driver
// cannot make a scope without one, with cgroupfs it may be 0. What exists
// already is used as it is. What has been made when an error occurs is
// removed by Remove, like all else.
func (c *Cgroup) Create(ctx context.Context, first int, lim Limits) error {
	if c.Unit != "" {
		if err := failpoint.Here(failpoint.CreateMakeCgroup); err != nil {
			return fmt.Errorf("create unit %s: %w", c.Unit, err)
		}
		if first <= 0 {
			return fmt.Errorf("create unit %s: a scope needs a process", c.Unit)
		}
		if err := c.units.start(ctx, c.Unit, c.properties(first, lim)); err != nil {
			return fmt.Errorf("create unit %s: %w", c.Unit, err)
		}
		c.UnitMade = true
	}
	for i := range c.Groups {
		g := &c.Groups[i]
		if err := failpoint.Here(failpoint.CreateMakeCgroup); err != nil {
			return fmt.Errorf("create cgroup: %w", err)
		}
		if err := g.create(c.Unit == ""); err != nil {
			return fmt.Errorf("create cgroup: %w", err)
		}
		g.mark(c.owner)
		settings, err := lim.settings(g, c.Unit != "")
		if err == nil {
			err = g.apply(settings)
		}
		if err != nil {
			return fmt.Errorf("limit cgroup: %w", err)
		}
	}
	if first <= 0 {
		return nil
	}
	return c.Add(ctx, first)
}

// v2 reports whether cgroup v2 is all that the cgroup is in.
func (c *Cgroup) v2() bool { return len(c.Groups) == 1 && c.Groups[0].Controllers == "" }

// Add moves a process with all its threads into the cgroup. Its children
// follow only if they are born afterwards.
func (c *Cgroup) Add(ctx context.Context, pid int) error {
	for _, g := range c.Groups {
		if err := g.add(ctx, pid); err != nil {
			return fmt.Errorf("add process %d to the cgroup: %w", pid, err)
		}
	}
	return nil
}

// Pids lists the processes in the cgroup, in ascending order. There are none
// in one that does not exist.
func (c *Cgroup) Pids() ([]int, error) {
	var all []int
	for _, g := range c.Groups {
		pids, err := g.pids()
		if err != nil {
			return nil, fmt.Errorf("list the cgroup's processes: %w", err)
		}
		all = append(all, pids...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// create makes the folder, and those above it that are missing. The latter
// stay for good, as with runc: others use them by then. With enable, they pass
// the controllers of v2 on.
func (g *Group) create(enable bool) error {
	rel, err := filepath.Rel(g.Mount, g.Dir)
	if err != nil {
		return err
	}
	dir := g.Mount
	for part := range strings.SplitSeq(rel, "/") {
		if enable && g.Controllers == "" {
			enableControllers(dir)
		}
		parent := dir
		dir = filepath.Join(dir, part)
		err := os.Mkdir(dir, 0o755)
		if errors.Is(err, fs.ErrExist) {
			if dir == g.Dir {
				g.Made = false
			}
			err = nil
		}
		if err == nil && slices.Contains(strings.Split(g.Controllers, ","), "cpuset") {
			err = inheritCpuset(parent, dir)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// enableControllers gives a v2 cgroup's controllers to those below it. That
// fails for each one that is in use by a v1 hierarchy or for real-time
// processes, and for all where the cgroup has processes: statistics are
// missing then, no more.
func enableControllers(dir string) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return
	}
	on, _ := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	enabled := strings.Fields(string(on))
	for _, ctrl := range strings.Fields(string(b)) {
		if !slices.Contains(enabled, ctrl) {
			_ = write(filepath.Join(dir, "cgroup.subtree_control"), "+"+ctrl)
		}
	}
}

// inheritCpuset gives a new v1 cpuset the CPUs and memory nodes of its parent:
// it has none by itself, and takes no process without (cpuset(7)).
func inheritCpuset(parent, dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		have, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(have)) > 0 {
			continue
		}
		b, err := os.ReadFile(filepath.Join(parent, name))
		if err != nil {
			return err
		}
		if err := write(filepath.Join(dir, name), strings.TrimSpace(string(b))); err != nil {
			return err
		}
	}
	return nil
}

const (
	addAttempts = 5
	addPause    = 20 * time.Millisecond
)

// add moves a process into the group.
func (g *Group) add(ctx context.Context, pid int) error {
	for attempt := 1; ; attempt++ {
		err := write(filepath.Join(g.Dir, "cgroup.procs"), strconv.Itoa(pid))
		// Before Linux 6.1 a process could not be moved while one of its
		// threads was being born (TASK_NEW), which no event tells.
		if !errors.Is(err, unix.EINVAL) || attempt == addAttempts {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(addPause):
		}
	}
}

func (g *Group) pids() ([]int, error) {
	b, err := os.ReadFile(filepath.Join(g.Dir, "cgroup.procs"))
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, f := range strings.Fields(string(b)) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", g.Dir, err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// gone reports whether an error says that a cgroup does not exist (any more).
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

// write writes a value to a file of a cgroup, with one system call.
func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// Leave moves the caller out of the cgroup, into the one above it.
func (c *Cgroup) Leave() error {
	for _, g := range c.Groups {
		if err := write(filepath.Join(filepath.Dir(g.Dir), "cgroup.procs"), strconv.Itoa(os.Getpid())); err != nil {
			return fmt.Errorf("leave the cgroup: %w", err)
		}
	}
	return nil
}
