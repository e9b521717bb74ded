package crun

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
)

// Error is a call of crun that failed. Its text for an executable that is
// missing or may not be run is runc's, since callers of the runtime match it.
type Error struct {
	Op    string        // crun's command: create, exec, ...
	Text  string        // what failed, without the errno's own text
	Errno syscall.Errno // 0 where crun named none
	exec  bool          // Text is complete
}

func (e *Error) Error() string {
	text := e.Text
	if e.Errno != 0 && !e.exec {
		text = fmt.Sprintf("%s: %v", e.Text, e.Errno)
	}
	switch {
	case e.exec:
		return text
	case e.Op == "create":
		return initFailed + text
	default:
		return "crun " + e.Op + ": " + text
	}
}

// Unwrap lets errors.Is compare with an errno.
func (e *Error) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// Texts of runc for an executable that cannot be run, in the form of os/exec.
// podman (libpod/define: "executable file not found in $PATH", "no such file
// or directory", "permission denied"), containerd and docker derive exit codes
// 126 and 127 from them.
const (
	initFailed     = "error during container init: "
	textNotInPath  = `exec: %q: executable file not found in $PATH`
	textStat       = `exec: %q: stat %s: %v`
	textNotAllowed = `exec: %q: permission denied`
	textCwd        = `chdir to cwd (%q) set in config.json failed: %v`
)

// What crun 1.8 says (src/libcrun/container.c, container_init_setup and
// exec_process_entrypoint).
const (
	crunNotFound = "executable file `" // executable file `x` not found in $PATH: <strerror>
	crunOpen     = "open executable"   // open executable: <strerror>
	crunChdir    = "chdir `"           // chdir `x`: <strerror>
)

// translate makes an Error of the log that a failed crun wrote. arg0 is the
// program the container's process was to run.
func translate(op, arg0 string, log []byte) *Error {
	text, errno := splitErrno(lastError(log))
	switch {
	case text == "":
		return &Error{Op: op, Text: "no reason given"}
	case strings.HasPrefix(text, crunNotFound) && strings.Contains(text, "` not found in $PATH"):
		return notFound(op, arg0)
	case text == crunOpen && errno == syscall.ENOENT:
		return notFound(op, arg0)
	case text == crunOpen && !strings.Contains(arg0, "/"):
		// crun reports a file in $PATH that may not be executed, os/exec
		// passes it over.
		return notFound(op, arg0)
	case text == crunOpen && (errno == syscall.EACCES || errno == syscall.EPERM):
		// EPERM is crun's for anything but a regular file.
		return &Error{Op: op, Text: fmt.Sprintf(textNotAllowed, arg0), Errno: syscall.EACCES, exec: true}
	case text == crunOpen && errno != 0:
		return &Error{Op: op, Text: fmt.Sprintf(textStat, arg0, arg0, errno), Errno: errno, exec: true}
	case strings.HasPrefix(text, crunChdir) && strings.HasSuffix(text, "`") && errno != 0:
		dir := strings.TrimSuffix(strings.TrimPrefix(text, crunChdir), "`")
		text := fmt.Sprintf(textCwd, dir, errno)
		if op == "create" {
			text = initFailed + text
		}
		return &Error{Op: op, Text: text, Errno: errno, exec: true}
	}
	return &Error{Op: op, Text: text, Errno: errno}
}

func notFound(op, arg0 string) *Error {
	e := &Error{Op: op, Errno: syscall.ENOENT, exec: true}
	if strings.Contains(arg0, "/") {
		e.Text = fmt.Sprintf(textStat, arg0, arg0, syscall.ENOENT)
	} else {
		e.Text = fmt.Sprintf(textNotInPath, arg0)
	}
	return e
}

// lastError gives the message of the last error in crun's log: lines of JSON
// with "msg" and "level". A line that is not JSON counts as a message.
func lastError(log []byte) string {
	var last string
	for line := range bytes.Lines(log) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		var rec struct{ Msg, Level string }
		if json.Unmarshal(line, &rec) != nil {
			last = string(line)
			continue
		}
		if rec.Level != "warning" && rec.Msg != "" {
			last = rec.Msg
		}
	}
	return last
}

// maxErrno is the highest errno of Linux (EHWPOISON).
const maxErrno = 133

// splitErrno takes the text of an errno off the end of a message of crun,
// which appends ": " and strerror(3).
func splitErrno(msg string) (string, syscall.Errno) {
	i := strings.LastIndex(msg, ": ")
	if i < 0 {
		return msg, 0
	}
	tail := msg[i+2:]
	for e := syscall.Errno(1); e <= maxErrno; e++ {
		if strings.EqualFold(e.Error(), tail) {
			return msg[:i], e
		}
	}
	return msg, 0
}
