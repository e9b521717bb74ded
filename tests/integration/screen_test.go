package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// screenLimit is how long the screen may take to show what it should, a boot
// included.
const screenLimit = 4 * time.Minute

// screen is a terminal of tmux with the runtime in it: what a user would see.
type screen struct {
	*testenv.Env
	tmux, socket string
}

func newScreen(e *testenv.Env, width, height int, args ...string) *screen {
	e.Helper()
	s := &screen{Env: e, tmux: testenv.Tool(e, "tmux"), socket: e.Path("tmux")}
	line := e.Runtime + " " + strings.Join(append(e.Globals(), args...), " ") + "; echo code $?; sleep 1000"
	s.do("-f", "/dev/null", "new-session", "-d", "-x", fmt.Sprint(width), "-y", fmt.Sprint(height), "-s", "test", line)
	e.Cleanup(func() { s.do("kill-server") })
	return s
}

// do runs a command of tmux. Its server stays behind, with stdio of its own.
func (s *screen) do(args ...string) string {
	s.Helper()
	env := []string{"TERM=xterm", "LANG=C.UTF-8", "SHELL=/bin/sh", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	res := s.Run(s, testenv.Command{Path: s.tmux, Args: append([]string{"-S", s.socket}, args...), Env: env})
	if res.Code != 0 {
		s.Fatal(res)
	}
	return res.Stdout
}

func (s *screen) keys(keys ...string) {
	s.Helper()
	s.do(append([]string{"send-keys", "-t", "test"}, keys...)...)
}

func (s *screen) resize(width, height int) {
	s.Helper()
	s.do("resize-window", "-t", "test", "-x", fmt.Sprint(width), "-y", fmt.Sprint(height))
}

// lines is what the screen shows, each line without blanks at its end.
func (s *screen) lines() []string {
	s.Helper()
	return strings.Split(strings.TrimRight(s.do("capture-pane", "-p", "-t", "test"), "\n"), "\n")
}

// shows waits until the screen shows a line, or a text within one.
func (s *screen) shows(text string) {
	s.Helper()
	testenv.Eventually(s, screenLimit, func() error {
		if all := strings.Join(s.lines(), "\n"); !strings.Contains("\n"+all+"\n", text) {
			return errors.New("the screen has no " + text + ":\n" + all)
		}
		return nil
	})
}

// line waits until a line of the screen, from 0, is one of these.
func (s *screen) line(n int, want ...string) {
	s.Helper()
	testenv.Eventually(s, screenLimit, func() error {
		all := s.lines()
		if len(all) <= n || !slices.Contains(want, all[n]) {
			return fmt.Errorf("line %d is not %q:\n%s", n, want, strings.Join(all, "\n"))
		}
		return nil
	})
}

// TestScreen has a user at a terminal in a Debian: a shell with job control,
// an editor and a program that draws the whole screen, and the window changes
// its size meanwhile.
func TestScreen(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	debian := filepath.Join(filepath.Dir(suite.Guest), "debian")
	if _, err := os.Stat(filepath.Join(debian, "etc/debian_version")); err != nil {
		t.Fatalf("a Debian tree is missing: run `make debian`: %v", err)
	}
	busybox := filepath.Join(suite.Base, "bin/busybox")
	b := e.PlainBundle(testenv.Args("bash", "--norc", "--noprofile"), func(s *specs.Spec) {
		s.Process.Terminal = true
		s.Process.Env = []string{"PATH=/usr/bin:/bin:/opt", "TERM=screen", "PS1=in> ", "HOME=/root"}
		for _, applet := range []string{"vi", "top"} {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/opt/" + applet, Type: "bind", Source: busybox, Options: []string{"bind", "ro"}})
		}
	})
	upper, work := e.Path("upper"), e.Path("work")
	for _, d := range []string{upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("overlay", b.Rootfs, "overlay", 0, "lowerdir="+debian+",upperdir="+upper+",workdir="+work); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(b.Rootfs, 0); err != nil {
			t.Error(err)
		}
	})
	s := newScreen(e, 80, 24, "run", "--bundle", b.Dir, e.ID())
	shell(s)
	editor(s, b.Rootfs)
	whole(s)
	s.keys("exit 7", "Enter")
	s.shows("\ncode 7\n")
}

// shell is a line that is edited, job control, and a signal.
func shell(s *screen) {
	s.Helper()
	s.shows("\nin>") // at the begin of a line, whatever the runtime has said before
	// A new prompt, at the top, tells that the line has been obeyed: keys that
	// come before readline is back would not be for it.
	s.keys("clear; PS1='at> '", "Enter")
	s.line(0, "at>")
	// Readline moves in the line: the terminal is the process's own.
	s.keys("echo oooone", "C-a", "Right", "Right", "Right", "Right", "Right", "C-d", "C-d", "C-d", "C-e", " two", "Enter")
	s.line(0, "at> echo one two")
	s.line(1, "one two")
	s.keys("clear; echo begun; cat", "Enter")
	s.line(0, "begun") // what is typed earlier would be echoed before the screen is cleared
	s.keys("hello", "Enter")
	s.shows("hello\nhello\n") // the terminal's echo, and cat: it runs
	s.keys("C-z")
	s.shows("[1]+  Stopped                 cat\nat>")
	// In the background it may not read the terminal: SIGTTIN stops it again.
	s.keys("clear; bg; sleep 1; jobs", "Enter")
	s.line(0, "[1]+ cat &")
	s.shows("[1]+  Stopped                 cat")
	s.keys("clear; fg", "Enter")
	s.line(0, "cat")
	s.keys("again", "Enter")
	s.shows("again\nagain\n")
	s.keys("C-c") // takes along what was typed and not read
	s.shows("\n^C\nat>")
	s.keys("code=$?; clear; echo after $code", "Enter")
	s.line(0, "after 130")
}

// editor writes a file with a full-screen editor, which is told a new size.
func editor(s *screen, rootfs string) {
	s.Helper()
	s.keys("clear; vi /tmp/text", "Enter")
	s.line(1, "~")
	s.line(22, "~")
	s.keys("i")
	s.keys("first line", "Enter", "second", "Escape")
	s.line(0, "first line")
	s.line(1, "second")
	s.keys("k", "0", "x", ":wq", "Enter")
	s.shows("at>")
	s.Equal("the file", s.Read(filepath.Join(rootfs, "tmp/text")), "irst line\nsecond\n")
	s.resize(100, 30)
	s.keys("clear; stty size; tput cols 2>/dev/null", "Enter")
	s.line(0, "30 100")
	s.keys("clear; vi /tmp/text", "Enter")
	s.line(28, "~")
	s.keys(":q", "Enter")
	s.shows("at>")
}

// whole is top, which draws the whole screen again and again.
func whole(s *screen) {
	s.Helper()
	s.keys("clear; top -d 1", "Enter")
	s.shows("PID  PPID USER")
	s.shows(" top -d 1")
	lines := s.lines()
	if !strings.HasPrefix(lines[0], "Mem: ") || !strings.HasPrefix(lines[1], "CPU: ") || len(lines) > 30 {
		s.Errorf("top does not begin at the top:\n%s", strings.Join(lines, "\n"))
	}
	s.keys("q")
	s.shows("\nat>\n")
}
