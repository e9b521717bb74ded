package integration

import (
	"testing"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestTerminal has a shell at a terminal, as with podman run -t.
func TestTerminal(t *testing.T) {
	e := suite.New(t)
	c := e.Started(nil, testenv.Terminal(91, 41),
		testenv.Shell("trap 'echo interrupted' INT; trap 'stty size' WINCH; stty size; tty; echo err >&2\n"+
			"while [ \"$line\" != quit ]; do read line; echo got $line; done; cat; exit 3"))
	c.Console.Expect("41 91\n")
	c.Console.Expect("/dev/pts/0\nerr\n")
	c.Console.Type("hello\n")
	c.Console.Expect("got hello\n")
	c.Console.Resize(132, 50)
	c.Console.Expect("50 132\n")
	// The guest's terminal does the processing: ^C is a signal, ^D the end.
	c.Console.Type("\x03")
	c.Console.Expect("interrupted\n")
	c.Console.Type("quit\n")
	c.Console.Expect("got quit\n")
	c.Console.Type("\x04")
	e.Equal("exit code", c.Wait(exitLimit), 3)
	c.Delete()
}

// TestTerminalFlags are the combinations that runc refuses.
func TestTerminalFlags(t *testing.T) {
	e := suite.New(t)
	b := e.Bundle(testenv.Terminal(80, 25))
	id := e.ID()
	e.Fails("cannot allocate tty if runc will detach without setting console socket", "create", "--bundle", b.Dir, id)
	e.Fails("cannot allocate tty if runc will detach without setting console socket", "run", "--detach", "--bundle", b.Dir, id)
	b.Spec.Process.Terminal = false
	b.Write(e)
	e.Fails("cannot use console socket if runc will not detach or allocate tty",
		"create", "--bundle", b.Dir, "--console-socket", e.Path("nonesuch"), id)
}

// TestHangUp: when the terminal's master is closed the process gets its HUP.
func TestHangUp(t *testing.T) {
	e := suite.New(t)
	c := e.Started(nil, testenv.Terminal(80, 25),
		testenv.Shell("trap 'exit 9' HUP; while read line; do echo got $line; done; sleep 5; exit 8"))
	c.Console.Type("x\n")
	c.Console.Expect("got x\n")
	c.Console.Close()
	e.Equal("exit code", c.Wait(exitLimit), 9)
	c.Delete()
}
