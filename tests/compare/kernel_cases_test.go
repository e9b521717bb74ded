package compare

import (
	"os"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

func seccomp(action specs.LinuxSeccompAction, rules ...specs.LinuxSyscall) testenv.Option {
	return with(func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: action, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}, Syscalls: rules,
		}
	})
}

func rule(action specs.LinuxSeccompAction, errno *uint, names ...string) specs.LinuxSyscall {
	return specs.LinuxSyscall{Names: names, Action: action, ErrnoRet: errno}
}

func seccompCases() []testCase {
	const try = "mkdir /tmp/d; echo $?; grep ^Seccomp: /proc/self/status"
	arg := rule(specs.ActErrno, nil, "chmod")
	arg.Args = []specs.LinuxSeccompArg{{Index: 1, Value: 0o777, Op: specs.OpEqualTo}}
	maskedArg := rule(specs.ActErrno, nil, "chmod", "fchmodat")
	maskedArg.Args = []specs.LinuxSeccompArg{{Index: 1, Value: 0o4000, ValueTwo: 0o4000, Op: specs.OpMaskedEqual}}
	return []testCase{
		{name: "seccomp-errno", options: sh(try, seccomp(specs.ActAllow, rule(specs.ActErrno, nil, "mkdir"))), short: true},
		{name: "seccomp-errno-value", options: sh(try, seccomp(specs.ActAllow, rule(specs.ActErrno, pointer(uint(28)), "mkdir")))},
		{name: "seccomp-kill", options: sh(try+"; ls /", seccomp(specs.ActAllow, rule(specs.ActKill, nil, "mkdir")))},
		{name: "seccomp-kill-process", options: sh(try, seccomp(specs.ActAllow, rule(specs.ActKillProcess, nil, "mkdir"))), short: true},
		{name: "seccomp-kill-thread", options: sh(try, seccomp(specs.ActAllow, rule(specs.ActKillThread, nil, "mkdir")))},
		{name: "seccomp-log", options: sh(try, seccomp(specs.ActAllow, rule(specs.ActLog, nil, "mkdir")))},
		{name: "seccomp-trace", options: sh(try, seccomp(specs.ActAllow, rule(specs.ActTrace, nil, "mkdir")))},
		{name: "seccomp-trap", options: sh(try, seccomp(specs.ActAllow, rule(specs.ActTrap, nil, "mkdir")))},
		{name: "seccomp-notify", options: sh(try, seccomp(specs.ActAllow, rule(specs.ActNotify, nil, "mkdir")))},
		{name: "seccomp-notify-listener", options: sh(try, seccomp(specs.ActAllow, rule(specs.ActNotify, nil, "mkdir")), with(func(s *specs.Spec) {
			s.Linux.Seccomp.ListenerPath = "/nonexistent/listener.sock"
		}))},
		{name: "seccomp-arguments", options: sh("touch /f; chmod 777 /f; chmod 700 /f; ls -l /f | cut -c1-10", seccomp(specs.ActAllow, arg))},
		{name: "seccomp-masked-arguments", options: sh("touch /f; chmod 4755 /f; chmod 755 /f; ls -l /f | cut -c1-10", seccomp(specs.ActAllow, maskedArg))},
		{name: "seccomp-unknown-syscall", options: sh(try, seccomp(specs.ActAllow, rule(specs.ActErrno, nil, "no_such_call", "mkdir")))},
		{name: "seccomp-unknown-action", options: sh(try, seccomp(specs.ActAllow, rule("SCMP_ACT_NOTHING", nil, "mkdir")))},
		{name: "seccomp-no-names", options: sh(try, seccomp(specs.ActAllow, rule(specs.ActErrno, nil)))},
		{name: "seccomp-flags", options: sh(try, seccomp(specs.ActAllow, rule(specs.ActErrno, nil, "mkdir")), with(func(s *specs.Spec) {
			s.Linux.Seccomp.Flags = []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow}
		}))},
		{name: "seccomp-new-privileges", options: sh(try, seccomp(specs.ActAllow, rule(specs.ActErrno, nil, "mkdir")), newPrivileges)},
		{name: "seccomp-user", options: sh(try, seccomp(specs.ActAllow, rule(specs.ActErrno, nil, "mkdir")), user(1000, 1000))},
	}
}

