package compare

import (
	"fmt"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

func allCases() []testCase {
	var all []testCase
	for _, list := range [][]testCase{
		processCases(), userCases(), capabilityCases(), limitCases(), seccompCases(), exitCases(), terminalCases(),
		fileCases(), bindCases(), bindEtcCases(), tmpfsCases(), kernelMountCases(), pathCases(), deviceCases(), namespaceCases(),
		hookCases(), execCases(), configCases(),
	} {
		all = append(all, list...)
	}
	return all
}

// with makes an option of a change of the spec.
func with(change func(s *specs.Spec)) testenv.Option { return change }

func process(change func(p *specs.Process)) testenv.Option {
	return func(s *specs.Spec) { change(s.Process) }
}

func sh(script string, more ...testenv.Option) []testenv.Option {
	return append([]testenv.Option{testenv.Shell(script)}, more...)
}

func args(list ...string) []testenv.Option { return []testenv.Option{testenv.Args(list...)} }

func env(vars ...string) testenv.Option { return process(func(p *specs.Process) { p.Env = vars }) }

func cwd(dir string) testenv.Option { return process(func(p *specs.Process) { p.Cwd = dir }) }

func processCases() []testCase {
	return []testCase{
		{name: "args", options: args("echo", "one", "two words", "", "\"quoted\"", "new\nline", "ümläut"), short: true},
		{name: "args-many", options: args(append([]string{"sh", "-c", `echo $#; echo "$200"; echo "$@" | sha256sum`, "x"}, numbers(3000)...)...)},
		{name: "args-relative-path", options: append(args("./busybox", "echo", "relative"), cwd("/bin"))},
		{name: "args-absolute-path", options: args("/bin/echo", "absolute")},
		{name: "args-argv0", options: sh(`tr '\0' '\n' </proc/self/cmdline; cat /proc/self/comm`)},
		{name: "cwd", options: sh("pwd", cwd("/home/user")), short: true},
		{name: "cwd-missing", options: sh("pwd; stat -c '%A %h %u %g' .", cwd("/made/for/me")), short: true},
		{name: "cwd-symlink", options: sh("pwd -P", cwd("/link")), prepare: symlink("link", "home/user")},
		{name: "cwd-missing-below-symlink", options: sh("pwd -P", cwd("/link/new")), prepare: symlink("link", "home/user")},
		{name: "cwd-file", options: sh("pwd", cwd("/etc/passwd"))},
		{name: "cwd-escaping-symlink", options: sh("pwd -P", cwd("/link/new")), prepare: symlink("link", "../../../../home/user")},
		{name: "cwd-dots", options: sh("pwd", cwd("/home/../home/user/."))},
		{name: "cwd-no-permission", options: sh("pwd", cwd("/secret"), user(1000, 1000)), prepare: func(t testing.TB, b *bundle) { b.folder(t, "secret", 0o700) }},
		{name: "cwd-volume-no-permission", options: sh("pwd; touch made", cwd("/data"), user(1000, 1000)), prepare: func(t testing.TB, b *bundle) {
			b.mount(b.owned(t, b.volume(t, "data"), 1000, 0o700), "/data", "bind", "rbind")
		}},
		{name: "env", options: args("env"), short: true},
		{name: "env-values", options: append(args("env"), env("PATH=/bin", "EMPTY=", "SPACES= a b ", "EQUALS=a=b=c", "UTF=ü", "LINE=a\nb"))},
		{name: "env-twice", options: append(args("env"), env("PATH=/bin", "A=1", "A=2"))},
		{name: "env-none", options: append(args("/bin/env"), env())},
		{name: "env-no-equals", options: append(args("env"), env("PATH=/bin", "NOTHING"))},
		{name: "env-home", options: append(args("sh", "-c", "echo $HOME"), user(1000, 1000))},
		{name: "env-home-given", options: append(args("sh", "-c", "echo $HOME"), env("PATH=/bin", "HOME=/over"), user(1000, 1000))},
		{name: "env-home-empty", options: append(args("sh", "-c", "echo $HOME"), env("PATH=/bin", "HOME="))},
		{name: "env-home-unknown-user", options: append(args("sh", "-c", "echo $HOME"), user(4321, 4321))},
		{name: "env-long", options: append(args("sh", "-c", "echo ${#LONG}"), env("PATH=/bin", "LONG="+long(100_000)))},
		{name: "path-none", options: append(args("echo", "x"), env("A=1"))},
		{name: "path-empty", options: append(args("echo", "x"), env("PATH="))},
		{name: "path-order", options: append(args("tool"), env("PATH=/nowhere:/one:/two")), prepare: func(t testing.TB, b *bundle) {
			b.folder(t, "one", 0o755)
			b.folder(t, "two", 0o755)
			b.write(t, "rootfs/one/tool", "#!/bin/sh\necho one\n", 0o755)
			b.write(t, "rootfs/two/tool", "#!/bin/sh\necho two\n", 0o755)
		}},
		{name: "path-not-executable-first", options: append(args("tool"), env("PATH=/one:/two")), prepare: func(t testing.TB, b *bundle) {
			b.folder(t, "one", 0o755)
			b.folder(t, "two", 0o755)
			b.write(t, "rootfs/one/tool", "#!/bin/sh\necho one\n", 0o644)
			b.write(t, "rootfs/two/tool", "#!/bin/sh\necho two\n", 0o755)
		}},
		{name: "path-relative", options: append(args("echo", "x"), env("PATH=bin"))},
		{name: "script-without-interpreter", options: args("/script"), prepare: func(t testing.TB, b *bundle) { b.write(t, "rootfs/script", "echo text\n", 0o755) }},
		{name: "script-missing-interpreter", options: args("/script"), prepare: func(t testing.TB, b *bundle) { b.write(t, "rootfs/script", "#!/nope\n", 0o755) }},
		{name: "binary-missing", options: args("nonexistent"), short: true},
		{name: "binary-missing-path", options: args("/bin/nonexistent", "arg")},
		{name: "binary-missing-relative", options: args("./nonexistent")},
		{name: "binary-not-executable", options: args("/etc/passwd"), short: true},
		{name: "binary-not-executable-in-path", options: append(args("passwd"), env("PATH=/etc"))},
		{name: "binary-folder", options: args("/etc")},
		{name: "binary-empty", options: args("/empty"), prepare: func(t testing.TB, b *bundle) { b.write(t, "rootfs/empty", "", 0o755) }},
		{name: "binary-garbage", options: args("/garbage"), prepare: func(t testing.TB, b *bundle) { b.write(t, "rootfs/garbage", "\x7fELFnonsense", 0o755) }},
		{name: "binary-below-file", options: args("/etc/passwd/x")},
		{name: "binary-symlink-loop", options: args("/loop"), prepare: symlink("loop", "loop")},
		{name: "binary-no-permission", options: append(args("/secret"), user(1000, 1000)), prepare: func(t testing.TB, b *bundle) {
			b.write(t, "rootfs/secret", "#!/bin/sh\necho no\n", 0o700)
		}},
		{name: "binary-empty-name", options: args("")},
		{name: "stdin", options: args("cat"), stdin: "one\ntwo\nno newline", short: true},
		{name: "stdin-none", options: sh("cat; echo $?")},
		{name: "stderr", options: sh("echo out; echo err >&2")},
		{name: "descriptors", options: sh("ls /proc/self/fd | wc -l")},
		{name: "output-binary", options: sh(`printf '\000\001\377\r\n\200'`)},
		{name: "output-large", options: sh(`seq 1 200000 | tee /all | sha256sum; cat /all | sha256sum`)},
		{name: "pid-one", options: sh("echo $$; set -- /proc/[0-9]*; echo $#")},
		{name: "session", options: sh(`set -- $(cat /proc/self/stat); echo $5 $6 $7`)},
		{name: "signals-blocked", options: sh("grep -E '^Sig(Blk|Ign|Cgt)' /proc/1/status")},
		{name: "orphans", options: sh("sh -c '(sleep 0.3; exec grep PPid /proc/self/status) &'; sleep 2")},
		{name: "personality", options: sh("uname -m; cat /proc/self/personality", with(func(s *specs.Spec) {
			s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
		}))},
		{name: "oom-score-adj", options: sh("cat /proc/self/oom_score_adj", process(func(p *specs.Process) { p.OOMScoreAdj = pointer(500) })), short: true},
		{name: "oom-score-adj-none", options: sh("cat /proc/self/oom_score_adj")},
		{name: "no-new-privileges", options: sh("grep NoNewPrivs /proc/self/status")},
		{name: "new-privileges", options: sh("grep NoNewPrivs /proc/self/status", process(func(p *specs.Process) { p.NoNewPrivileges = false }))},
		{name: "keyring", options: sh("grep -o '_ses[^:]*' /proc/keys", with(func(s *specs.Spec) { s.Linux.MaskedPaths = nil }))},
		{name: "dumpable", options: sh("ls -ln /proc/1/ | grep -c '^l'; cat /proc/1/environ | tr '\\0' '\\n'", user(1000, 1000))},
	}
}

func numbers(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprint("argument-", i)
	}
	return list
}

