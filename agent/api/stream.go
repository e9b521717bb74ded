package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// ProtocolVersion is the version of everything in this package. Host and
// agent must agree on it: the guest image and the runtime are one release.
const ProtocolVersion = 2

// PortName is the name of the virtio-serial port that carries the greeting,
// and the session where there is no vsock.
const PortName = "vc.agent"

// maxLine bounds a line of the handshake or a stream header, in bytes. The
// peer is not trusted to end its line.
const maxLine = 16 << 10

// ErrLineTooLong is what ReadLine gives for a line over its bound.
var ErrLineTooLong = errors.New("line too long")

// Hello is the first thing the agent says.
type Hello struct {
	Protocol int    `json:"protocol"`
	Version  string `json:"version"` // version of the agent
	ImageID  string `json:"imageId"` // build id in the guest image's manifest
	UptimeMs int64  `json:"uptimeMs"`
	// Warning is what did not work that a guest can do without, in a template;
	// "" for nothing.
	Warning string `json:"warning,omitempty"`
}

// Welcome is the host's answer to Hello.
type Welcome struct {
	Protocol int    `json:"protocol"`
	TimeNs   int64  `json:"timeNs"`  // host's CLOCK_REALTIME, ns since the epoch
	Entropy  []byte `json:"entropy"` // 64 fresh bytes for the guest's pool
	// Vsock is set where the machine has a vsock device that the host would
	// like the session to go over.
	Vsock *VsockTerms `json:"vsock,omitempty"`
}

// Kind says what a stream carries.
type Kind string

const (
	KindRPC     Kind = "rpc"
	KindStdin   Kind = "stdin"   // host writes, closes for EOF
	KindStdout  Kind = "stdout"  // agent writes, closes for EOF
	KindStderr  Kind = "stderr"  // agent writes, closes for EOF
	KindConsole Kind = "console" // both ways
	// KindResolver carries the queries of the guest's processes to ResolverAddress,
	// and the answers, as Query. The agent first says whether it listens there:
	// ForwardReply.
	KindResolver Kind = "resolver"
	// KindForward is a connection to a TCP port on the guest's localhost, both
	// ways, each closed for itself. The agent first says whether it has one:
	// ForwardReply.
	KindForward Kind = "forward"
)

// StreamHeader opens each stream, from the host.
type StreamHeader struct {
	Kind      Kind   `json:"kind"`
	Container string `json:"container,omitempty"`
	Process   string `json:"process,omitempty"` // "" is the container's init
	Port      uint16 `json:"port,omitempty"`    // of KindForward
}

// ForwardReply is the agent's first line on a stream of KindForward or
// KindResolver.
type ForwardReply struct {
	// Errno is why there is no connection, or nobody listens; 0 where all is well.
	Errno uint32 `json:"errno,omitempty"`
}

// WriteLine writes v as one line of JSON.
func WriteLine(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode line: %w", err)
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// ReadLine reads one line of JSON into v, byte by byte so that nothing after
// the newline is consumed. It gives ErrLineTooLong past 16 KiB.
func ReadLine(r io.Reader, v any) error {
	var line []byte
	var b [1]byte
	for {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return err
		}
		if b[0] == '\n' {
			break
		}
		if len(line) == maxLine {
			return ErrLineTooLong
		}
		line = append(line, b[0])
	}
	if err := json.Unmarshal(line, v); err != nil {
		return fmt.Errorf("decode line: %w", err)
	}
	return nil
}