func device(path, kind string, major, minor int64, change ...func(*specs.LinuxDevice)) testenv.Option {
	return with(func(s *specs.Spec) {
		d := specs.LinuxDevice{Path: path, Type: kind, Major: major, Minor: minor}
		for _, f := range change {
			f(&d)
		}
		s.Linux.Devices = append(s.Linux.Devices, d)
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
			Allow: true, Type: kind, Major: &major, Minor: &minor, Access: "rwm",
		})
	})
}

func deviceCases() []testCase {
	const list = "cd /dev; for d in [a-bd-z]*; do echo $d $(stat -c '%F %a %u:%g %t:%T' $d); done; ls -l /dev | grep -o '[^ ]* -> .*' | grep -v ^core"
	mode := func(d *specs.LinuxDevice) {
		d.FileMode, d.UID, d.GID = pointer(os.FileMode(0o640)), pointer(uint32(1000)), pointer(uint32(2000))
	}
	return []testCase{
		{name: "devices-default", options: sh(list), short: true},
		{name: "devices-work", options: sh("head -c 5 /dev/zero | od -An -tx1; echo x >/dev/null; echo x >/dev/full; head -c 8 /dev/urandom | wc -c; head -c 8 /dev/random | wc -c; cat /dev/tty")},
		{name: "device-extra", options: sh("ls -ln /dev/my | cut -c1-40; head -c 3 /dev/my | od -An -tx1", device("/dev/my", "c", 1, 5)), short: true},
		{name: "device-mode", options: sh("stat -c '%F %a %u:%g %t:%T' /dev/my", device("/dev/my", "c", 1, 3, mode))},
		{name: "device-deep", options: sh("stat -c '%F %a %u:%g' /dev/a /dev/a/b /dev/a/b/zero", device("/dev/a/b/zero", "c", 1, 5))},
		{name: "device-outside-dev", options: sh("stat -c '%F %a %u:%g %t:%T' /zero; head -c 2 /zero | od -An -tx1", device("/zero", "c", 1, 5))},
		{name: "device-fifo", options: sh("stat -c '%F %a' /dev/pipe", device("/dev/pipe", "p", 0, 0))},
		{name: "device-fuse", options: sh("stat -c '%F %a %t:%T' /dev/fuse", device("/dev/fuse", "c", 10, 229))},
		{name: "device-unknown", options: sh("stat -c '%F %a %t:%T' /dev/odd; cat /dev/odd", device("/dev/odd", "c", 250, 7))},
		{name: "device-block", options: sh("stat -c '%F %t:%T' /dev/blk", device("/dev/blk", "b", 7, 200))},
		{name: "device-bad-type", options: sh("true", device("/dev/x", "z", 1, 5))},
		{name: "device-over-default", options: sh("stat -c '%F %a %u:%g %t:%T' /dev/null", device("/dev/null", "c", 1, 3, mode))},
		{name: "device-denied", options: sh("mknod /tmp/sda b 8 0; echo $?; mknod /tmp/kmsg c 1 11; cat /tmp/kmsg 2>&1 | head -1; mknod /tmp/zero c 1 5; head -c 1 /tmp/zero | wc -c"), short: true},
		{name: "device-rule-read-only", options: sh("echo x >/dev/my; echo $?; head -c 1 /dev/my | wc -c", device("/dev/my", "c", 1, 5), with(func(s *specs.Spec) {
			rules := s.Linux.Resources.Devices
			rules[len(rules)-1].Access = "r"
		}))},
		{name: "devices-allow-all", options: sh("mknod /tmp/zero c 1 5; head -c 1 /tmp/zero | wc -c; mknod /tmp/kmsg c 1 11; head -c 0 /tmp/kmsg; echo $?", with(func(s *specs.Spec) {
			s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		}))},
		{name: "mknod-forbidden", options: sh("mknod /tmp/n c 1 3; echo $?", capabilities(nil, nil, nil, nil, nil))},
	}
}

