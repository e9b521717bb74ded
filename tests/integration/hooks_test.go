package integration

import (
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// hookScript notes which hook runs, with the status and the pid that it is
// told, and whether the pid's network namespace can be entered.
const hookScript = `#!/bin/sh
state=$(cat)
status=$(echo "$state" | sed 's/.*"status":"\([a-z]*\)".*/\1/')
pid=$(echo "$state" | sed -n 's/.*"pid":\([0-9]*\).*/\1/p')
[ -z "$pid" ] || [ -e /proc/$pid/ns/net ] || status=lost
echo "$1 $status ${pid:+pid}" >>"$2"
exit ${3:-0}
`

// withHooks adds the script as hooks; args of each: its name, the log, and
// the exit code.
func withHooks(e *testenv.Env, code map[string]string) (testenv.Option, string) {
	e.Helper()
	script, log := e.Write("hook", hookScript), e.Path("hooks.log")
	if err := os.Chmod(script, 0o755); err != nil {
		e.Fatal(err)
	}
	hook := func(name string) []specs.Hook {
		return []specs.Hook{{Path: script, Args: []string{"hook", name, log, code[name]}, Env: []string{"PATH=/bin:/usr/bin"}}}
	}
	return func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{
			//lint:ignore SA1019 callers still set it
			Prestart: hook("prestart"), CreateRuntime: hook("createRuntime"), CreateContainer: hook("createContainer"),
			Poststart: hook("poststart"), Poststop: hook("poststop"),
		}
	}, log
}

// TestHooks runs the host's hooks in the specification's order.
func TestHooks(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	option, log := withHooks(e, nil)
	// One that does not end by itself: the hooks after its start would see that, or not.
	c := e.Container(nil, option, testenv.Args("sleep", "1000"))
	e.Equal("hooks of create", e.Read(log), "prestart creating pid\ncreateRuntime creating pid\ncreateContainer creating pid\n")
	c.Start()
	e.OK("kill", c.ID, "KILL")
	c.Wait(exitLimit)
	c.Delete()
	if got := e.Read(log); !strings.HasSuffix(got, "poststart running pid\npoststop stopped \n") {
		t.Errorf("hooks of start and delete: %s", got)
	}
}

// TestHookFails: a hook of create that fails undoes the create.
func TestHookFails(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	option, _ := withHooks(e, map[string]string{"createRuntime": "3"})
	b := e.Bundle(option)
	id := e.ID()
	e.FailedWith(e.Do("create", "--bundle", b.Dir, id), 1, "error running hook #0: error running hook: exit status 3")
	e.Fails("does not exist", "state", id)
	if err := b.Overlay.Cycle(); err != nil {
		t.Error(err)
	}
}
