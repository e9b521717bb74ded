package compare

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

func (b *bundle) fifo(t testing.TB, name string) string {
	path := filepath.Join(b.volume(t, "data"), name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func run(code string) step { return step{args: []string{"exec", "ID", "sh", "-c", code}} }

func exec(list ...string) step { return step{args: append([]string{"exec"}, list...)} }

var start = step{args: []string{"start", "ID"}}

func exitCases() []testCase {
	var all []step
	for code := range 256 {
		all = append(all, run(fmt.Sprint("exit ", code)))
	}
	signal := func(name string) testCase {
		return testCase{name: "killed-by-" + strings.ToLower(name), options: sh("ulimit -c 0; sh -c 'kill -" + name + " $$'; echo $?; exec sh -c 'kill -" + name + " $$; echo survived'")}
	}
	return []testCase{
		{name: "exit-0", options: sh("exit 0"), short: true},
		{name: "exit-1", options: sh("exit 1")},
		{name: "exit-42", options: sh("exit 42"), short: true},
		{name: "exit-126", options: sh("exit 126")},
		{name: "exit-127", options: sh("exit 127")},
		{name: "exit-137", options: sh("exit 137")},
		{name: "exit-255", options: sh("exit 255")},
		{name: "exit-every", steps: append([]step{start}, all...)},
		{name: "exit-signals", steps: []step{
			start, run("kill -1 $$"), run("kill -2 $$"), run("kill -6 $$"), run("kill -9 $$"), run("kill -11 $$"), run("kill -15 $$"), run("kill -31 $$"), run("kill -34 $$"), run("kill -64 $$"),
		}, short: true},
		signal("TERM"), signal("KILL"), signal("SEGV"),
		{name: "kill-before-start", steps: []step{{args: []string{"kill", "ID", "KILL"}}}},
		{name: "start-twice", steps: []step{start, start}},
		{name: "create-twice", steps: []step{{args: []string{"create", "--bundle", "DIR", "ID"}}, start}},
		{name: "delete-running", steps: []step{start, {args: []string{"delete", "ID"}}}, short: true},
		{name: "kill-unknown-signal", steps: []step{start, {args: []string{"kill", "ID", "NONSENSE"}}, {args: []string{"kill", "ID", "999"}}}},
		{name: "kill-zero", steps: []step{start, {args: []string{"kill", "ID", "0"}}}},
		{name: "pause", steps: []step{start, {args: []string{"pause", "ID"}}, exec("ID", "true"), {args: []string{"pause", "ID"}}, {args: []string{"resume", "ID"}}, exec("ID", "echo", "on"), {args: []string{"resume", "ID"}}}},
	}
}

func tty(s *specs.Spec) { s.Process.Terminal = true }

func terminalCases() []testCase {
	return []testCase{
		// runc gives a terminal the size of its own, but not before the container starts: until then it has none, or consoleSize.
		{name: "terminal", options: sh(awaitEnter+"tty; for i in $(seq 100); do stty size >/dev/null 2>&1 && break; sleep 0.1; done; stty size; readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2; echo err >&2", tty), tty: true, enter: true, short: true},
		{name: "terminal-console-size", options: sh(awaitEnter+"for i in $(seq 100); do [ \"$(stty size)\" = '30 100' ] || break; sleep 0.1; done; stty size", tty, process(func(p *specs.Process) { p.ConsoleSize = &specs.Box{Width: 100, Height: 30} })), tty: true, enter: true},
		{name: "terminal-modes", options: sh(awaitEnter+"stty -a | grep -oE -- '-?(icanon|echo|isig|opost|onlcr|icrnl|ixon|iexten)( |$)' | tr -d ' '", tty), tty: true, enter: true},
		{name: "terminal-owner", options: sh(awaitEnter+"stat -c '%u %a' /dev/pts/0 /dev/console; ls -l /dev/console | cut -c1", tty, user(1000, 1000)), tty: true, enter: true},
		{name: "terminal-session", options: sh(awaitEnter+`set -- $(cat /proc/self/stat); echo $5 $6 $8; ps -o pgid,tty,comm | sed -n 2p`, tty), tty: true, enter: true},
		{name: "terminal-exit", options: sh(awaitEnter+"printf 'no newline'; exit 7", tty), tty: true, enter: true},
		{name: "terminal-console", options: sh(awaitEnter+"echo to the console >/dev/console; echo to the tty >/dev/tty", tty), tty: true, enter: true},
		{name: "terminal-large", options: sh(awaitEnter+"seq 1 5000", tty), tty: true, enter: true},
		{name: "terminal-none", options: sh("tty; [ -t 1 ]; echo $?; cat /dev/tty; ls /dev/console")},
		{name: "terminal-at-no-terminal", options: sh("tty", tty)},
		{name: "terminal-off-at-terminal", options: sh("tty; [ -t 0 ]; echo $?"), tty: true},
		{name: "terminal-create", options: sh("true", tty), steps: []step{start}},
	}
}

// hook makes a hook that writes what it sees into a volume.
func hook(t testing.TB, b *bundle, name, script string) specs.Hook {
	t.Helper()
	dir := b.volume(t, "hooks")
	path := b.write(t, name+".sh", "#!/bin/sh\ncd "+dir+"\n"+script+"\n", 0o755)
	return specs.Hook{Path: path, Args: []string{name, "argument"}, Env: []string{"NAME=" + name, "PATH=/usr/bin:/bin"}}
}

// see is a script of a hook: order, arguments, environment, folder, and the
// state but for what is another one each time.
const see = `echo "$NAME $1 $(pwd | sed 's,.*/,,') $(env | grep -vE '^(PWD|SHLVL|_|OLDPWD)=' | sort | tr '\n' ' ')" >>order
tr ',' '\n' | grep -oE '"(status|bundle)": ?"[^"]*"' | tr -d ' ' >$NAME.state`

func hooks(set func(h *specs.Hooks, one func(name, script string) specs.Hook)) func(testing.TB, *bundle) {
	return func(t testing.TB, b *bundle) {
		b.spec.Hooks = &specs.Hooks{}
		set(b.spec.Hooks, func(name, script string) specs.Hook { return hook(t, b, name, script) })
	}
}

func hookCases() []testCase {
	duration := map[bool]string{true: "0", false: "1000"} // the container ends by itself, or the hook ends it
	fails := func(kind string, place func(h *specs.Hooks, list []specs.Hook)) testCase {
		return testCase{name: "hook-" + kind + "-fails", options: args("sleep", duration[kind == "poststop"]), prepare: hooks(func(h *specs.Hooks, one func(string, string) specs.Hook) {
			place(h, []specs.Hook{one("first", "echo first >>order; echo text of the hook >&2; exit 3"), one("second", "echo second >>order")})
		})}
	}
	inside := func(script string) func(testing.TB, *bundle) {
		return func(t testing.TB, b *bundle) {
			b.write(t, "rootfs/bin/hook", "#!/bin/sh\n"+script+"\n", 0o755)
			b.spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/hook", Args: []string{"hook", "a b"}, Env: []string{"PATH=/bin", "H=1"}}}}
		}
	}
	return []testCase{
		{name: "hooks", options: sh("echo ran; sleep 3"), prepare: hooks(func(h *specs.Hooks, one func(string, string) specs.Hook) {
			//lint:ignore SA1019 callers still set it
			h.Prestart = []specs.Hook{one("prestart", see), one("prestart2", see)}
			h.CreateRuntime = []specs.Hook{one("createRuntime", see)}
			h.CreateContainer = []specs.Hook{one("createContainer", see)}
			h.Poststart = []specs.Hook{one("poststart", see)}
			h.Poststop = []specs.Hook{one("poststop", see)}
		}), short: true},
		{name: "hook-startContainer", options: sh("echo ran; cat /hooked"), prepare: inside(`echo "$0 $# $1 $H $(pwd)" >/hooked; tr ',' '\n' | grep -oE '"status": ?"[^"]*"' >>/hooked`), short: true},
		{name: "hook-startContainer-fails", options: sh("echo ran"), prepare: inside("exit 3")},
		{name: "hook-startContainer-output", options: sh("echo ran"), prepare: inside("echo out; echo err >&2")},
		//lint:ignore SA1019 callers still set it
		fails("prestart", func(h *specs.Hooks, l []specs.Hook) { h.Prestart = l }),
		fails("createRuntime", func(h *specs.Hooks, l []specs.Hook) { h.CreateRuntime = l }),
		fails("createContainer", func(h *specs.Hooks, l []specs.Hook) { h.CreateContainer = l }),
		fails("poststart", func(h *specs.Hooks, l []specs.Hook) { h.Poststart = l }),
		fails("poststop", func(h *specs.Hooks, l []specs.Hook) { h.Poststop = l }),
		{name: "hook-timeout", options: sh("echo ran"), prepare: hooks(func(h *specs.Hooks, one func(string, string) specs.Hook) {
			slow := one("slow", "exec sleep 1000")
			slow.Timeout = pointer(1)
			h.CreateRuntime = []specs.Hook{slow}
		})},
		{name: "hook-missing", options: sh("echo ran"), prepare: func(t testing.TB, b *bundle) {
			b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/nonexistent/hook"}}}
		}},
		{name: "hook-relative", options: sh("echo ran"), prepare: func(t testing.TB, b *bundle) {
			b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "hook"}}}
		}},
		{name: "hook-env-none", options: sh("echo ran"), prepare: hooks(func(h *specs.Hooks, one func(string, string) specs.Hook) {
			bare := one("bare", "env | grep -vE '^(PWD|SHLVL|_|OLDPWD)=' >env")
			bare.Env, bare.Args = nil, nil
			h.CreateRuntime = []specs.Hook{bare}
		})},
	}
}

