package vhostuser

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is when a test gives up.
const patience = 30 * time.Second

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// all is an offer of everything that is known.
var all = Offer{features: knownFeatures, protocol: knownProtocol, queues: 2, slots: 8}

// openFiles counts the descriptors of this process.
func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// closesAll checks at the test's end that it has left no descriptor open.
func closesAll(t *testing.T) {
	pair(t) // the runtime's own are open then
	before := openFiles(t)
	t.Cleanup(func() {
		if after := openFiles(t); after != before {
			t.Errorf("%d descriptors are open, %d before", after, before)
		}
	})
}

// pair is a connection, and the other end of it as a file.
func pair(t *testing.T) (*net.UnixConn, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b := os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
	c, err := connOf(a)
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	t.Cleanup(func() { c.Close(); b.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c, b
}

// newRelay gives a relay and what QEMU has of it.
func newRelay(t *testing.T, o Offer) (*Relay, *net.UnixConn) {
	t.Helper()
	r, socket, err := New(o, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	qemu, err := connOf(socket)
	if err != nil {
		t.Fatal(err)
	}
	qemu.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { qemu.Close(); r.Close() })
	return r, qemu
}

// file is an open file of that content. Its descriptor is the caller's to close.
func file(t *testing.T, content string) int {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(fd, []byte(content)); err != nil {
		t.Fatal(err)
	}
	return fd
}

// contents reads the files of a message.
func contents(t *testing.T, m *message) (all []string) {
	t.Helper()
	for _, fd := range m.files {
		b := make([]byte, 64)
		n, err := unix.Pread(fd, b, 0)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(b[:n]))
	}
	return all
}

// say sends a message whose files have that content.
func say(t *testing.T, c *net.UnixConn, m *message, files ...string) {
	t.Helper()
	for _, f := range files {
		m.files = append(m.files, file(t, f))
	}
	defer m.close()
	if err := send(c, m); err != nil {
		t.Fatal(err)
	}
}

// hear receives a message.
func hear(t *testing.T, c *net.UnixConn) *message {
	t.Helper()
	m, err := receive(c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// asked asks the relay, and gives the number that it answers.
func asked(t *testing.T, c *net.UnixConn, m *message, files ...string) uint64 {
	t.Helper()
	say(t, c, m, files...)
	a := hear(t, c)
	defer a.close()
	if err := a.checkAnswer(m.request); err != nil {
		t.Fatal(err)
	}
	return a.number()
}

// isCut checks that QEMU's connection has ended. What it has said may not have been
// read.
func isCut(t *testing.T, qemu *net.UnixConn) {
	t.Helper()
	if m, err := receive(qemu); err != io.EOF && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("QEMU hears %v, %v, expected the end of its connection", m, err)
	}
}

// ended waits for the relay's end.
func ended(t *testing.T, r *Relay) {
	t.Helper()
	select {
	case <-r.Done():
	case <-time.After(patience):
		t.Fatal("the relay does not end")
	}
}

// plain makes a message; needing one whose sender awaits an answer.
func plain(r request, payload []byte) *message {
	return &message{request: r, flags: flagVersion, payload: payload}
}

func needing(m *message) *message {
	m.flags |= flagNeedReply
	return m
}

// ringState is the payload of a message with a ring and a number.
func ringState(ring, n uint32) []byte {
	return binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, ring), n)
}

// region is the payload of a message about a region of memory.
func region(address uint64) []byte {
	b := make([]byte, tableHead)
	for _, n := range []uint64{address, 0x1000, address + 1, 0} {
		b = binary.NativeEndian.AppendUint64(b, n)
	}
	return b
}

// table is the payload of a memory table of so many regions.
func table(n int) []byte {
	b := ringState(uint32(n), 0)
	for i := range n {
		b = append(b, region(uint64(i))[tableHead:]...)
	}
	return b
}