func long(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'a' + byte(i%26)
	}
	return string(b)
}

func pointer[T any](v T) *T { return &v }

func user(uid, gid uint32, more ...uint32) testenv.Option {
	return process(func(p *specs.Process) { p.User = specs.User{UID: uid, GID: gid, AdditionalGids: more} })
}

func umask(mask uint32) testenv.Option {
	return process(func(p *specs.Process) { p.User.Umask = &mask })
}

var newPrivileges = process(func(p *specs.Process) { p.NoNewPrivileges = false })

func setuid(t testing.TB, b *bundle) { b.copyProbe(t, "setuid", 0o4755) }

func userCases() []testCase {
	return []testCase{
		{name: "user", options: sh("id; id -G; touch /tmp/made; stat -c '%A %h %u %g' /tmp/made", user(1000, 1000)), short: true},
		{name: "user-unknown", options: sh("id -u; id -g; id -G", user(4321, 1234))},
		{name: "user-large", options: sh("id -u; id -g", user(4294967294, 4294967294))},
		{name: "user-minus-one", options: sh("id -u; id -g", user(4294967295, 0))},
		{name: "additional-gids", options: sh("id -G; grep Groups /proc/self/status", user(1000, 1000, 5, 7, 2000, 7)), short: true},
		{name: "additional-gids-root", options: sh("id -G", user(0, 0, 10, 20))},
		{name: "umask", options: sh("umask; touch /tmp/f; mkdir /tmp/d; stat -c '%A %h %u %g %s %n' /tmp/d /tmp/f", umask(0o077)), short: true},
		{name: "umask-zero", options: sh("umask; touch /tmp/f; mkdir /tmp/d", umask(0))},
		{name: "umask-none", options: sh("umask; touch /tmp/f; mkdir /tmp/d")},
		{name: "umask-large", options: sh("umask", umask(0o7777))},
		{name: "username", options: sh("id -u", process(func(p *specs.Process) { p.User.Username = "user" }))},
		{name: "setuid-program", options: append(args("/setuid", "status", "/proc/self/status"), user(1000, 1000)), prepare: setuid},
		{name: "setuid-program-allowed", options: append(args("/setuid", "status", "/proc/self/status"), user(1000, 1000), newPrivileges), prepare: setuid},
	}
}

