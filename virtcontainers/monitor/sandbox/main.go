package sandbox

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// What the monitor inherits from the create that starts it.
const (
	parentFD = 3 // the first claim
	listenFD = 4 // the listening socket
)

// logName is the monitor's log, in the sandbox's folder: it has no stderr.
const logName = "monitor.log"

// Main is the monitor's process. It gives the exit code.
func Main(boot Booter) int {
	debug.SetGCPercent(50)
	first, err := monitor.FileConn(os.NewFile(parentFD, "parent"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "vc-runtime monitor: started by hand: it is for vc-runtime's own use")
		return 1
	}
	// Without a limit: on a busy host a create may take its time, and its end is
	// the connection's.
	var req monitor.Request
	if _, err := first.Receive(&req); err != nil || req.Sandbox == nil {
		return 1 // the create has died
	}
	serve := serveSandbox
	switch req.Op {
	case monitor.OpSandbox:
	case monitor.OpSpare:
		serve = serveSpare
	default:
		return 1
	}
	if err := serve(&req, first, boot); err != nil {
		return 1
	}
	return 0
}

func openLog(dir string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, logName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
}

func newLog(w io.Writer) *logrus.Logger {
	logger := logrus.New()
	logger.SetOutput(w)
	logger.SetLevel(logrus.DebugLevel)
	// ttrpc logs through logrus's own logger, what a guest makes it say too.
	logrus.SetOutput(io.Discard)
	return logger
}

func inheritedListener() (*net.UnixListener, error) {
	l, err := net.FileListener(os.NewFile(listenFD, "socket"))
	if err != nil {
		return nil, err
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		return nil, fmt.Errorf("the inherited socket is %s", l.Addr().Network())
	}
	ul.SetUnlinkOnClose(false)
	return ul, nil
}

// serveSandbox is a sandbox's monitor from its start to its end. Where it cannot even
// begin it says so to who has started it: there is no log then, maybe.
func serveSandbox(req *monitor.Request, first *monitor.Conn, boot Booter) (err error) {
	begun := false
	defer func() {
		if !begun {
			reply(first, err)
		}
	}()
	cfg := req.Sandbox
	store, err := state.Open(cfg.Root)
	if err != nil {
		return err
	}
	logFile, err := openLog(store.SandboxDir(cfg.ID))
	if err != nil {
		return err
	}
	defer logFile.Close()
	log := newLog(logFile).WithField("sandbox", cfg.ID)

	if err := failpoint.Here(failpoint.MonitorLock); err != nil {
		return err
	}
	held, err := store.HoldSandbox(cfg.ID)
	if err != nil {
		log.WithError(err).Error("hold the sandbox's lock")
		return err
	}
	defer held.Close()
	l, err := inheritedListener()
	if err != nil {
		log.WithError(err).Error("use the inherited socket")
		return err
	}
	s := newSandbox(cfg, store, log)
	if s.oomScore, err = monitor.SetOOMScore("self", monitor.OOMScore); err != nil {
		log.WithError(err).Debug("this process's OOM score")
	}
	defer s.dumpOnSignal(logFile)()
	begun = true
	err = s.Serve(s.traced(context.Background(), req), boot, l, first, req.Container)
	if err != nil {
		log.WithError(err).Error("the sandbox has ended")
	}
	return err
}

// consoleTail makes one line of the last lines of a guest's console. The
// bytes are the guest's: whatever is not plain text is taken out.
func consoleTail(console []byte) string {
	const maxLines, maxBytes = 8, 1000
	var lines []string
	for line := range strings.SplitSeq(plainText(string(console)), "\n") {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	tail := strings.Join(lines[max(0, len(lines)-maxLines):], " | ")
	return tail[max(0, len(tail)-maxBytes):]
}
