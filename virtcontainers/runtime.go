// Package virtcontainers is the OCI runtime: one method of Runtime for each
// verb, one verb a file. It runs in the command process; what has to live
// longer is done by the sandbox's monitor and the container's shim.
package virtcontainers

import (
	"os"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// Runtime is what every verb works on.
type Runtime struct {
	Store  *state.Store
	Config *config.Config
	Log    *logrus.Logger
	// Exe is the runtime's own executable, for the monitor and the shims.
	Exe string
	// Stderr is the user's: notices that are no failure, such as the fall
	// back to emulation.
	Stderr *os.File
	// NotifySocket is the socket on which the caller wants to be told that a
	// container is ready (sd_notify(3)): a path, or @ and an abstract name; ""
	// for none. Create gives the container a socket for that, start waits.
	NotifySocket string
}

// CreateOptions are the flags of create that mean something here.
type CreateOptions struct {
	ID            string
	Bundle        string // folder with config.json
	ConsoleSocket string // path of the socket that receives the terminal
	PidFile       string // written last; "" for none
	PreserveFDs   int
	SystemdCgroup bool
	// Image is what the rootfs is made of, where that is not the bundle's.
	Image *monitor.Image
	// Stdio of the container where it has no terminal, or no console socket.
	Stdin, Stdout, Stderr *os.File
}

// RunOptions are the flags of run.
type RunOptions struct {
	CreateOptions
	Detach      bool
	Keep        bool
	NoSubreaper bool
	// Started, if set, is called when the container's process runs.
	Started func()
}

// ExecOptions are the flags of exec, after --process and the flags that
// override it have been merged by the command.
type ExecOptions struct {
	ID            string
	Process       []byte // OCI process object as JSON; see ExecProcess
	Detach        bool
	ConsoleSocket string
	PidFile       string
	PreserveFDs   int
	IgnorePaused  bool

	Stdin, Stdout, Stderr *os.File
}

// State is what the state command prints: the OCI state and the fields that
// runc adds. Callers decode it over structs of their own, so that no other
// field may appear.
type State struct {
	OCIVersion  string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Pid         int               `json:"pid"` // 0 when stopped
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}
