// Package monitor is how commands and shims talk to the monitor of a sandbox:
// the messages on its socket, their framing, and a client. The monitor itself
// is package monitor/sandbox.
//
// The socket lies in the sandbox's 0700 folder and both ends check that the
// other is root (SO_PEERCRED, unix(7)). A connection carries one Request and
// the Replies to it; what happens after the first Reply depends on the Op.
package monitor

import (
	"encoding/json"
	"errors"
	"syscall"

	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/disk"
	"github.com/vc-runtime/vc-runtime/virtcontainers/size"
	"github.com/vc-runtime/vc-runtime/virtcontainers/stats"
)

// SocketName is the monitor's socket, in the sandbox's folder.
const SocketName = "monitor.sock"

// Op is what a Request asks for.
type Op string

const (
	// OpSandbox is the first request on the connection that the monitor
	// inherits from the create that spawned it, and holds a claim as OpClaim
	// does.
	OpSandbox Op = "sandbox"
	// OpSpare is the first request instead, to a monitor that is to have a
	// machine ready for whoever asks for one. Its Reply says when that is so; by
	// its socket others can ask for that, too.
	// From then on OpSandbox, from who has claimed the spare, makes it the monitor
	// of a sandbox, and the connection is the claim: its first Reply says that it has
	// heard, and its second one that the guest has.
	OpSpare Op = "spare"
	// OpClaim holds the container: until the claimant has sent OpClaimed on
	// the same connection, its end means that nobody wants the container.
	//
	// With a Key it adopts a sandbox that is kept for the same request, and gives
	// EKEYREJECTED where there is none.
	OpClaim   Op = "claim"
	OpClaimed Op = "claimed"
	// OpAbandon says that the container is not wanted: on the connection of its
	// claim, or on one of its own about a sandbox that is kept or, with Container,
	// about room that is.
	OpAbandon Op = "abandon"
	// OpCreate is sent by a container's shim with the file server's socket,
	// unless there is nothing to be shared.
	// The first Reply says that the container was created, the last one has
	// the Exit; one before that may be Ending. In between the shim may send
	// OpSignal, OpResize and OpUnserved. The container ends with the connection.
	OpCreate Op = "create"
	// OpExec is the same for a further process.
	OpExec Op = "exec"
	// OpStream turns the connection into the bytes of one stream.
	OpStream Op = "stream"

	OpStart     Op = "start"
	OpSignal    Op = "signal"    // delivers a signal, tears nothing down
	OpStop      Op = "stop"      // StopContainer; answers when it is stopped
	OpResize    Op = "resize"    // sets the size of a terminal
	OpUnserved  Op = "unserved"  // says that the file server has ended
	OpProcesses Op = "processes" // host pids of shims
	OpPause     Op = "pause"
	OpResume    Op = "resume"
	OpUpdate    Op = "update" // sets limits
	OpStats     Op = "stats"  // reads the guest's cgroup
	// OpEvents has a first Reply, and then one for each OOM kill in the
	// container. The connection ends with the container.
	OpEvents Op = "events"
	// OpReady answers when the container has said that it is ready
	// (sd_notify(3)), which it may do before it is started; with ESRCH when it
	// ends without.
	OpReady Op = "ready"
)

// Request is what a client sends.
type Request struct {
	Op        Op     `json:"op"`
	Container string `json:"container,omitempty"`
	Process   string `json:"process,omitempty"` // "" is the container's init
	Key       string `json:"key,omitempty"`     // OpClaim: resourcecache.Key
	// Room is the resourcecache.Key of a create that joins: OpClaim, for which its room
	// in the machine is kept, and OpAbandon on the claim where it is to be kept now.
	Room string `json:"room,omitempty"`

	// Trace is the path of a trace to write into; "" for none. What the monitor
	// does for a container or sandbox goes into the trace of its creation.
	Trace string `json:"trace,omitempty"`

	Sandbox *SandboxConfig `json:"sandbox,omitempty"` // OpSandbox, OpSpare
	// CallerOOMScore is the OOM score of who asks a spare with OpSandbox; a monitor
	// that is spawned inherits it.
	CallerOOMScore int         `json:"callerOOMScore,omitempty"`
	Spec           []byte      `json:"spec,omitempty"`   // OpCreate, OpExec, OpUpdate: JSON for the guest
	Image          *Image      `json:"image,omitempty"`  // OpCreate, where the rootfs is not shared
	Disks          []disk.Disk `json:"disks,omitempty"`  // OpCreate: block devices, each with a Node
	Stdio          Stdio       `json:"stdio,omitzero"`   // OpCreate, OpExec
	Stream         string      `json:"stream,omitempty"` // OpStream: api.Kind
	Signal         int         `json:"signal,omitempty"` // OpSignal, OpStop
	All            bool        `json:"all,omitempty"`    // OpSignal
	Width          uint16      `json:"width,omitempty"`  // OpResize, in characters
	Height         uint16      `json:"height,omitempty"`
	// Grace is how long OpStop with TERM waits before it kills, in
	// nanoseconds; negative never escalates.
	Grace int64 `json:"grace,omitempty"`
	// Demand is what the container may use: OpCreate, OpUpdate.
	Demand size.Demand `json:"demand,omitzero"`
	// OOMFile is the path of the file that OpCreate's container leaves, before
	// its Exit is told, where the guest's OOM killer has ended a process of it.
	OOMFile string `json:"oomFile,omitempty"`
	// OOMScore is process.oomScoreAdj of OpCreate's container, for the machine; nil
	// where it says nothing about that.
	OOMScore *int `json:"oomScore,omitempty"`
}