// greet does what QEMU does until the guest's driver has the device: it chooses of
// the protocol's features those given.
func greet(t *testing.T, qemu *net.UnixConn, protocol uint64) {
	t.Helper()
	if n := asked(t, qemu, plain(getFeatures, nil)); n != knownFeatures {
		t.Errorf("features %#x, expected %#x", n, uint64(knownFeatures))
	}
	if n := asked(t, qemu, plain(getProtocolFeatures, nil)); n != knownProtocol {
		t.Errorf("protocol features %#x, expected %#x", n, uint64(knownProtocol))
	}
	say(t, qemu, numbered(setProtocolFeatures, protocol))
	if n := asked(t, qemu, plain(getQueueNum, nil)); n != 2 {
		t.Errorf("%d queues, expected 2", n)
	}
	if n := asked(t, qemu, plain(getMaxMemSlots, nil)); n != 8 {
		t.Errorf("%d regions, expected 8", n)
	}
	say(t, qemu, plain(setOwner, nil))
	say(t, qemu, numbered(setVringCall, 0), "an early call")
	say(t, qemu, numbered(setFeatures, protocolFeatures|version1))
	if protocol&protocolMemSlots == 0 {
		say(t, qemu, plain(setMemTable, table(1)), "low")
		say(t, qemu, plain(setMemTable, table(2)), "low", "high")
	} else {
		for _, address := range []uint64{1, 2, 3} {
			if n := asked(t, qemu, needing(plain(addMemReg, region(address))), string('a'+rune(address))); n != 0 {
				t.Errorf("ADD_MEM_REG: %d, expected 0", n)
			}
		}
		if n := asked(t, qemu, needing(plain(remMemReg, region(2))), "which"); n != 0 {
			t.Errorf("REM_MEM_REG: %d, expected 0", n)
		}
	}
	for ring := range uint32(2) {
		say(t, qemu, plain(setVringNum, ringState(ring, 128)))
		say(t, qemu, plain(setVringBase, ringState(ring, 0)))
		addr := make([]byte, addrSize)
		addr[0] = byte(ring)
		say(t, qemu, plain(setVringAddr, addr))
		say(t, qemu, numbered(setVringKick, uint64(ring)), "kick")
		say(t, qemu, numbered(setVringCall, uint64(ring)), "call")
		say(t, qemu, numbered(setVringErr, uint64(ring)|noFile))
	}
	for ring := range uint32(2) {
		say(t, qemu, plain(setVringEnable, ringState(ring, 1)))
	}
	asked(t, qemu, plain(getFeatures, nil)) // the relay has come to here
}

// fakeServer is a file server: it answers as libvhost-user does.
type fakeServer struct {
	features, protocol, queues, slots uint64
	refuses                           request // with an answer
	endsAt                            request // without one
	silentAt                          request

	got   []string // what it was told, with the contents of the files
	ended chan struct{}
}

func newServer() *fakeServer {
	return &fakeServer{features: knownFeatures | 1<<26, protocol: knownProtocol | 1<<5, queues: 128, slots: 32, ended: make(chan struct{})}
}

// serve answers until the end of the connection.
func (s *fakeServer) serve(t *testing.T, c *net.UnixConn) {
	defer close(s.ended)
	defer c.Close()
	for {
		m, err := receive(c)
		if err != nil {
			return
		}
		s.got = append(s.got, describe(t, m))
		m.close()
		var n uint64
		switch m.request {
		case s.endsAt:
			return
		case s.silentAt:
			continue
		case s.refuses:
			n = 1
		case getFeatures:
			n = s.features
		case getProtocolFeatures:
			n = s.protocol
		case getQueueNum:
			n = s.queues
		case getMaxMemSlots:
			n = s.slots
		case getVringBase:
			n = 7 << 32
		}
		if m.answered() {
			a := numbered(m.request, n)
			a.flags |= flagReply
			if send(c, a) != nil {
				return
			}
		}
	}
}

// describe tells all of a message but whether it needs an answer.
func describe(t *testing.T, m *message) string {
	return strings.Join(append([]string{m.request.String(), string(m.payload)}, contents(t, m)...), " ")
}

// attach has the relay take the server.
func (s *fakeServer) attach(t *testing.T, r *Relay) error {
	t.Helper()
	c, socket := pair(t)
	go s.serve(t, c) // ends with the connection
	t.Cleanup(func() { c.Close(); <-s.ended })
	defer socket.Close()
	return r.Attach(testContext(t), socket)
}

