package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

const (
	// notifyName is the socket in a container's folder of its own.
	notifyName = "notify.sock"
	// maxNotify bounds a message, in bytes; what is longer is cut off, as by
	// runc.
	maxNotify = 4096
)

// readyMessage is the only line of a message that matters (sd_notify(3)).
var readyMessage = []byte("READY=1")

// notifier is the socket on which a container says that it is ready. The host
// learns that, and nothing else of what is said there.
type notifier struct {
	dir   string
	conn  *net.UnixConn
	ready chan struct{} // closed when the container is ready
	done  chan struct{} // closed when nothing is read any more
}

// newNotifier listens in dir, which it makes.
func newNotifier(dir string) (*notifier, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	conn, err := listenIn(dir)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for sd_notify: %w", err), os.Remove(dir))
	}
	n := &notifier{dir: dir, conn: conn, ready: make(chan struct{}), done: make(chan struct{})}
	go n.read()
	return n, nil
}

// listenIn makes a socket in dir that every user of the container may write to.
func listenIn(dir string) (*net.UnixConn, error) {
	folder, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	// By the folder's descriptor: a socket's name must be short (unix(7)).
	path := filepath.Join("/proc/self/fd", strconv.Itoa(int(folder.Fd())), notifyName)
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o777); err != nil {
		conn.Close()
		return nil, errors.Join(err, os.Remove(path))
	}
	return conn, nil
}

// read reads until the socket is closed, so that nobody who writes has to wait.
func (n *notifier) read() {
	defer close(n.done)
	var once sync.Once
	buf := make([]byte, maxNotify)
	for {
		size, err := n.conn.Read(buf)
		if err != nil {
			return
		}
		for line := range bytes.SplitSeq(buf[:size], []byte{'\n'}) {
			if bytes.Equal(line, readyMessage) {
				once.Do(func() { close(n.ready) })
			}
		}
	}
}

// wait waits until the container is ready.
func (n *notifier) wait(ctx context.Context) error {
	if n == nil {
		return fmt.Errorf("the container has no socket for sd_notify: %w", syscall.EINVAL)
	}
	return wait(ctx, n.ready, "the container to be ready")
}

// close may be called again.
func (n *notifier) close() error {
	if n == nil {
		return nil
	}
	n.conn.Close()
	<-n.done
	for _, path := range []string{filepath.Join(n.dir, notifyName), n.dir} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