func capabilities(bounding, effective, inheritable, permitted, ambient []string) testenv.Option {
	return process(func(p *specs.Process) {
		p.Capabilities = &specs.LinuxCapabilities{
			Bounding: bounding, Effective: effective, Inheritable: inheritable, Permitted: permitted, Ambient: ambient,
		}
	})
}

func capabilityCases() []testCase {
	const show = "grep ^Cap /proc/self/status"
	two := []string{"CAP_KILL", "CAP_NET_BIND_SERVICE"}
	one := []string{"CAP_NET_BIND_SERVICE"}
	return []testCase{
		{name: "capabilities-default", options: sh(show), short: true},
		{name: "capabilities-bounding", options: sh(show, capabilities(two, nil, nil, nil, nil))},
		{name: "capabilities-effective", options: sh(show, capabilities(two, one, nil, two, nil))},
		{name: "capabilities-inheritable", options: sh(show, capabilities(two, two, one, two, nil))},
		{name: "capabilities-permitted", options: sh(show, capabilities(nil, nil, nil, two, nil))},
		{name: "capabilities-ambient", options: sh(show, capabilities(two, two, two, two, one), user(1000, 1000)), short: true},
		{name: "capabilities-ambient-not-inheritable", options: sh(show, capabilities(two, two, nil, two, one), user(1000, 1000))},
		{name: "capabilities-user", options: sh(show, user(1000, 1000))},
		{name: "capabilities-none", options: sh(show, capabilities(nil, nil, nil, nil, nil))},
		{name: "capabilities-absent", options: sh(show, process(func(p *specs.Process) { p.Capabilities = nil }))},
		{name: "capabilities-unknown", options: sh(show, capabilities([]string{"CAP_KILL", "CAP_NO_SUCH"}, nil, nil, nil, nil))},
		{name: "capabilities-lower-case", options: sh(show, capabilities([]string{"cap_kill"}, nil, nil, nil, nil))},
		{name: "capabilities-file", options: append(args("/capable", "status", "/proc/self/status"), user(1000, 1000), newPrivileges), prepare: capable},
		{name: "capabilities-file-no-new-privileges", options: append(args("/capable", "status", "/proc/self/status"), user(1000, 1000)), prepare: capable},
	}
}