// What QEMU has said is told to a back end that comes later: all that still holds,
// in an order that it can work with, with the files.
func TestHandshakeIsRepeated(t *testing.T) {
	for name, protocol := range map[string]uint64{
		"regions, confirmed":  knownProtocol,
		"regions":             knownProtocol &^ protocolReplyAck,
		"a table, confirmed":  knownProtocol &^ protocolMemSlots,
		"a table, no answers": knownProtocol &^ protocolMemSlots &^ protocolReplyAck,
	} {
		t.Run(name, func(t *testing.T) {
			closesAll(t)
			r, qemu := newRelay(t, all)
			if isClosed(r.Running()) {
				t.Error("the device runs before anybody has said so")
			}
			greet(t, qemu, protocol)
			select {
			case <-r.Running():
			case <-time.After(patience):
				t.Fatal("the device does not run")
			}
			s := newServer()
			if err := s.attach(t, r); err != nil {
				t.Fatal(err)
			}
			r.Close()
			<-s.ended
			if want := repeated(t, protocol); !slices.Equal(s.got, want) {
				t.Errorf("the back end was told\n%q, expected\n%q", s.got, want)
			}
		})
	}
}

// repeated is what a back end is told after greet.
func repeated(t *testing.T, protocol uint64) (want []string) {
	t.Helper()
	told := func(m *message, files ...string) {
		want = append(want, strings.Join(append([]string{m.request.String(), string(m.payload)}, files...), " "))
	}
	told(plain(getFeatures, nil))
	told(plain(getProtocolFeatures, nil))
	told(numbered(setProtocolFeatures, protocol))
	told(plain(getQueueNum, nil))
	if protocol&protocolMemSlots != 0 {
		told(plain(getMaxMemSlots, nil))
	}
	told(plain(setOwner, nil))
	told(numbered(setFeatures, protocolFeatures|version1))
	if protocol&protocolMemSlots == 0 {
		told(plain(setMemTable, table(2)), "low", "high")
	} else {
		told(plain(addMemReg, region(1)), "b")
		told(plain(addMemReg, region(3)), "d")
	}
	for ring := range uint32(2) {
		told(plain(setVringNum, ringState(ring, 128)))
		told(plain(setVringBase, ringState(ring, 0)))
		addr := make([]byte, addrSize)
		addr[0] = byte(ring)
		told(plain(setVringAddr, addr))
		told(numbered(setVringErr, uint64(ring)|noFile))
		told(numbered(setVringCall, uint64(ring)), "call")
		told(numbered(setVringKick, uint64(ring)), "kick")
		told(plain(setVringEnable, ringState(ring, 1)))
	}
	told(plain(getFeatures, nil))
	return want
}

// From when it is attached on the back end is told everything, and answers, but can
// do no more than was offered.
func TestPassesOn(t *testing.T) {
	closesAll(t)
	r, qemu := newRelay(t, all)
	greet(t, qemu, knownProtocol)
	s := newServer()
	if err := s.attach(t, r); err != nil {
		t.Fatal(err)
	}
	before := openFiles(t)
	if n := asked(t, qemu, needing(plain(addMemReg, region(9))), "more"); n != 0 {
		t.Errorf("ADD_MEM_REG: %d, expected 0", n)
	}
	if n := asked(t, qemu, plain(getVringBase, ringState(1, 0))); n != 7<<32 {
		t.Errorf("GET_VRING_BASE: %#x, expected the back end's answer", n)
	}
	if n := asked(t, qemu, plain(getFeatures, nil)); n != knownFeatures {
		t.Errorf("features %#x, expected %#x", n, uint64(knownFeatures))
	}
	if n := asked(t, qemu, plain(getProtocolFeatures, nil)); n != knownProtocol {
		t.Errorf("protocol features %#x, expected %#x", n, uint64(knownProtocol))
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors are open, %d before", after, before)
	}
	if err := s.attach2(t, r); !errors.Is(err, ErrAttached) {
		t.Errorf("a second back end: %v", err)
	}
	qemu.Close()
	<-s.ended // with QEMU
	if got := s.got[len(s.got)-4]; got != "ADD_MEM_REG "+string(region(9))+" more" {
		t.Errorf("the back end was told %q", got)
	}
	ended(t, r)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	if err := r.Attach(testContext(t), os.Stdin); !errors.Is(err, ErrEnded) {
		t.Errorf("a back end after the end: %v", err)
	}
}

