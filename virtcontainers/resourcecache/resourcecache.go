// Package resourcecache is the logic of sandboxes that were made for a create
// which nobody waits for any more: which request one may be handed to, and how
// long it is kept. It is pure: no files, no processes, no clock. The commands
// and the monitor use it.
//
// On a loaded node a caller may lose its patience before the virtual machine
// has booted. What was made by then is kept for a while, and given to the same
// request when that comes again: else the node would make and throw away the
// same machine for ever (CRI-O issue 4221).
package resourcecache

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// FileID tells one file from another, whatever their paths: a path may lead to
// something else by the time of the next request.
type FileID struct {
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

// Request is all that makes one create the same as another. What belongs to a
// caller, and is new with each one, is not in it: stdio, console socket,
// pid-file, log.
type Request struct {
	// Spec is config.json, with whatever unknown properties it has.
	Spec json.RawMessage `json:"spec"`
	// Bundle is the real path of the bundle. The rootfs and the sources of bind
	// mounts go by their paths, which the specification has: nothing of them is in
	// what is kept, and engines that come again have mounted the rootfs anew.
	Bundle string `json:"bundle"`
	// Network is the network namespace; zero for a fresh one. An engine may make
	// another one at the same path.
	Network FileID `json:"network"`
	// Settings are the runtime's flags and configuration, Versions those of the
	// runtime and of the guest image.
	Settings json.RawMessage   `json:"settings"`
	Versions map[string]string `json:"versions"`
}

// Key identifies a request.
type Key string

// Key gives a digest that is the same for requests that are: the order of a
// JSON object's properties and its white space do not matter, its numbers are
// compared as they are written.
func (r *Request) Key() (Key, error) {
	c := *r
	var err error
	if c.Spec, err = canonical(r.Spec); err != nil {
		return "", fmt.Errorf("config.json: %w", err)
	}
	if c.Settings, err = canonical(r.Settings); err != nil {
		return "", fmt.Errorf("settings: %w", err)
	}
	b, err := json.Marshal(&c)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return Key(hex.EncodeToString(sum[:])), nil
}

func canonical(text json.RawMessage) (json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	return json.Marshal(v) // properties in order
}

// State is how far a sandbox, and the create it is made for, have come.
type State string

const (
	Creating  State = "creating"  // somebody waits for it
	Unclaimed State = "unclaimed" // nobody does, but somebody may come
	Claimed   State = "claimed"   // it has become a container
	Abandoned State = "abandoned" // nobody will: it is to go
)

// Event is what happens to a sandbox in the cache.
type Event string

const (
	CallerGone  Event = "the caller has gone"
	Acknowledge Event = "the caller has taken the container"
	Adopt       Event = "the same request has come"
	GiveUp      Event = "it is not wanted"
	Expire      Event = "its time is over"
	Fail        Event = "it has failed"
)

// ErrEvent is an event that cannot be in a state.
var ErrEvent = errors.New("not possible")

// transitions has what an event makes of a state. An abandoned sandbox stays
// that, a claimed one is no affair of the cache any more.
var transitions = map[State]map[Event]State{
	Creating:  {CallerGone: Unclaimed, Acknowledge: Claimed, GiveUp: Abandoned, Fail: Abandoned},
	Unclaimed: {Adopt: Creating, GiveUp: Abandoned, Expire: Abandoned, Fail: Abandoned},
	Claimed:   {},
	Abandoned: {CallerGone: Abandoned, GiveUp: Abandoned, Expire: Abandoned, Fail: Abandoned},
}

// Next gives the state after an event, or ErrEvent.
func (s State) Next(e Event) (State, error) {
	next, ok := transitions[s][e]
	if !ok {
		return s, fmt.Errorf("%s sandbox: %s: %w", s, e, ErrEvent)
	}
	return next, nil
}

// Visible reports whether there is a container as far as state, list, start and
// kill are concerned; delete by force is for all.
func (s State) Visible() bool { return s == Creating || s == Claimed }

// Clock is a point of time that survives the suspension of the host, and
// nothing that was before its boot.
type Clock struct {
	Boot string // random id of the host's boot
	// Since is the time since then, including that in suspension
	// (CLOCK_BOOTTIME).
	Since time.Duration
}

// Expired reports whether what was to be kept until the given time of the
// given boot is to go now. What is of another boot has no process any more.
func Expired(boot string, until time.Duration, now Clock) bool {
	return boot != now.Boot || now.Since >= until
}
