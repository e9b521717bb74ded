package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestNotifier: one line of one message counts, wherever it is.
func TestNotifier(t *testing.T) {
	// Longer than a socket's name may be.
	dir := filepath.Join(t.TempDir(), strings.Repeat("x", 200))
	n, err := newNotifier(dir)
	if err != nil {
		t.Fatal(err)
	}
	folder, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), notifyName)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, text := range []string{"", "READY=0", "READY=1x", "STATUS=READY=1", strings.Repeat("x", maxNotify) + "\nREADY=1"} {
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := n.wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("ready too early: %v", err)
	}
	for range 2 {
		if _, err := c.Write([]byte("STATUS=up\nREADY=1\nMAINPID=1")); err != nil {
			t.Fatal(err)
		}
		if err := n.wait(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := n.close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
	if err := (*notifier)(nil).wait(t.Context()); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("no socket: %v", err)
	}
}