// attach2 has the relay take another connection.
func (s *fakeServer) attach2(t *testing.T, r *Relay) error {
	_, socket := pair(t)
	defer socket.Close()
	return r.Attach(testContext(t), socket)
}

// A back end that cannot do what was offered, ends, refuses or does not answer is not
// attached. Another one may be.
func TestUnfitBackEnd(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*fakeServer)
		says   string
	}{
		"a feature":           {func(s *fakeServer) { s.features &^= eventIdx }, "its features are"},
		"no protocol at all":  {func(s *fakeServer) { s.features &^= protocolFeatures }, "PROTOCOL_FEATURES"},
		"a protocol feature":  {func(s *fakeServer) { s.protocol &^= protocolMemSlots }, "its protocol features are"},
		"a queue":             {func(s *fakeServer) { s.queues = 1 }, "it has 1 queues, expected at least 2"},
		"regions":             {func(s *fakeServer) { s.slots = 7 }, "it takes 7 regions of memory, expected at least 8"},
		"ends at once":        {func(s *fakeServer) { s.endsAt = getFeatures }, "GET_FEATURES"},
		"ends in the middle":  {func(s *fakeServer) { s.endsAt = addMemReg }, "ADD_MEM_REG"},
		"ends with the last":  {func(s *fakeServer) { s.endsAt = setVringEnable }, "SET_VRING_ENABLE"},
		"refuses a region":    {func(s *fakeServer) { s.refuses = addMemReg }, "it refuses ADD_MEM_REG: answer 1, expected 0"},
		"refuses a ring":      {func(s *fakeServer) { s.refuses = setVringKick }, "it refuses SET_VRING_KICK"},
		"refuses the choices": {func(s *fakeServer) { s.refuses = setFeatures }, "it refuses SET_FEATURES"},
	} {
		t.Run(name, func(t *testing.T) {
			closesAll(t)
			r, qemu := newRelay(t, all)
			greet(t, qemu, knownProtocol)
			s := newServer()
			c.change(s)
			if err := s.attach(t, r); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, expected %q", err, c.says)
			}
			<-s.ended
			if err := newServer().attach(t, r); err != nil {
				t.Errorf("one that can: %v", err)
			}
			if n := asked(t, qemu, plain(getVringBase, ringState(0, 0))); n != 7<<32 {
				t.Errorf("GET_VRING_BASE: %#x, expected the back end's answer", n)
			}
		})
	}
}

// One that does not answer is waited for as long as the caller wants, or the machine
// lives.
func TestSilentBackEnd(t *testing.T) {
	for name, end := range map[string]func(context.CancelFunc, *net.UnixConn, *Relay){
		"the caller gives up": func(cancel context.CancelFunc, _ *net.UnixConn, _ *Relay) { cancel() },
		"the machine ends":    func(_ context.CancelFunc, qemu *net.UnixConn, _ *Relay) { qemu.Close() },
		"the relay is closed": func(_ context.CancelFunc, _ *net.UnixConn, r *Relay) { r.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			closesAll(t)
			r, qemu := newRelay(t, all)
			greet(t, qemu, knownProtocol)
			c, socket := pair(t)
			ctx, cancel := context.WithCancel(testContext(t))
			defer cancel()
			attached := make(chan error, 1)
			go func() { attached <- r.Attach(ctx, socket) }()
			hear(t, c).close() // it is asked
			end(cancel, qemu, r)
			if err := <-attached; err == nil {
				t.Error("it is attached")
			}
		})
	}
}

// Where a back end ends QEMU sees its connection closed.
func TestBackEndEnds(t *testing.T) {
	closesAll(t)
	r, qemu := newRelay(t, all)
	greet(t, qemu, knownProtocol)
	s := newServer()
	s.endsAt = getVringBase
	if err := s.attach(t, r); err != nil {
		t.Fatal(err)
	}
	say(t, qemu, plain(getVringBase, ringState(0, 0)))
	isCut(t, qemu)
	ended(t, r)
}