func execCases() []testCase {
	const id = "id -u; id -g; id -G; pwd; env | sort; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; umask"
	processFile := func(change func(p *specs.Process)) func(testing.TB, *bundle) {
		return func(t testing.TB, b *bundle) {
			p := *b.spec.Process
			p.Args = []string{"sh", "-c", id}
			change(&p)
			b.write(t, "process.json", jsonOf(t, p), 0o644)
		}
	}
	byFile := []step{start, exec("--process", "DIR/process.json", "ID")}
	return []testCase{
		{name: "exec", steps: []step{start, exec("ID", "echo", "hello", "a b"), run(id)}, short: true},
		{name: "exec-created", steps: []step{exec("ID", "echo", "created"), run("ls -d /proc/1; id -u"), start, exec("ID", "echo", "running")}, short: true},
		{name: "exec-stopped", options: sh("true"), steps: []step{{args: []string{"kill", "ID", "KILL"}}, {args: []string{"delete", "ID"}}, exec("ID", "true")}},
		{name: "exec-missing-container", steps: []step{exec("nonexistent", "true")}},
		{name: "exec-no-arguments", steps: []step{start, exec("ID")}},
		{name: "exec-cwd", steps: []step{start, exec("--cwd", "/home/user", "ID", "pwd"), exec("--cwd", "/nope", "ID", "pwd"), exec("--cwd", "relative", "ID", "pwd")}, short: true},
		{name: "exec-env", steps: []step{start, exec("--env", "A=1", "--env", "B=x y", "--env", "A=2", "ID", "env"), exec("--env", "PATH=/nope", "ID", "env")}},
		{name: "exec-env-comma", steps: []step{start, exec("--env", "A=1,2", "ID", "sh", "-c", "echo $A")}},
		{name: "exec-user", steps: []step{start, exec("--user", "1000", "ID", "sh", "-c", id), exec("-u", "1000:2000", "ID", "sh", "-c", id), exec("--user", "name", "ID", "true"), exec("--user", "1:x", "ID", "true"), exec("--user", "-1", "ID", "true")}},
		{name: "exec-additional-gids", steps: []step{start, exec("--additional-gids", "5", "--additional-gids", "6", "ID", "id", "-G"), exec("-u", "1000", "-g", "5", "ID", "id", "-G")}},
		{name: "exec-cap", steps: []step{start, exec("--cap", "CAP_SYS_TIME", "--cap", "CAP_NET_ADMIN", "ID", "grep", "^Cap", "/proc/self/status"), exec("--cap", "CAP_NONSENSE", "ID", "true")}},
		{name: "exec-cap-user", steps: []step{start, exec("--cap", "CAP_SYS_TIME", "-u", "1000", "ID", "grep", "^Cap", "/proc/self/status")}},
		{name: "exec-no-new-privs", options: []testenv.Option{newPrivileges}, steps: []step{start, exec("ID", "grep", "NoNewPrivs", "/proc/self/status"), exec("--no-new-privs", "ID", "grep", "NoNewPrivs", "/proc/self/status")}},
		{name: "exec-stdin", steps: []step{start, {args: []string{"exec", "ID", "sha256sum"}, stdin: long(200_000)}, {args: []string{"exec", "ID", "cat"}, stdin: "x"}}},
		{name: "exec-stderr", steps: []step{start, run("echo out; echo err >&2")}},
		{name: "exec-missing-binary", steps: []step{start, exec("ID", "nonexistent"), exec("ID", "/nonexistent"), exec("ID", "/etc/passwd"), exec("ID", "/etc")}, short: true},
		{name: "exec-detach", steps: []step{
			start, {args: []string{"exec", "--detach", "--pid-file", "DIR/pid", "ID", "sh", "-c", "echo detached >/detached; mv /detached /done"}, null: true},
			run("while [ ! -e /done ]; do sleep 0.1; done; cat /done"),
		}},
		{name: "exec-tty", steps: []step{start, {args: []string{"exec", "-t", "ID", "sh", "-c", awaitEnter + "tty; stty size; exit 9"}, tty: true, enter: true}}, short: true},
		{name: "exec-tty-twice", steps: []step{start, {args: []string{"exec", "-t", "ID", "sh", "-c", "tty >/one"}, tty: true}, {args: []string{"exec", "--tty", "ID", "sh", "-c", "tty >/two"}, tty: true}}},
		{name: "exec-tty-detached", steps: []step{start, exec("-t", "-d", "ID", "true"), exec("-t", "--console-socket", "/nonexistent", "ID", "true")}},
		{name: "exec-process", prepare: processFile(func(p *specs.Process) {}), steps: byFile},
		{name: "exec-process-all", prepare: processFile(func(p *specs.Process) {
			p.User = specs.User{UID: 1000, GID: 2000, AdditionalGids: []uint32{5}, Umask: pointer(uint32(0o027))}
			p.Cwd, p.Env = "/home/user", []string{"PATH=/bin", "ONLY=this"}
			p.Capabilities.Bounding = []string{"CAP_KILL"}
			p.NoNewPrivileges = false
			p.OOMScoreAdj = pointer(300)
		}), steps: byFile},
		// Not RLIMIT_NOFILE: runc sets it while Go's start of its init may be raising it (runc issue 4195).
		{name: "exec-process-rlimits", prepare: processFile(func(p *specs.Process) {
			p.Args = []string{"sh", "-c", "ulimit -t; ulimit -H -t; ulimit -c; cat /proc/self/oom_score_adj"}
			p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU", Soft: 33, Hard: 44}, {Type: "RLIMIT_CORE"}}
			p.OOMScoreAdj = pointer(300)
		}), steps: byFile},
		{name: "exec-process-no-args", prepare: processFile(func(p *specs.Process) { p.Args = nil }), steps: byFile},
		{name: "exec-process-no-cwd", prepare: processFile(func(p *specs.Process) { p.Cwd = "" }), steps: byFile},
		{name: "exec-process-relative-cwd", prepare: processFile(func(p *specs.Process) { p.Cwd = "tmp" }), steps: byFile},
		{name: "exec-process-missing", steps: []step{start, exec("--process", "/nonexistent.json", "ID")}},
		{name: "exec-process-bad", prepare: func(t testing.TB, b *bundle) { b.write(t, "process.json", "{nonsense", 0o644) }, steps: byFile},
		{name: "exec-seccomp", options: []testenv.Option{seccomp(specs.ActAllow, rule(specs.ActErrno, nil, "mkdir"))}, steps: []step{start, run("mkdir /x; grep ^Seccomp: /proc/self/status")}},
		{name: "exec-container-rlimits", options: []testenv.Option{rlimit("RLIMIT_CORE", 7, 9)}, steps: []step{start, run("ulimit -n; grep core /proc/self/limits")}},
		{name: "exec-container-user", options: []testenv.Option{user(1000, 1000, 5, 6), umask(0o077)}, steps: []step{start, run(id)}},
		{name: "exec-parent", steps: []step{start, run("sh -c 'grep -c PPid /proc/self/status'; ls -d /proc/1")}},
		{name: "exec-preserve-fds", steps: []step{start, exec("--preserve-fds", "1", "ID", "true")}},
		{name: "exec-output-large", steps: []step{start, run("seq 1 100000")}},
		{name: "exec-user-namespace", options: []testenv.Option{userNamespace(65536)}, prepare: forUserNamespace, steps: []step{start, run("id -u; touch /tmp/e; ls -ln /tmp | cut -c1-30; grep ^Cap /proc/self/status")}},
		{name: "exec-user-namespace-created", options: []testenv.Option{userNamespace(65536)}, prepare: forUserNamespace, steps: []step{run("id -u; grep ^CapEff /proc/self/status; readlink /proc/self/ns/user | cut -c1-6"), start, run("id -u")}, short: true},
		{name: "exec-apparmor", steps: []step{start, exec("--apparmor", "some-profile", "ID", "echo", "ran")}},
		{name: "exec-process-label", steps: []step{start, exec("--process-label", "system_u:system_r:x_t:s0", "ID", "echo", "ran")}},
		{name: "exec-ignore-paused", steps: []step{start, exec("--ignore-paused", "ID", "echo", "ran")}},
		{name: "exec-process-terminal", prepare: processFile(func(p *specs.Process) { p.Args, p.Terminal = []string{"sh", "-c", awaitEnter + "tty; stty size"}, true }), steps: []step{
			start, {args: []string{"exec", "--process", "DIR/process.json", "ID"}, tty: true, enter: true}}},
		{name: "exec-flags-created", steps: []step{
			exec("--cwd", "/home/user", "-e", "A=1", "-u", "1000:1000", "-g", "5", "--cap", "CAP_KILL", "--no-new-privs", "ID", "sh", "-c", id),
			{args: []string{"exec", "-t", "ID", "sh", "-c", "tty >/tty; exit 9"}, tty: true}, // runc may not be raw yet when output comes
			{args: []string{"exec", "--detach", "--pid-file", "DIR/pid", "ID", "sh", "-c", "echo detached >/detached; mv /detached /done"}, null: true},
			run("while [ ! -e /done ]; do sleep 0.1; done; cat /done"), exec("--preserve-fds", "1", "ID", "true"), start,
		}},
		{name: "exec-cgroup", steps: []step{start, exec("--cgroup", "/", "ID", "true"), exec("--cgroup", "/nope", "ID", "true")}},
	}
}

