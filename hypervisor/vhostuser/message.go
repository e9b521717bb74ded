package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// request is what a message asks for (QEMU: docs/interop/vhost-user.rst, "Front-end
// message types").
type request uint32

// The requests that are understood. Any other one ends the connection.
const (
	getFeatures         request = 1
	setFeatures         request = 2
	setOwner            request = 3
	setMemTable         request = 5
	setVringNum         request = 8
	setVringAddr        request = 9
	setVringBase        request = 10
	getVringBase        request = 11
	setVringKick        request = 12
	setVringCall        request = 13
	setVringErr         request = 14
	getProtocolFeatures request = 15
	setProtocolFeatures request = 16
	getQueueNum         request = 17
	setVringEnable      request = 18
	getMaxMemSlots      request = 36
	addMemReg           request = 37
	remMemReg           request = 38
)

// Sizes of what messages consist of, in bytes, all in the host's byte order.
const (
	headerSize = 12
	numberSize = 8  // a number, or a ring and a number for it
	addrSize   = 40 // where a ring is
	regionSize = 32
	tableHead  = 8
)

// tableRegions is how many regions a memory table has at most
// (VHOST_MEMORY_BASELINE_NREGIONS), and so how many files a message.
const tableRegions = 8

// maxPayload is that of a memory table.
const maxPayload = tableHead + tableRegions*regionSize

// shape is what a request looks like.
type shape struct {
	name     string
	payload  int  // bytes; of a memory table the most
	files    int  // at most
	answered bool // without being asked to
	ring     bool // it is about one of the rings
}

var shapes = map[request]shape{
	getFeatures:         {"GET_FEATURES", 0, 0, true, false},
	setFeatures:         {"SET_FEATURES", numberSize, 0, false, false},
	setOwner:            {"SET_OWNER", 0, 0, false, false},
	setMemTable:         {"SET_MEM_TABLE", maxPayload, tableRegions, false, false},
	setVringNum:         {"SET_VRING_NUM", numberSize, 0, false, true},
	setVringAddr:        {"SET_VRING_ADDR", addrSize, 0, false, true},
	setVringBase:        {"SET_VRING_BASE", numberSize, 0, false, true},
	getVringBase:        {"GET_VRING_BASE", numberSize, 0, true, true},
	setVringKick:        {"SET_VRING_KICK", numberSize, 1, false, true},
	setVringCall:        {"SET_VRING_CALL", numberSize, 1, false, true},
	setVringErr:         {"SET_VRING_ERR", numberSize, 1, false, true},
	getProtocolFeatures: {"GET_PROTOCOL_FEATURES", 0, 0, true, false},
	setProtocolFeatures: {"SET_PROTOCOL_FEATURES", numberSize, 0, false, false},
	getQueueNum:         {"GET_QUEUE_NUM", 0, 0, true, false},
	setVringEnable:      {"SET_VRING_ENABLE", numberSize, 0, false, true},
	getMaxMemSlots:      {"GET_MAX_MEM_SLOTS", 0, 0, true, false},
	addMemReg:           {"ADD_MEM_REG", tableHead + regionSize, 1, false, false},
	remMemReg:           {"REM_MEM_REG", tableHead + regionSize, 1, false, false},
}

// String is the protocol's name of the request.
func (r request) String() string {
	if s, ok := shapes[r]; ok {
		return s.name
	}
	return fmt.Sprintf("request %d", uint32(r))
}

// Flags of a message.
const (
	flagVersion   = 1
	flagReply     = 1 << 2
	flagNeedReply = 1 << 3

	versionMask = 3
)

// noFile in the number of a ring's file says that there is none.
const noFile = 1 << 8

// message is one message with the files that came with it.
type message struct {
	request request
	flags   uint32
	payload []byte
	files   []int // descriptors; whoever has the message closes them
}

// numbered makes a message with a number as its payload.
func numbered(r request, n uint64) *message {
	return &message{request: r, flags: flagVersion, payload: binary.NativeEndian.AppendUint64(nil, n)}
}

// number is the payload of a message that is one number.
func (m *message) number() uint64 { return binary.NativeEndian.Uint64(m.payload) }