// What a back end says unasked, or is no answer, is not passed on.
func TestHostileBackEnd(t *testing.T) {
	answer := func(r request, payload []byte) *message {
		return &message{request: r, flags: flagVersion | flagReply, payload: payload}
	}
	eight := make([]byte, 8)
	for name, c := range map[string]struct {
		m     *message
		files []string
		says  string
	}{
		"another answer":  {m: answer(getFeatures, eight), says: "an answer to GET_FEATURES, expected one to GET_VRING_BASE"},
		"a request":       {m: plain(getVringBase, eight), says: "as a request"},
		"too long":        {m: answer(getVringBase, make([]byte, 9)), says: "9 bytes, expected 8"},
		"huge":            {m: answer(getVringBase, make([]byte, maxPayload+1)), says: "expected at most 264"},
		"unknown":         {m: answer(99, eight), says: "request 99"},
		"another version": {m: &message{request: getVringBase, flags: flagReply | 2, payload: eight}, says: "version 2"},
		"with a file":     {m: answer(getVringBase, eight), files: []string{"f"}, says: "with 1 files, expected none"},
	} {
		t.Run(name, func(t *testing.T) {
			closesAll(t)
			r, qemu, backend := attachedPair(t)
			say(t, qemu, plain(getVringBase, ringState(0, 0)))
			hear(t, backend).close()
			say(t, backend, c.m, c.files...)
			isCut(t, qemu)
			if err := r.Err(); !errors.Is(err, errMessage) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, expected %q", err, c.says)
			}
		})
	}
	t.Run("unasked", func(t *testing.T) {
		closesAll(t)
		r, qemu, backend := attachedPair(t)
		say(t, backend, answer(getVringBase, eight))
		isCut(t, qemu)
		if err := r.Err(); err == nil || !strings.Contains(err.Error(), "which nobody awaits") {
			t.Error(err)
		}
	})
}

// attachedPair is a relay with both connections in the test's hands.
func attachedPair(t *testing.T) (r *Relay, qemu, backend *net.UnixConn) {
	t.Helper()
	r, qemu = newRelay(t, all)
	greet(t, qemu, knownProtocol)
	backend, socket := pair(t)
	attached := make(chan error, 1)
	go func() { attached <- r.Attach(testContext(t), socket) }()
	s := newServer()
	for {
		m := hear(t, backend)
		m.close()
		n := map[request]uint64{getFeatures: s.features, getProtocolFeatures: s.protocol, getQueueNum: s.queues, getMaxMemSlots: s.slots}[m.request]
		last := m.request == getFeatures && s.ended == nil
		if m.answered() {
			a := numbered(m.request, n)
			a.flags |= flagReply
			say(t, backend, a)
		}
		if last {
			break
		}
		if m.request == getFeatures {
			s.ended = nil // the next time is the last
		}
	}
	if err := <-attached; err != nil {
		t.Fatal(err)
	}
	socket.Close()
	return r, qemu, backend
}