func configCases() []testCase {
	ok := func(s string) string { return `{"ociVersion":"1.0.2","process":` + s + `,"root":{"path":"rootfs"}}` }
	return []testCase{
		{name: "config-missing", config: "-", short: true},
		{name: "config-empty", config: " "},
		{name: "config-null", config: "null"},
		{name: "config-no-json", config: "nonsense"},
		{name: "config-truncated", config: `{"ociVersion":"1.0.2","process":{`},
		{name: "config-array", config: "[]"},
		{name: "config-wrong-type", config: ok(`{"args":"sh","cwd":"/"}`)},
		{name: "config-no-process", config: `{"ociVersion":"1.0.2","root":{"path":"rootfs"}}`},
		{name: "config-no-args", config: ok(`{"cwd":"/"}`), short: true},
		{name: "config-no-cwd", config: ok(`{"args":["sh"]}`)},
		{name: "config-relative-cwd", config: ok(`{"args":["sh"],"cwd":"tmp"}`)},
		{name: "config-no-root", config: `{"ociVersion":"1.0.2","process":{"args":["sh"],"cwd":"/"},"linux":{}}`},
		{name: "config-missing-root", options: sh("true", with(func(s *specs.Spec) { s.Root.Path = "nope" }))},
		{name: "config-file-root", options: sh("true", with(func(s *specs.Spec) { s.Root.Path = "config.json" }))},
		{name: "config-no-version", options: sh("echo ran", with(func(s *specs.Spec) { s.Version = "" }))},
		{name: "config-future-version", options: sh("echo ran", with(func(s *specs.Spec) { s.Version = "1.99.0" }))},
		{name: "config-bad-version", options: sh("echo ran", with(func(s *specs.Spec) { s.Version = "nonsense" }))},
		{name: "config-absolute-root", options: sh("echo ran"), prepare: func(_ testing.TB, b *bundle) { b.spec.Root.Path = b.rootfs }},
		{name: "config-unknown-fields", config: `{"ociVersion":"1.0.2","nonsense":1,"process":{"args":["/bin/true"],"cwd":"/","more":{}},"root":{"path":"nope"},"linux":{}}`},
		{name: "config-apparmor", options: sh("echo ran", process(func(p *specs.Process) { p.ApparmorProfile = "some-profile" }))},
		{name: "config-selinux", options: sh("echo ran", process(func(p *specs.Process) { p.SelinuxLabel = "system_u:system_r:x_t:s0" }))},
		{name: "config-annotations", options: sh("echo ran", testenv.Annotation("a", "b"), testenv.Annotation("run.oci.hooks.stdout", "/x"))},
	}
}
