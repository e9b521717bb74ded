package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/lifecycle"
)

const (
	containerVersion = 1
	containerRecord  = "state.json"
)

// Container is the record of a container.
type Container struct {
	// Version is that of the format; SaveContainer sets it.
	Version int    `json:"version"`
	ID      string `json:"id"`
	// Sandbox is the id of the sandbox that the container lives in; its own
	// unless it is in a pod.
	Sandbox     string            `json:"sandbox"`
	Bundle      string            `json:"bundle"` // absolute path
	Rootfs      string            `json:"rootfs"` // absolute path
	OCIVersion  string            `json:"ociVersion"`
	Owner       string            `json:"owner"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// Status is how far the container has come: anything but stopped.
	Status lifecycle.Status `json:"status"`
	// Creator is the command that creates the container, Shim the process
	// whose pid goes into the pid-file.
	Creator Process   `json:"creator"`
	Shim    Process   `json:"shim"`
	Created time.Time `json:"created"`
	// BootID is the boot that the processes belong to; this one where empty.
	BootID   string `json:"bootID"`
	Terminal bool   `json:"terminal"`
	// Notify says that the container has a socket for sd_notify(3).
	Notify        bool   `json:"notify,omitempty"`
	SystemdCgroup bool   `json:"systemdCgroup"`
	CgroupsPath   string `json:"cgroupsPath"`
	// Cgroup is the container's cgroup on the host (package cgroup), as far as
	// it has been made.
	Cgroup json.RawMessage `json:"cgroup,omitempty"`
	// Process is the OCI process object, for exec to start from.
	Process json.RawMessage `json:"process,omitempty"`
	// Resources is the OCI resources object with what updates have changed, for
	// the next one.
	Resources json.RawMessage `json:"resources,omitempty"`
	// Hooks is the OCI hooks object, for start and delete.
	Hooks json.RawMessage `json:"hooks,omitempty"`
}

// check says what is wrong with the record of the container id.
func (c *Container) check(id string) error {
	if c.ID != id {
		return fmt.Errorf("id %q instead of %q", c.ID, id)
	}
	if err := ValidateID(c.Sandbox); err != nil {
		return fmt.Errorf("sandbox %q: %w", c.Sandbox, err)
	}
	switch c.Status {
	case lifecycle.Creating, lifecycle.Created, lifecycle.Running, lifecycle.Paused:
		return nil
	}
	return fmt.Errorf("status %q", c.Status)
}

// Container reads the record of a container. The processes of an earlier boot
// are left out of it: a stranger may have their pids by now.
//
// Errors: ErrInvalidID, ErrNotExist, ErrCorrupt, ErrFutureVersion, or that of
// a system call.
func (s *Store) Container(id string) (*Container, error) {
	if err := ValidateID(id); err != nil {
		return nil, err
	}
	c := &Container{}
	err := s.load(containersDir, id, containerRecord, containerVersion, c)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("read the state of container %s: %w", id, err)
	}
	if err := c.check(id); err != nil {
		return nil, corrupt(s.path(containersDir, id, containerRecord), err)
	}
	if err := forgetBefore(c.BootID, &c.Creator, &c.Shim); err != nil {
		return nil, err
	}
	return c, nil
}

// SaveContainer writes the record of a container. On an error the old record
// stays, if there was one, and nothing else is left. The caller's operation is
// under way with the id.
func (s *Store) SaveContainer(c *Container) error {
	if err := ValidateID(c.ID); err != nil {
		return err
	}
	if err := c.check(c.ID); err != nil {
		return fmt.Errorf("write the state of container %s: %w", c.ID, err)
	}
	rec := *c
	rec.Version = containerVersion
	if err := stampBoot(&rec.BootID); err != nil {
		return err
	}
	if err := s.save(containersDir, c.ID, containerRecord, &rec); err != nil {
		return fmt.Errorf("write the state of container %s: %w", c.ID, err)
	}
	return nil
}

// RemoveContainer removes the record of a container, and what an interrupted
// SaveContainer has left. That there is none is no error. Files that are not
// ours stay, with the record, and the error names them. The caller's operation is
// under way with the id.
func (s *Store) RemoveContainer(id string) error {
	if err := ValidateID(id); err != nil {
		return err
	}
	err := s.remove(containersDir, id, containerRecord, func(e fs.DirEntry) bool {
		return e.Type().IsRegular() && isTemp(e.Name(), containerRecord)
	})
	if err != nil {
		return fmt.Errorf("remove the state of container %s: %w", id, err)
	}
	return nil
}

// Entry is one container of a list: its record, or why that cannot be read.
type Entry struct {
	ID        string
	Container *Container
	Err       error
}

// Containers reads all records, sorted by id. What is no container's is
// skipped.
func (s *Store) Containers() ([]Entry, error) {
	ids, err := s.names(containersDir)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var entries []Entry
	for _, id := range ids {
		c, err := s.Container(id)
		if errors.Is(err, ErrNotExist) {
			continue // removed just now, or never finished
		}
		entries = append(entries, Entry{ID: id, Container: c, Err: err})
	}
	return entries, nil
}

// load reads one record. The error is fs.ErrNotExist when there is none.
func (s *Store) load(kind, id, record string, version int, v any) error {
	dir, err := s.open(kind, id)
	if err != nil {
		return err
	}
	defer dir.Close()
	return readRecord(dir, record, version, v)
}

// save writes one record, and takes a folder that it had to make back when it
// cannot.
func (s *Store) save(kind, id, record string, v any) error {
	dir, fresh, err := s.makeDir(kind, id)
	if err != nil {
		return err
	}
	defer dir.Close()
	err = writeRecord(dir, record, v)
	if err == nil || !fresh {
		return err
	}
	parent, perr := s.open(kind)
	if perr != nil {
		return errors.Join(err, perr)
	}
	defer parent.Close()
	// The record may have its name already: who gets an error has no record.
	return errors.Join(err, unlink(dir, record, 0), unlink(parent, id, unix.AT_REMOVEDIR))
}