// ring is the number of the ring that a message is about.
func (m *message) ring() uint32 {
	switch m.request {
	case setVringKick, setVringCall, setVringErr:
		return uint32(m.number() & 0xff)
	}
	return binary.NativeEndian.Uint32(m.payload)
}

// answered reports whether the sender waits for an answer.
func (m *message) answered() bool {
	return shapes[m.request].answered || m.flags&flagNeedReply != 0
}

// close closes the message's files. nil has none.
func (m *message) close() {
	if m == nil {
		return
	}
	closeAll(m.files)
	m.files = nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// errMessage is a message that is not of the protocol, or of a part of it that is
// not understood.
var errMessage = errors.New("unexpected vhost-user message")

// parseHeader gives a message without its payload, and how long that is.
func parseHeader(b []byte) (*message, int, error) {
	m := &message{request: request(binary.NativeEndian.Uint32(b)), flags: binary.NativeEndian.Uint32(b[4:])}
	size := binary.NativeEndian.Uint32(b[8:])
	if _, ok := shapes[m.request]; !ok {
		return nil, 0, fmt.Errorf("%w: %s: not one of those that are understood", errMessage, m.request)
	}
	if v := m.flags & versionMask; v != flagVersion {
		return nil, 0, fmt.Errorf("%w: %s of version %d, expected %d", errMessage, m.request, v, flagVersion)
	}
	if size > maxPayload {
		return nil, 0, fmt.Errorf("%w: %s of %d bytes, expected at most %d", errMessage, m.request, size, maxPayload)
	}
	return m, int(size), nil
}

// checkRequest gives an error where a message is not what a front end may ask of a
// back end with that offer.
func (m *message) checkRequest(o Offer) error {
	s := shapes[m.request]
	if m.flags&flagReply != 0 {
		return fmt.Errorf("%w: %s as an answer, expected a request", errMessage, m.request)
	}
	size, least, most := s.payload, 0, s.files
	switch m.request {
	case setMemTable:
		if len(m.payload) < tableHead {
			return fmt.Errorf("%w: %s of %d bytes, expected at least %d", errMessage, m.request, len(m.payload), tableHead)
		}
		n := binary.NativeEndian.Uint32(m.payload)
		if n > tableRegions {
			return fmt.Errorf("%w: %s of %d regions, expected at most %d", errMessage, m.request, n, tableRegions)
		}
		size, least, most = tableHead+int(n)*regionSize, int(n), int(n)
	case addMemReg:
		least = 1
	}
	if len(m.payload) != size {
		return fmt.Errorf("%w: %s of %d bytes, expected %d", errMessage, m.request, len(m.payload), size)
	}
	switch m.request {
	case setVringKick, setVringCall, setVringErr:
		if least = 1; m.number()&noFile != 0 {
			least, most = 0, 0
		}
	}
	if len(m.files) < least || len(m.files) > most {
		return fmt.Errorf("%w: %s with %d files, expected %d to %d", errMessage, m.request, len(m.files), least, most)
	}
	if s.ring && m.ring() >= maxRings {
		return fmt.Errorf("%w: %s of ring %d, expected less than %d", errMessage, m.request, m.ring(), maxRings)
	}
	return m.checkChoice(o)
}

// checkChoice gives an error where a front end chooses what was not offered.
func (m *message) checkChoice(o Offer) error {
	var offered uint64
	switch m.request {
	case setFeatures:
		offered = o.features
	case setProtocolFeatures:
		offered = o.protocol
	default:
		return nil
	}
	if over := m.number() &^ offered; over != 0 {
		return fmt.Errorf("%w: %s %#x: %#x was not offered", errMessage, m.request, m.number(), over)
	}
	return nil
}

// checkAnswer gives an error where a message is not the answer to a request. All
// answers to what is understood are of one size, and none has a file.
func (m *message) checkAnswer(to request) error {
	switch {
	case m.flags&flagReply == 0:
		return fmt.Errorf("%w: %s as a request, expected the answer to %s", errMessage, m.request, to)
	case m.request != to:
		return fmt.Errorf("%w: an answer to %s, expected one to %s", errMessage, m.request, to)
	case len(m.payload) != numberSize:
		return fmt.Errorf("%w: an answer to %s of %d bytes, expected %d", errMessage, to, len(m.payload), numberSize)
	case len(m.files) != 0:
		return fmt.Errorf("%w: an answer to %s with %d files, expected none", errMessage, to, len(m.files))
	}
	return nil
}

// encode gives the bytes of a message.
func (m *message) encode() []byte {
	b := make([]byte, 0, headerSize+len(m.payload))
	b = binary.NativeEndian.AppendUint32(b, uint32(m.request))
	b = binary.NativeEndian.AppendUint32(b, m.flags)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(m.payload)))
	return append(b, m.payload...)
}

