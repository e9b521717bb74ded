// Package failpoint names the places at which the runtime takes, records,
// starts, asks for or gives back something, so that a test can make it fail,
// die or wait exactly there. Every program of the host has them: the commands,
// the monitor and the shims.
//
// A release has none of it: without the build tag failpoints, Here is empty
// and nothing reads the environment. With the tag, each program looks at two
// variables, which it hands on to those that it starts:
//
//	VC_FAILPOINTS=NAME[@N]=ACTION[;NAME[@N]=ACTION…]
//	VC_FAILPOINTS_TRACE=FILE
//
// @N waits for the N-th time that the process comes by; otherwise every time
// counts. The actions:
//
//	error          Here gives ErrInjected
//	error:ENOSPC   Here gives that errno: ENOSPC, EIO, ENOMEM or EMFILE
//	kill           SIGKILL for the process itself
//	sleep:1s       waits
//	pause:SOCKET   connects to a unix socket, says "NAME PID\n", and waits for
//	               a line with an action, or for the end of the connection,
//	               upon which it goes on
//
// The trace gets a line "PID point NAME" for each point that is passed; what
// else is written there is for Trace to say.
package failpoint

import "errors"

// ErrInjected is the failure of a point that was told to fail.
var ErrInjected = errors.New("injected failure")

// Name is a place in the code.
type Name string

// ImageSteps begins the names of the image store's steps, before and after each
// of which there is a failpoint. They are not in Points: the store has tests of
// its own, which go through all of them.
const ImageSteps = "image."

// SpareSteps begins the names of the steps in the life of a spare. They are not
// in Points either, since what goes wrong there fails no create: SparePoints has
// them.
const SpareSteps = "spare."

// Process says which program a place is in.
type Process string

// The programs. A shim's file server and QEMU are not ours: no point is in
// them.
const (
	Command Process = "command"
	Monitor Process = "monitor"
	Shim    Process = "shim"
	// Filler is the process that makes spares.
	Filler Process = "spares"
	// Any is a place in a package that all of them use.
	Any Process = "any"
)

// Verb is what has to be done to come by a place.
type Verb string

const (
	Create Verb = "create"
	Start  Verb = "start"
	Exec   Verb = "exec"
	Kill   Verb = "kill"
	Delete Verb = "delete"
)

// Point describes a place: what comes right after it.
type Point struct {
	Name    Name
	Process Process
	Verb    Verb
	Next    string
}
