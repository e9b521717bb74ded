package spare

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// onMain has the main thread do something.
var onMain = make(chan func())

func init() { runtime.LockOSThread() } // the main goroutine to the main thread

func TestMain(m *testing.M) {
	code := make(chan int)
	go func() { code <- m.Run() }()
	for {
		select {
		case f := <-onMain:
			f()
		case c := <-code:
			os.Exit(c)
		}
	}
}

// TestKeyInNamespace has the process's main thread in another network namespace, as
// one is that starts a shim there. A spare fits all the same.
func TestKeyInNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: needs root: it makes a network namespace")
	}
	cfg, exe := files(t)
	before := key(t, cfg, exe)
	var err error
	over := make(chan struct{})
	onMain <- func() {
		err = unix.Unshare(unix.CLONE_NEWNET)
		close(over)
	}
	if <-over; err != nil {
		t.Fatal(err)
	}
	if now := key(t, cfg, exe); now != before {
		t.Errorf("the key is %v, before %v", now, before)
	}
}