// source is what messages are read from: a *net.UnixConn.
type source interface {
	ReadMsgUnix(b, oob []byte) (n, oobn, flags int, addr *net.UnixAddr, err error)
}

// receive reads one message. The error is io.EOF where the peer has closed the
// connection between two of them.
func receive(from source) (*message, error) {
	var header [headerSize]byte
	files, err := fill(from, header[:])
	if err != nil {
		return nil, err
	}
	m, size, err := parseHeader(header[:])
	if err != nil {
		closeAll(files)
		return nil, err
	}
	m.files = files
	if size == 0 {
		return m, nil
	}
	m.payload = make([]byte, size)
	more, err := fill(from, m.payload)
	if len(more) > 0 {
		closeAll(more)
		err = errors.Join(err, fmt.Errorf("%w: %s with files in its middle", errMessage, m.request))
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		m.close()
		return nil, fmt.Errorf("receive %s: %w", m.request, err)
	}
	return m, nil
}

// fill reads all of b, and the files that come with its first byte. After an error
// there are none.
func fill(from source, b []byte) (files []int, err error) {
	// The kernel gives no more files than there is room for. One more than is
	// right, so that too many show; the rest it closes.
	oob := make([]byte, unix.CmsgSpace((tableRegions+1)*4))
	for got := 0; got < len(b); {
		n, oobn, flags, _, err := from.ReadMsgUnix(b[got:], oob)
		more, rightsErr := rights(oob[:oobn])
		switch {
		case rightsErr != nil:
			err = rightsErr
		case err == nil && (flags&unix.MSG_CTRUNC != 0 || len(more) > tableRegions):
			err = fmt.Errorf("%w: with more than %d files", errMessage, tableRegions)
		case err == nil && got > 0 && len(more) > 0:
			err = fmt.Errorf("%w: with files in its middle", errMessage)
		case err == nil && n == 0 || errors.Is(err, io.EOF):
			if err = io.EOF; got > 0 {
				err = io.ErrUnexpectedEOF
			}
		}
		if err != nil {
			closeAll(more)
			closeAll(files)
			return nil, err
		}
		files = append(files, more...)
		got += n
	}
	return files, nil
}

// rights gives the files in control messages, also with an error.
func rights(oob []byte) (files []int, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	control, err := unix.ParseSocketControlMessage(oob)
	for i := range control {
		fds, rightsErr := unix.ParseUnixRights(&control[i])
		files = append(files, fds...)
		err = errors.Join(err, rightsErr)
	}
	return files, err
}

// send writes one message, with its files.
func send(to *net.UnixConn, m *message) error {
	b := m.encode()
	var oob []byte
	if len(m.files) > 0 {
		oob = unix.UnixRights(m.files...)
	}
	// The files go with the first byte; what the socket has no room for follows.
	n, _, err := to.WriteMsgUnix(b, oob, nil)
	if err == nil && n < len(b) {
		_, err = to.Write(b[n:])
	}
	if err != nil {
		return fmt.Errorf("send %s: %w", m.request, err)
	}
	return nil
}

// connOf makes a connection of a socket, which stays the caller's.
func connOf(socket *os.File) (*net.UnixConn, error) {
	c, err := net.FileConn(socket)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("the socket is one of %s, expected unix", c.LocalAddr().Network())
	}
	return u, nil
}