func namespaces(change func(list []specs.LinuxNamespace) []specs.LinuxNamespace) testenv.Option {
	return with(func(s *specs.Spec) { s.Linux.Namespaces = change(s.Linux.Namespaces) })
}

func addNamespace(kind specs.LinuxNamespaceType, path string) testenv.Option {
	return namespaces(func(list []specs.LinuxNamespace) []specs.LinuxNamespace {
		return append(list, specs.LinuxNamespace{Type: kind, Path: path})
	})
}

func dropNamespace(kind specs.LinuxNamespaceType) testenv.Option {
	return namespaces(func(list []specs.LinuxNamespace) []specs.LinuxNamespace {
		var rest []specs.LinuxNamespace
		for _, ns := range list {
			if ns.Type != kind {
				rest = append(rest, ns)
			}
		}
		return rest
	})
}

// userNamespace maps the container's first ids to 100000 and on. The rootfs
// belongs to them.
func userNamespace(size uint32) testenv.Option {
	return with(func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: size}}
		s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
	})
}

// forUserNamespace gives the places that the container needs to its root.
func forUserNamespace(t testing.TB, b *bundle) {
	b.owned(t, b.rootfs, 100000, 0o755)
	b.owned(t, b.folder(t, "tmp", 0o777), 100000, 0o777)
	b.owned(t, b.path(""), 0, 0o755)
}

func sysctl(key, value string) testenv.Option {
	return with(func(s *specs.Spec) {
		if s.Linux.Sysctl == nil {
			s.Linux.Sysctl = make(map[string]string)
		}
		s.Linux.Sysctl[key] = value
	})
}

