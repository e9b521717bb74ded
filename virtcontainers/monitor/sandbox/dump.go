package sandbox

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// Bounds of a dump, in bytes: of this process's goroutines, and of what is taken
// over from the guest.
const (
	maxStacks    = 1 << 20
	maxGuestText = 1 << 20
)

// dumpSignal asks a monitor what it is doing, as it asks containerd and dockerd.
const dumpSignal = unix.SIGUSR1

// dumpEnd is the last line of a dump.
const dumpEnd = "end of dump"

// dumpOnSignal writes a dump at each dumpSignal, until stop is called.
func (s *Sandbox) dumpOnSignal(w io.Writer) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, dumpSignal)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range signals {
			s.dump(w)
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
		<-done
	}
}

// dump says what goes on in this process, in its containers and in the guest, for
// people who look into something that hangs. The guest comes last, and is given up
// after TeardownTimeout.
func (s *Sandbox) dump(w io.Writer) {
	stacks := make([]byte, maxStacks)
	stacks = stacks[:runtime.Stack(stacks, true)]
	fmt.Fprintf(w, "dump of sandbox %s at %s\n%s\nmonitor's goroutines:\n%s\n",
		s.cfg.ID, time.Now().UTC().Format(time.RFC3339), s.dumpContainers(), stacks)
	fmt.Fprintf(w, "%s\n%s\n", s.dumpGuest(), dumpEnd)
}

// dumpContainers says how far each container and its processes have come.
func (s *Sandbox) dumpContainers() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for id, c := range s.containers {
		fmt.Fprintf(&b, "container %s: shim %d; %s; killed: %t; shim ended: %t; released: %t\n",
			id, c.shim.Pid, c.init.dump(), c.isKilled(), isClosed(c.shimGone), isClosed(c.released))
		c.mu.Lock()
		for name, p := range c.execs {
			fmt.Fprintf(&b, "exec %s in %s: %s\n", name, id, p.dump())
		}
		c.mu.Unlock()
	}
	for id, r := range s.rooms.by {
		fmt.Fprintf(&b, "room of container %s: %s\n", id, r.state)
	}
	return b.String()
}

func (p *process) dump() string {
	return fmt.Sprintf("process ended: %t; output flushed: %t; shim's connection ended: %t", isClosed(p.ended), isClosed(p.flushed), isClosed(p.controlEnded))
}

// dumpGuest gives what the guest's console and its agent say.
func (s *Sandbox) dumpGuest() string {
	if s.booting() {
		return "the machine boots"
	}
	if s.machine == nil {
		return "the machine did not boot"
	}
	text := "guest's console:\n" + plainText(string(s.machine.VM.Console()))
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Config.Runtime.TeardownTimeout.Std())
	defer cancel()
	rep, err := s.machine.Guest.Dump(ctx, &api.Empty{})
	if err != nil {
		return fmt.Sprintf("%s\nthe agent does not say what it is doing: %v", text, err)
	}
	said := rep.GetText()
	return text + "\nguest's " + plainText(said[:min(len(said), maxGuestText)])
}

// plainText takes out of a guest's text what a terminal would obey.
func plainText(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r >= ' ' && r < 0x7f {
			return r
		}
		if r == '\t' {
			return ' '
		}
		return -1
	}, text)
}
