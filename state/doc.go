// Package state keeps what has to outlive a process: the records of
// containers and sandboxes, which operation is under way with a container id, the
// lock of each sandbox id, and the proof that a sandbox's monitor lives. It also identifies processes.
//
// The commands use it, and the monitor, which records its VM and holds its
// sandbox's lock. The shims and the guest do not. docs/state.md describes the
// files, docs/locking.md who takes which lock.
//
// A record says how far a container has come, never that it has stopped:
// package lifecycle derives that from what is alive.
package state

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// DefaultRoot is the folder of the store where the user names none. Podman
// names none (no --root), so it must not change between versions.
const DefaultRoot = "/run/vc-runtime"

// Errors with the texts of runc (libcontainer/error.go), which callers match:
// podman and containerd take "does not exist" in the error of kill, delete
// and state for a container that is gone.
var (
	ErrNotExist  = errors.New("container does not exist")
	ErrExist     = errors.New("container with given ID already exists")
	ErrInvalidID = errors.New("invalid container ID format")
)

var (
	// ErrCorrupt is given for a record that cannot be understood. The error
	// names the file.
	ErrCorrupt = errors.New("damaged record")
	// ErrFutureVersion is given for a record that a later version of the
	// runtime has written. The error names the file.
	ErrFutureVersion = errors.New("record of a later version of vc-runtime")
	// ErrHeld is given where a living monitor holds the sandbox.
	ErrHeld = errors.New("a monitor holds the sandbox")
)

// MaxIDLength is how long an id may be, in bytes. An id is a file name (at
// most 255 bytes), also with "share-" before it and ".sock" after it.
const MaxIDLength = 255 - len("share-") - len(".sock")

// ValidateID gives ErrInvalidID for an id that runc would not take, too, or
// that is longer than MaxIDLength. A valid id is safe as a file name.
func ValidateID(id string) error {
	if id == "" || id == "." || id == ".." || len(id) > MaxIDLength {
		return ErrInvalidID
	}
	for _, c := range []byte(id) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9',
			c == '_', c == '+', c == '-', c == '.':
		default:
			return ErrInvalidID
		}
	}
	return nil
}

// BootID is the kernel's random id of this boot (random(4)). Pids and start
// times mean something only within one boot.
func BootID() (string, error) {
	const path = "/proc/sys/kernel/random/boot_id"
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	id := strings.TrimSpace(string(b))
	if id == "" {
		return "", fmt.Errorf("read boot id: %s is empty", path)
	}
	return id, nil
}