func namespaceCases() []testCase {
	return []testCase{
		{name: "hostname", options: sh("hostname; cat /proc/sys/kernel/hostname"), short: true},
		{name: "hostname-none", options: sh("[ -n \"$(hostname)\" ]; echo $?", with(func(s *specs.Spec) { s.Hostname = "" }))},
		{name: "hostname-long", options: sh("hostname", with(func(s *specs.Spec) { s.Hostname = long(64) }))},
		{name: "hostname-too-long", options: sh("hostname", with(func(s *specs.Spec) { s.Hostname = long(65) }))},
		{name: "hostname-host-uts", options: sh("true", dropNamespace(specs.UTSNamespace))},
		{name: "domainname", options: sh("cat /proc/sys/kernel/domainname", with(func(s *specs.Spec) { s.Domainname = "example.org" }))},
		{name: "namespace-unknown", options: sh("true", addNamespace("nonsense", ""))},
		{name: "namespace-twice", options: sh("true", addNamespace(specs.PIDNamespace, ""))},
		{name: "namespace-bad-path", options: sh("true", dropNamespace(specs.NetworkNamespace), addNamespace(specs.NetworkNamespace, "/nonexistent/netns"))},
		{name: "namespace-not-a-namespace", options: sh("true", dropNamespace(specs.NetworkNamespace), addNamespace(specs.NetworkNamespace, "/etc/passwd"))},
		{name: "namespace-mount-missing", options: sh("true", dropNamespace(specs.MountNamespace))},
		{name: "namespace-cgroup", options: sh("cat /proc/self/cgroup | cut -d: -f3 | sort -u", addNamespace(specs.CgroupNamespace, ""))},
		{name: "namespace-user", options: sh("id -u; cat /proc/self/uid_map | tr -s ' '; touch /tmp/x; ls -ln /tmp | cut -c1-30; "+"grep ^Cap /proc/self/status", userNamespace(65536)), prepare: forUserNamespace, short: true},
		{name: "namespace-user-user", options: sh("id -u; id -g; touch /tmp/x; stat -c %u:%g /tmp/x /etc/passwd", userNamespace(65536), user(1000, 1000)), prepare: forUserNamespace},
		{name: "namespace-user-volume", options: sh("ls -ln /data | cut -c1-30; touch /data/x; echo $?", userNamespace(65536)), prepare: both(forUserNamespace, func(t testing.TB, b *bundle) {
			b.mount(b.owned(t, b.volume(t, "data"), 100000, 0o755), "/data", "bind", "bind")
			b.write(t, b.path("volumes/data/root"), "host root's\n", 0o600)
		})},
		{name: "namespace-user-devices", options: sh("echo x >/dev/null; head -c 2 /dev/zero | wc -c; ls -ln /dev/null | cut -c1-30; mknod /tmp/n c 1 3; echo $?", userNamespace(65536)), prepare: forUserNamespace},
		{name: "namespace-user-small", options: sh("cat /proc/self/uid_map | tr -s ' '", userNamespace(1)), prepare: forUserNamespace},
		{name: "namespace-user-outside", options: sh("id -u", userNamespace(100), user(1000, 0)), prepare: forUserNamespace},
		{name: "namespace-user-no-mapping", options: sh("true", addNamespace(specs.UserNamespace, ""))},
		{name: "namespace-user-no-gid-mapping", options: sh("true", userNamespace(100), with(func(s *specs.Spec) { s.Linux.GIDMappings = nil }))},
		{name: "mappings-without-namespace", options: sh("id -u; cat /proc/self/uid_map | tr -s ' '", userNamespace(100), dropNamespace(specs.UserNamespace))},
		{name: "namespace-time", options: sh("cat /proc/self/timens_offsets | tr -s ' '", addNamespace(specs.TimeNamespace, ""), with(func(s *specs.Spec) {
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 86400}}
		}))},
		{name: "namespaces-own", options: sh("ls /proc/self/ns; readlink /proc/self/ns/pid | cut -d: -f1")},
		{name: "network-none", options: sh("ls /sys/class/net; cat /proc/net/dev | grep -c lo; ping -c 1 -W 5 127.0.0.1 >/dev/null; echo $?")},
		{name: "sysctl", options: sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax /proc/sys/net/core/somaxconn", sysctl("net.ipv4.ip_forward", "1"),
			sysctl("kernel.msgmax", "4096"), sysctl("net.core.somaxconn", "77")), short: true},
		{name: "sysctl-slashes", options: sh("cat /proc/sys/net/ipv4/ip_forward", sysctl("net/ipv4/ip_forward", "1"))},
		{name: "sysctl-not-namespaced", options: sh("true", sysctl("vm.swappiness", "1"))},
		{name: "sysctl-missing", options: sh("true", sysctl("net.nonsense", "1"))},
		{name: "sysctl-bad-value", options: sh("true", sysctl("kernel.msgmax", "many"))},
		{name: "sysctl-hostname", options: sh("true", sysctl("kernel.hostname", "x"))},
		{name: "sysctl-domainname", options: sh("cat /proc/sys/kernel/domainname", sysctl("kernel.domainname", "x.org"))},
		{name: "sysctl-shm", options: sh("cat /proc/sys/kernel/shmmni /proc/sys/fs/mqueue/msg_max", sysctl("kernel.shmmni", "99"), sysctl("fs.mqueue.msg_max", "11"))},
		{name: "root-propagation", options: sh(propagation("/"), with(func(s *specs.Spec) { s.Linux.RootfsPropagation = "rshared" }))},
		{name: "root-propagation-bad", options: sh("true", with(func(s *specs.Spec) { s.Linux.RootfsPropagation = "nonsense" }))},
		{name: "ipc", options: sh("ipcs -q | wc -l; cat /proc/sysvipc/shm | wc -l")},
	}
}