// Image is what a container made from an image has, where others have a
// rootfs that is shared.
type Image struct {
	// Layers are paths of files with an erofs, the lowest first. They are only
	// read, by any number of containers at a time.
	Layers []string `json:"layers"`
	// Upper is the path of a file with an ext4, the container's own.
	Upper string `json:"upper"`
	// Files are the texts of hostname, hosts and resolv.conf, by that name.
	Files map[string][]byte `json:"files,omitempty"`
	// User is who the process is: user or user:group, each a name in the rootfs
	// or a number. "" leaves it to the specification.
	User string `json:"user,omitempty"`
}

// SandboxConfig is all that a new monitor needs to know.
type SandboxConfig struct {
	ID     string        `json:"id"`
	Root   string        `json:"root"` // of the state store
	Exe    string        `json:"exe"`  // the runtime's path: the guest image may lie beside it
	Config config.Config `json:"config"`
	// Demand is what all containers together may use, where the caller told;
	// zero otherwise.
	Demand size.Demand `json:"demand,omitzero"`
	// Cgroup is the cgroup of the host that the monitor is in (package cgroup);
	// nothing on a host without.
	Cgroup json.RawMessage `json:"cgroup,omitempty"`
	// Key is that of the request for the first container; "" where the sandbox is
	// not to be kept for the same one.
	Key string `json:"key,omitempty"`
	// OwnNetwork is set where the first container's network namespace is a fresh
	// one, which goes with its shim.
	OwnNetwork bool `json:"ownNetwork,omitempty"`
	// Spare is set where nobody has asked for the machine yet: its start comes
	// after all others', and where memory is short it ends no other one.
	Spare bool `json:"spare,omitempty"`
}

// Stdio says which streams a process has; see the agent's protocol.
type Stdio struct {
	Stdin    bool `json:"stdin,omitempty"`
	Stdout   bool `json:"stdout,omitempty"`
	Stderr   bool `json:"stderr,omitempty"`
	Terminal bool `json:"terminal,omitempty"`
}

// Reply answers a Request.
type Reply struct {
	Failure *Failure `json:"failure,omitempty"`
	Exit    *Exit    `json:"exit,omitempty"`
	// Ending says that the container's machine has been killed: nobody uses the
	// file server any more. The Exit follows when the machine has gone.
	Ending bool  `json:"ending,omitempty"`
	Pids   []int `json:"pids,omitempty"`
	// Process names the process that OpExec made.
	Process string `json:"process,omitempty"`
	// Waiting says that the request is still to have its turn, and that others have
	// had theirs meanwhile. Another reply follows.
	Waiting bool `json:"waiting,omitempty"`
	// Notices are for the user's eyes, once.
	Notices []string `json:"notices,omitempty"`
	Stats   *Stats   `json:"stats,omitempty"` // OpStats
	OOM     bool     `json:"oom,omitempty"`   // OpEvents
}

// Stats is what a guest says of a container.
type Stats struct {
	Files      stats.Files       `json:"files"` // of its cgroup
	Interfaces []stats.Interface `json:"interfaces,omitempty"`
}

// Exit is the end of a process. Everything that the sandbox held for it has
// been released when it is sent, but for what the shim itself holds.
type Exit struct {
	Code int  `json:"code"` // 128+N after signal N; 137 where the VM died
	OOM  bool `json:"oom,omitempty"`
	// Killed says that somebody waits for the end: the output that is still
	// on its way is given the configured flush_timeout, not for ever.
	Killed bool `json:"killed,omitempty"`
}

// Failure is an error on its way through the socket.
type Failure struct {
	Text  string        `json:"text"`
	Errno syscall.Errno `json:"errno,omitempty"`
}

// ErrGone says that the monitor does not run, or ended during a call.
var ErrGone = errors.New("the sandbox's monitor is gone")

func (f *Failure) Error() string { return f.Text }

// Unwrap lets errors.Is compare with an errno: ESRCH for a process or
// container that is not there or has ended, ENOENT and EACCES for an
// executable that cannot be run.
func (f *Failure) Unwrap() error {
	if f.Errno == 0 {
		return nil
	}
	return f.Errno
}

// FailureOf makes the Failure that carries err.
func FailureOf(err error) *Failure {
	if err == nil {
		return nil
	}
	f := &Failure{Text: err.Error()}
	errors.As(err, &f.Errno)
	return f
}
