package qmp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// maxLine bounds one message from QEMU, in bytes. The answers to the commands
// in use are under 1 KiB; query-qmp-schema, the longest of all, has 200 KiB.
const maxLine = 1 << 20

// ErrLineTooLong is the cause of death of a connection whose peer sent a line
// of more than 1 MiB.
var ErrLineTooLong = errors.New("QMP line too long")

// Error is QEMU's refusal of a command.
type Error struct {
	Class string `json:"class"` // "GenericError", "CommandNotFound", "DeviceNotFound", ...
	Desc  string `json:"desc"`
}

func (e *Error) Error() string { return e.Desc }

// Event is something that happened in QEMU, unasked.
type Event struct {
	Name string
	Data json.RawMessage // nil for an event without data
}

// message is one line from QEMU: a greeting, an event, or the answer to the
// command with the same id.
type message struct {
	Greeting json.RawMessage `json:"QMP"`
	Event    string          `json:"event"`
	Data     json.RawMessage `json:"data"`
	Return   json.RawMessage `json:"return"`
	Error    *Error          `json:"error"`
	ID       *uint64         `json:"id"`
}

// decode makes a message of one line, and rejects what is none of the forms
// of QEMU's docs/interop/qmp-spec.txt, section 2.
func decode(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, fmt.Errorf("decode QMP message: %w", err)
	}
	forms := 0
	for _, has := range []bool{m.Greeting != nil, m.Event != "", m.Return != nil, m.Error != nil} {
		if has {
			forms++
		}
	}
	switch {
	case forms != 1:
		return message{}, fmt.Errorf("decode QMP message: not one of greeting, event, return, error: %.80q", line)
	case m.Return != nil && m.ID == nil:
		return message{}, fmt.Errorf("decode QMP message: answer to no command: %.80q", line)
	case m.Error != nil && m.ID == nil:
		// QEMU did not understand what we sent, and cannot say which command
		// will now stay without an answer.
		return message{}, fmt.Errorf("QMP protocol error: %w", m.Error)
	}
	return m, nil
}

// readLine reads one line of at most maxLine bytes, without its end. The
// result may be valid only until the next call.
func readLine(r *bufio.Reader) ([]byte, error) {
	var long []byte
	for {
		part, err := r.ReadSlice('\n')
		switch {
		case len(long)+len(part) > maxLine:
			return nil, ErrLineTooLong
		case err == nil && long == nil:
			return bytes.TrimRight(part, "\r\n"), nil
		case err == nil:
			return bytes.TrimRight(append(long, part...), "\r\n"), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
		long = append(long, part...)
	}
}
