//go:build failpoints

package failpoint

import (
	"bufio"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// arms sets what the environment would ask for.
func arms(t *testing.T, text string) {
	t.Helper()
	list, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	old := armed
	armed = func() ([]*arm, error) { return list, nil }
	t.Cleanup(func() { armed = old })
}

func TestHere(t *testing.T) {
	arms(t, "create.begin@2=error;state.write=error:ENOSPC")
	if err := Here(CreateBegin); err != nil {
		t.Errorf("the first time: %v", err)
	}
	if err := Here(CreateBegin); !errors.Is(err, ErrInjected) {
		t.Errorf("the second time: %v", err)
	}
	if err := Here(CreateBegin); err != nil {
		t.Errorf("the third time: %v", err)
	}
	if err := Here(StateWrite); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("ENOSPC: %v", err)
	}
	if err := Here(StartBegin); err != nil {
		t.Errorf("one that is not armed: %v", err)
	}
}

func TestPause(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	arms(t, "create.begin=pause:"+path)
	for answer, want := range map[string]error{"error\n": ErrInjected, "go\n": nil, "": nil} {
		done := make(chan error, 1)
		go func() { done <- Here(CreateBegin) }()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.HasPrefix(line, "create.begin ") {
			t.Errorf("it says %q, %v", line, err)
		}
		select {
		case err := <-done:
			t.Errorf("it has not waited: %v", err)
		default:
		}
		c.Write([]byte(answer))
		c.Close()
		if err := <-done; !errors.Is(err, want) {
			t.Errorf("%q: %v, expected %v", answer, err, want)
		}
	}
}

func TestParse(t *testing.T) {
	for _, text := range []string{"create.begin", "create.nonesuch=error", "create.begin@0=error", "create.begin@x=error"} {
		if _, err := parse(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestTrace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trace")
	t.Setenv(traceVar, path)
	arms(t, "")
	if err := Here(CreateBegin); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || !strings.HasSuffix(string(b), " point create.begin\n") {
		t.Errorf("%q, %v", b, err)
	}
	if env := Environ(); len(env) != 1 || env[0] != traceVar+"="+path {
		t.Errorf("handed on: %q", env)
	}
}