// What QEMU may not say ends the connection, before and after there is a back end.
func TestHostileMachine(t *testing.T) {
	files := func(n int) []string { return slices.Repeat([]string{"f"}, n) }
	for name, c := range map[string]struct {
		m     *message
		files []string
		says  string
	}{
		"unknown":               {m: numbered(21, 0), says: "request 21: not one of those that are understood"},
		"another version":       {m: &message{request: setOwner, flags: 2}, says: "SET_OWNER of version 2, expected 1"},
		"huge":                  {m: plain(setMemTable, make([]byte, maxPayload+1)), says: "SET_MEM_TABLE of 265 bytes, expected at most 264"},
		"too long":              {m: plain(setOwner, make([]byte, 8)), says: "SET_OWNER of 8 bytes, expected 0"},
		"too short":             {m: plain(setVringAddr, make([]byte, 39)), says: "SET_VRING_ADDR of 39 bytes, expected 40"},
		"no table":              {m: plain(setMemTable, make([]byte, 7)), says: "expected at least 8"},
		"too many regions":      {m: plain(setMemTable, ringState(9, 0)), says: "9 regions, expected at most 8"},
		"too few regions":       {m: plain(setMemTable, ringState(2, 0)), says: "of 8 bytes, expected 72"},
		"regions without files": {m: plain(setMemTable, table(2)), files: files(1), says: "with 1 files, expected 2"},
		"a region without file": {m: plain(addMemReg, region(1)), says: "with 0 files, expected 1"},
		"a region that is none": {m: plain(remMemReg, region(99)), says: "REM_MEM_REG of a region that is none of the 0"},
		"too many files":        {m: plain(setMemTable, table(8)), files: files(9), says: "with more than 8 files"},
		"far too many files":    {m: plain(setOwner, nil), files: files(200), says: "with more than 8 files"},
		"a file too much":       {m: numbered(setVringKick, 0), files: files(2), says: "with 2 files, expected 1"},
		"a kick without file":   {m: numbered(setVringKick, 0), says: "with 0 files, expected 1"},
		"a file that is denied": {m: numbered(setVringKick, noFile), files: files(1), says: "with 1 files, expected 0"},
		"a file for a number":   {m: plain(setVringNum, ringState(0, 1)), files: files(1), says: "with 1 files, expected 0"},
		"ring 8":                {m: plain(setVringNum, ringState(8, 1)), says: "SET_VRING_NUM of ring 8, expected less than 8"},
		"the kick of ring 255":  {m: numbered(setVringKick, 255|noFile), says: "ring 255"},
		"a feature too much":    {m: numbered(setFeatures, 1<<26), says: "SET_FEATURES 0x4000000: 0x4000000 was not offered"},
		"backend requests":      {m: numbered(setProtocolFeatures, 1<<5), says: "SET_PROTOCOL_FEATURES 0x20: 0x20 was not offered"},
		"an answer":             {m: &message{request: setOwner, flags: flagVersion | flagReply}, says: "SET_OWNER as an answer"},
	} {
		t.Run(name, func(t *testing.T) {
			closesAll(t)
			r, qemu := newRelay(t, all)
			say(t, qemu, c.m, c.files...)
			isCut(t, qemu)
			ended(t, r)
			if err := r.Err(); !errors.Is(err, errMessage) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, expected %q", err, c.says)
			}
		})
	}
	t.Run("more regions than were offered", func(t *testing.T) {
		closesAll(t)
		r, qemu := newRelay(t, all)
		for n := range all.slots + 1 {
			say(t, qemu, plain(addMemReg, region(n)), "f")
		}
		ended(t, r)
		if err := r.Err(); err == nil || !strings.Contains(err.Error(), "after 8 others") {
			t.Error(err)
		}
	})
	t.Run("two questions at a time", func(t *testing.T) {
		closesAll(t)
		r, qemu, backend := attachedPair(t)
		say(t, qemu, plain(getVringBase, ringState(0, 0)))
		say(t, qemu, plain(getVringBase, ringState(1, 0)))
		hear(t, backend).close()
		ended(t, r)
		if err := r.Err(); err == nil || !strings.Contains(err.Error(), "before the answer to another one") {
			t.Error(err)
		}
	})
	t.Run("in the middle of a message", func(t *testing.T) {
		closesAll(t)
		r, qemu := newRelay(t, all)
		if _, err := qemu.Write(numbered(setFeatures, 0).encode()[:headerSize+3]); err != nil {
			t.Fatal(err)
		}
		qemu.Close()
		ended(t, r)
		if err := r.Err(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
	})
}

