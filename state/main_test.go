package state

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// roleVar makes the test binary play a process of a test instead of running
// tests; see child.
const roleVar = "STATE_TEST_ROLE"

// roles is what the test binary can play, by name. Each returns the exit code.
func roles() map[string]func(args []string) int {
	return map[string]func([]string) int{
		"sleep":            playSleep,
		"leaderless":       playLeaderless,
		"operation-loop":   playOperations,
		"operation-holder": playOperation,
		"monitor":          playMonitor,
		"full-disk":        playFullDisk,
	}
}

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		os.Exit(roles()[role](os.Args[1:]))
	}
	os.Exit(m.Run())
}

// child is this program in another role. It ends when its stdin does, and by
// SIGKILL at the end of the test.
type child struct {
	*exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
}

func startChild(t *testing.T, sys *syscall.SysProcAttr, role string, args ...string) *child {
	t.Helper()
	c := &child{Cmd: exec.Command("/proc/self/exe", args...)}
	c.Env = append(os.Environ(), roleVar+"="+role)
	c.Stderr = os.Stderr
	c.SysProcAttr = sys
	var err error
	if c.stdin, err = c.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	return c
}

// line reads what the child says next.
func (c *child) line(t *testing.T) string {
	t.Helper()
	s, err := c.out.ReadString('\n')
	if err != nil {
		t.Fatalf("read from the child: %v", err)
	}
	return strings.TrimSpace(s)
}

// untilEOF says ready and waits for the parent to close stdin.
func untilEOF() int {
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	return 0
}

func playSleep([]string) int { return untilEOF() }