func rlimit(kind string, soft, hard uint64) testenv.Option {
	return process(func(p *specs.Process) {
		p.Rlimits = append(p.Rlimits, specs.POSIXRlimit{Type: kind, Soft: soft, Hard: hard})
	})
}

func limitCases() []testCase {
	const show = "grep -v Max.realtime.timeout /proc/self/limits"
	const unlimited = ^uint64(0)
	noLimits := process(func(p *specs.Process) { p.Rlimits = nil })
	return []testCase{
		{name: "rlimits", options: sh("grep -E 'open files|core|stack|file size|cpu time|locked|locks|nice|address|data size' /proc/self/limits", noLimits,
			rlimit("RLIMIT_NOFILE", 512, 1024), rlimit("RLIMIT_CORE", 0, 0), rlimit("RLIMIT_STACK", 1<<20, 4<<20),
			rlimit("RLIMIT_FSIZE", 1<<20, unlimited), rlimit("RLIMIT_CPU", 100, 200), rlimit("RLIMIT_MEMLOCK", 4096, 65536),
			rlimit("RLIMIT_LOCKS", 10, 20), rlimit("RLIMIT_NICE", 0, 0), rlimit("RLIMIT_AS", 1<<30, 1<<31), rlimit("RLIMIT_DATA", 1<<30, 1<<31)), short: true},
		{name: "rlimits-others", options: sh("grep -E 'pending|msgqueue|realtime|resident|processes' /proc/self/limits", noLimits,
			rlimit("RLIMIT_SIGPENDING", 100, 200), rlimit("RLIMIT_MSGQUEUE", 1000, 2000), rlimit("RLIMIT_RTPRIO", 0, 0),
			rlimit("RLIMIT_RTTIME", 1000, 2000), rlimit("RLIMIT_RSS", 1<<20, 1<<21), rlimit("RLIMIT_NPROC", 100, 200))},
		{name: "rlimits-applied", options: sh("ulimit -n; dd if=/dev/zero of=/big bs=1024 count=100 2>&1 | head -1; ls -l /big | cut -c1-30", rlimit("RLIMIT_FSIZE", 10240, 10240))},
		{name: "rlimits-unknown", options: sh(show, rlimit("RLIMIT_NOTHING", 1, 2))},
		{name: "rlimits-lower-case", options: sh(show, rlimit("nofile", 1, 2))},
		{name: "rlimits-twice", options: sh("ulimit -n", rlimit("RLIMIT_NOFILE", 100, 200))},
		{name: "rlimits-soft-above-hard", options: sh("ulimit -f", rlimit("RLIMIT_FSIZE", 200, 100))},
	}
}