// A message may come in pieces. Files come with its first byte, and no others.
func TestPieces(t *testing.T) {
	closesAll(t)
	r, qemu := newRelay(t, all)
	for _, b := range plain(getFeatures, nil).encode() {
		if _, err := qemu.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	a := hear(t, qemu)
	if a.number() != knownFeatures {
		t.Errorf("features %#x", a.number())
	}
	fd := file(t, "late")
	defer unix.Close(fd)
	kick := numbered(setVringKick, 0).encode()
	for _, part := range [][]byte{kick[:headerSize], kick[headerSize:]} {
		if _, _, err := qemu.WriteMsgUnix(part, unix.UnixRights(fd), nil); err != nil {
			t.Fatal(err)
		}
	}
	ended(t, r)
	if err := r.Err(); err == nil || !strings.Contains(err.Error(), "SET_VRING_KICK with files in its middle") {
		t.Error(err)
	}
}

// A ring that QEMU stops goes on where it was when it is started again: nobody has
// used it meanwhile.
func TestRingStops(t *testing.T) {
	closesAll(t)
	r, qemu := newRelay(t, all)
	greet(t, qemu, knownProtocol)
	say(t, qemu, plain(setVringBase, ringState(1, 5)))
	want := binary.NativeEndian.Uint64(ringState(1, 5))
	if n := asked(t, qemu, plain(getVringBase, ringState(1, 0))); n != want {
		t.Errorf("GET_VRING_BASE: %#x, expected %#x", n, want)
	}
	s := newServer()
	if err := s.attach(t, r); err != nil {
		t.Fatal(err)
	}
	r.Close()
	<-s.ended
	kicks := slices.DeleteFunc(slices.Clone(s.got), func(m string) bool { return !strings.HasPrefix(m, "SET_VRING_KICK") })
	if len(kicks) != 1 {
		t.Errorf("the back end has the kicks %q, expected those of one ring", kicks)
	}
}

// What a back end can do is what it says, as far as it is known, and it may be asked
// for it beforehand.
func TestAsk(t *testing.T) {
	closesAll(t)
	c, socket := pair(t)
	s := newServer()
	go s.serve(t, c)
	for range 2 {
		o, err := Ask(testContext(t), socket)
		if want := (Offer{features: knownFeatures, protocol: knownProtocol, queues: 128, slots: 32}); err != nil || o != want {
			t.Errorf("%+v %v, expected %+v", o, err, want)
		}
	}
	other, otherSocket := pair(t)
	without := newServer()
	without.features = version1
	go without.serve(t, other)
	if _, err := Ask(testContext(t), otherSocket); err == nil || !strings.Contains(err.Error(), "PROTOCOL_FEATURES") {
		t.Errorf("one without the protocol's features: %v", err)
	}
	other.Close()
	<-without.ended
	c.Close()
	<-s.ended
	if _, err := Ask(testContext(t), socket); err == nil {
		t.Error("one that has gone")
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Ask(testContext(t), f); err == nil {
		t.Error("a file that is no socket")
	}
}

// script is a source of bytes that come in pieces, without files.
type script struct {
	io.Reader
}

func (s script) ReadMsgUnix(b, _ []byte) (n, oobn, flags int, addr *net.UnixAddr, err error) {
	n, err = s.Read(b)
	return n, 0, 0, nil, err
}

// FuzzReceive has a relay hear whatever may be said: it takes nothing that it cannot
// keep, and keeps no more than it should.
func FuzzReceive(f *testing.F) {
	f.Add(plain(getFeatures, nil).encode())
	f.Add(append(plain(setVringNum, ringState(1, 128)).encode(), plain(getVringBase, ringState(1, 0)).encode()...))
	f.Add(numbered(setVringKick, 1|noFile).encode())
	f.Add(append(plain(setMemTable, table(0)).encode(), needing(numbered(setFeatures, version1)).encode()...))
	f.Add(plain(setMemTable, table(8)).encode())
	f.Add(plain(remMemReg, region(1)).encode())
	f.Fuzz(func(t *testing.T, said []byte) {
		var rec record
		defer rec.close()
		from := script{bytes.NewReader(said)}
		for heard := 0; ; {
			m, err := receive(from)
			if err != nil {
				return
			}
			heard += headerSize + len(m.payload)
			if !bytes.Equal(m.encode(), said[heard-headerSize-len(m.payload):heard]) {
				t.Fatalf("%q was heard as %q", said[:heard], m.encode())
			}
			// As if all files had come that there may be.
			if m.checkRequest(all) != nil {
				return
			}
			needs := m.answered()
			answer, err := rec.take(m, all)
			if err != nil {
				return
			}
			if (answer != nil) != needs {
				t.Fatalf("%s: answer %v, expected one: %t", m.request, answer, needs)
			}
			if answer != nil {
				if err := answer.checkAnswer(m.request); err != nil {
					t.Fatal(err)
				}
			}
			if n := len(rec.messages()); n > 2+int(all.slots)+maxRings*len(ringOrder) {
				t.Fatalf("%d messages are kept", n)
			}
			rec.running(2)
		}
	})
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
