package compare

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// mountFlags shows the flags of the mounts whose place matches: those of the
// mount, not of what is mounted (proc(5), mountinfo).
func mountFlags(places string) string {
	return `awk '$5 ~ "^(` + places + `)$" { print $5, $6 }' /proc/self/mountinfo`
}

// tmpfsOptions shows the options of a tmpfs, but for what a newer kernel adds.
func tmpfsOptions(place string) string {
	return `grep " ` + place + ` " /proc/self/mounts | cut -d' ' -f2,4 | sed 's/,inode64//'`
}

func mount(destination, kind, source string, options ...string) testenv.Option {
	return with(func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: destination, Type: kind, Source: source, Options: options})
	})
}

// fileCases are about what a container writes.
func fileCases() []testCase {
	return []testCase{
		{name: "files", options: sh(`umask 0; echo content >/file; mkdir -m 1777 /sticky; ln -s ../anywhere /symlink; ln /file /hard
			mkfifo -m 600 /fifo; mknod -m 666 /null c 1 3; chown 1000:2000 /file; chmod 2755 /sticky; rm /etc/group; mv /etc/passwd /etc/moved`), short: true},
		{name: "files-of-every-kind", options: sh("probe tree /tmp"), prepare: nil},
		{name: "files-deleted", options: sh("rm -r /home; ls /; rmdir /var; mkdir /var; touch /var/new")},
		{name: "files-in-volume", options: sh("cd /data; probe tree /data; mkdir -p a/b/c; echo x >a/b/c/d; cp -a a e; mv a f"), prepare: func(t testing.TB, b *bundle) {
			b.mount(b.volume(t, "data"), "/data", "bind", "rbind")
		}, short: true},
		{name: "files-mmap", options: sh("probe mmap /tmp; probe rename /tmp; probe lock /tmp; probe unlink /tmp")},
		{name: "files-user", options: sh("cd /tmp; echo x >f; mkdir d; chmod 700 d; ln -s f l; touch /etc/x; chown 0 f", user(1000, 1000))},
		{name: "files-sparse", options: sh("dd if=/dev/zero of=/sparse bs=1 count=1 seek=1048575 2>/dev/null; du -k /sparse | cut -f1; ls -l /sparse | cut -c1-30")},
		{name: "files-large", options: sh("dd if=/dev/zero of=/large bs=1048576 count=20 2>/dev/null; sha256sum /large; sync")},
		{name: "files-many", options: sh("mkdir /many; cd /many; i=0; while [ $i -lt 300 ]; do echo $i >f$i; i=$((i+1)); done; ls | wc -l")},
		{name: "files-times", options: sh("touch -d '2001-02-03 04:05:06' /f; stat -c '%Y %s %F' /f")},
		{name: "root-read-only", options: sh("touch /x; echo $?; mkdir /etc/y; echo ok >/dev/shm/z; cat /dev/shm/z; "+mountFlags("/"), readOnlyRoot), short: true},
		{name: "root-flags", options: sh(mountFlags("/"))},
	}
}

func readOnlyRoot(s *specs.Spec) { s.Root.Readonly = true }

// bindTo binds a fresh volume.
func bindTo(destination string, options ...string) func(testing.TB, *bundle) {
	return func(t testing.TB, b *bundle) {
		dir := b.volume(t, "data")
		b.write(t, filepath.Join(dir, "file"), "content\n", 0o644)
		b.mount(dir, destination, "bind", options...)
	}
}

// bindFile binds a file over a place.
func bindFile(destination string, options ...string) func(testing.TB, *bundle) {
	return func(t testing.TB, b *bundle) {
		path := b.write(t, filepath.Join(b.volume(t, "data"), "source"), "of the host\n", 0o640)
		b.mount(path, destination, "bind", options...)
	}
}

// bindReplaced binds two files of a folder, and the folder. The host replaces both
// while the container runs: resolv.conf by renaming another file, hosts by
// writing into it.
func bindReplaced(t testing.TB, b *bundle) {
	for _, name := range []string{"resolv.conf", "hosts"} {
		path := b.write(t, filepath.Join(b.volume(t, "hooks"), name), "old\n", 0o644)
		b.mount(path, "/etc/"+name, "bind", "bind")
	}
	b.mount(b.volume(t, "hooks"), "/data", "bind", "rbind")
	b.spec.Hooks = &specs.Hooks{Poststart: []specs.Hook{
		hook(t, b, "poststart", "echo new >aside; mv aside resolv.conf; echo new >hosts; echo >replaced"),
	}}
}

func both(list ...func(testing.TB, *bundle)) func(testing.TB, *bundle) {
	return func(t testing.TB, b *bundle) {
		for _, f := range list {
			f(t, b)
		}
	}
}

// etc are the files that engines bind over those of the rootfs.
var etc = []string{"hostname", "hosts", "resolv.conf"}

// bindEtc binds files over those in /etc.
func bindEtc(t testing.TB, b *bundle) {
	dir := b.volume(t, "etc")
	for _, name := range etc {
		b.mount(b.write(t, filepath.Join(dir, name), "first "+name+"\n", 0o644), "/etc/"+name, "bind", "rbind", "rprivate")
	}
}

// changeEtc changes the files on the host.
func changeEtc(change func(path, name string) error) step {
	return step{host: func(t testing.TB, b *bundle) {
		for _, name := range etc {
			if err := change(b.path("volumes/etc/"+name), name); err != nil {
				t.Fatal(err)
			}
		}
	}}
}

// writeEtc writes the files in place, as docker and podman do.
func writeEtc(text string) step {
	return changeEtc(func(path, name string) error { return os.WriteFile(path, []byte(text+" "+name+"\n"), 0o644) })
}

// appendEtc makes them longer.
func appendEtc(text string) step {
	return changeEtc(func(path, name string) error {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(text + " " + name + "\n")
		return errors.Join(err, f.Close())
	})
}

// replaceEtc puts other files in their place, as editors and resolvconf do. The
// container goes on with those that it was given.
func replaceEtc(text string) step {
	return changeEtc(func(path, name string) error {
		if err := os.WriteFile(path+".new", []byte(text+" "+name+"\n"), 0o644); err != nil {
			return err
		}
		return os.Rename(path+".new", path)
	})
}

// seeEtc waits for a text in all of them, and shows them. What the guest knows
// of a file may be a second old, its size too: the whole line is waited for.
func seeEtc(text string) step {
	return run("cd /etc; for f in " + strings.Join(etc, " ") + `; do until grep -q "^` + text + `.* $f\$" $f; do sleep 0.1; done; cat $f; stat -c '%s %a %h' $f; done`)
}

// bindEtcCases are about files of the host that change under a container.
func bindEtcCases() []testCase {
	remove := changeEtc(func(path, _ string) error { return os.Remove(path) })
	return []testCase{
		{name: "bind-etc-written", prepare: bindEtc, steps: []step{
			seeEtc("first"), start, writeEtc("second, which is longer,"), seeEtc("second"), appendEtc("third"), seeEtc("third"), writeEtc("4"), seeEtc("4"),
		}, short: true},
		{name: "bind-etc-replaced", prepare: bindEtc, steps: []step{
			start, seeEtc("first"), replaceEtc("second"), run("sleep 1.5"), seeEtc("first"), run("echo inside >>/etc/hosts; cat /etc/hosts"),
		}, short: true},
		{name: "bind-etc-replaced-created", prepare: bindEtc, steps: []step{replaceEtc("second"), start, run("sleep 1.5"), seeEtc("first")}},
		{name: "bind-etc-removed", prepare: bindEtc, steps: []step{start, remove, run("sleep 1.5"), seeEtc("first"), run("echo inside >/etc/hosts; cat /etc/hosts; rm /etc/hosts")}},
	}
}

func bindCases() []testCase {
	const use = "cat /data/file; echo more >>/data/file; echo new >/data/new; echo $?; "
	flags := mountFlags("/data")
	return []testCase{
		{name: "bind", options: sh(use + flags), prepare: bindTo("/data", "bind"), short: true},
		{name: "bind-type-none", options: sh(use), prepare: func(t testing.TB, b *bundle) { b.mount(b.volume(t, "data"), "/data", "none", "bind") }},
		{name: "bind-no-option", options: sh(use), prepare: func(t testing.TB, b *bundle) { b.mount(b.volume(t, "data"), "/data", "bind") }},
		{name: "bind-ro", options: sh(use + flags), prepare: bindTo("/data", "bind", "ro"), short: true},
		{name: "rbind-ro", options: sh(use + flags), prepare: bindTo("/data", "rbind", "ro")},
		{name: "rbind-rro", options: sh(use + flags), prepare: bindTo("/data", "rbind", "rro")},
		{name: "bind-rw", options: sh(use + flags), prepare: bindTo("/data", "bind", "rw")},
		{name: "bind-flags", options: sh("cp /bin/busybox /data/x; /data/x true; echo $?; " + flags), prepare: bindTo("/data", "bind", "nosuid", "nodev", "noexec")},
		{name: "bind-noatime", options: sh(flags), prepare: bindTo("/data", "bind", "noatime", "nodiratime")},
		{name: "bind-sync", options: sh(flags), prepare: bindTo("/data", "bind", "sync", "dirsync")},
		{name: "bind-unknown-option", options: sh("ls /data"), prepare: bindTo("/data", "bind", "nonsense")},
		{name: "bind-data-option", options: sh("ls /data"), prepare: bindTo("/data", "bind", "size=1k", "mode=700")},
		{name: "bind-missing-source", options: sh("ls /data"), prepare: func(t testing.TB, b *bundle) { b.mount(b.path("nope"), "/data", "bind", "bind") }, short: true},
		{name: "bind-relative-source", options: sh("ls /data"), prepare: func(t testing.TB, b *bundle) {
			b.volume(t, "data/sub")
			b.mount("volumes/data", "/data", "bind", "bind")
		}},
		{name: "bind-symlinked-source", options: sh("cat /data/file"), prepare: func(t testing.TB, b *bundle) {
			b.write(t, filepath.Join(b.volume(t, "data"), "file"), "linked\n", 0o644)
			if err := os.Symlink("data", b.path("volumes/link")); err != nil {
				t.Fatal(err)
			}
			b.mount(b.path("volumes/link"), "/data", "bind", "bind")
		}},
		{name: "bind-private", options: sh(propagation("/data")), prepare: bindTo("/data", "rbind", "rprivate")},
		{name: "bind-slave", options: sh(propagation("/data")), prepare: bindTo("/data", "rbind", "rslave")},
		{name: "bind-shared", options: sh(propagation("/data")), prepare: bindTo("/data", "rbind", "rshared")},
		{name: "bind-unbindable", options: sh(propagation("/data")), prepare: bindTo("/data", "bind", "unbindable")},
		{name: "bind-deep-destination", options: sh("cat /a/b/c/d/file; ls -ld /a /a/b | cut -c1-10"), prepare: bindTo("/a/b/c/d", "bind"), short: true},
		{name: "bind-relative-destination", options: sh("cat /rel/file"), prepare: bindTo("rel", "bind")},
		{name: "bind-dots-destination", options: sh("cat /etc/data/file"), prepare: bindTo("/var/../etc/./data", "bind")},
		{name: "bind-escaping-destination", options: sh("cat /data/file"), prepare: bindTo("/../../../data", "bind")},
		{name: "bind-symlinked-destination", options: sh("cat /var/real/file; ls -l / | grep -c link"), prepare: both(symlink("link", "var/real"), makeFolder("var/real"), bindTo("/link", "bind"))},
		{name: "bind-absolute-symlinked-destination", options: sh("cat /var/real/file"), prepare: both(symlink("link", "/var/real"), makeFolder("var/real"), bindTo("/link", "bind"))},
		{name: "bind-symlinked-parent", options: sh("cat /var/real/sub/file"), prepare: both(symlink("link", "var/real"), makeFolder("var/real"), bindTo("/link/sub", "bind"))},
		{name: "bind-dangling-destination", options: sh("cat /var/missing/file"), prepare: both(symlink("link", "var/missing"), bindTo("/link", "bind")), short: true},
		{name: "bind-dangling-parent", options: sh("cat /var/missing/sub/file"), prepare: both(symlink("link", "var/missing"), bindTo("/link/sub", "bind"))},
		{name: "bind-dangling-absolute", options: sh("cat /opt/missing/file"), prepare: both(symlink("link", "/opt/missing"), bindTo("/link", "bind"))},
		{name: "bind-escaping-symlink", options: sh("cat /x/y/file"), prepare: both(symlink("link", "../../../../x/y"), bindTo("/link", "bind"))},
		{name: "bind-symlink-loop", options: sh("true"), prepare: both(symlink("one", "two"), symlink("two", "one"), bindTo("/one", "bind"))},
		{name: "bind-folder-over-file", options: sh("true"), prepare: bindTo("/etc/passwd", "bind")},
		{name: "bind-over-root", options: sh("true"), prepare: bindTo("/", "bind")},
		{name: "bind-file", options: sh("cat /etc/passwd; echo more >>/etc/passwd; ls -ln /etc/passwd | cut -c1-30"), prepare: bindFile("/etc/passwd", "bind"), short: true},
		{name: "bind-file-ro", options: sh("cat /etc/passwd; echo more >>/etc/passwd; echo $?"), prepare: bindFile("/etc/passwd", "bind", "ro")},
		{name: "bind-file-missing-destination", options: sh("cat /some/where/new; ls -l /some/where | cut -c1-10"), prepare: bindFile("/some/where/new", "bind"), short: true},
		{name: "bind-file-dangling-destination", options: sh("cat /var/missing"), prepare: both(symlink("link", "var/missing"), bindFile("/link", "bind"))},
		{name: "bind-file-symlinked-destination", options: sh("cat /etc/resolv.conf; ls /run/made"), prepare: both(symlink("etc/resolv.conf", "../run/made/resolv.conf"), makeFolder("run/made"), func(t testing.TB, b *bundle) {
			b.write(t, "rootfs/run/made/resolv.conf", "image\n", 0o644)
		}, bindFile("/etc/resolv.conf", "bind"))},
		{name: "bind-file-over-folder", options: sh("true"), prepare: bindFile("/etc", "bind")},
		{name: "bind-replaced-inside", options: sh("echo x >/data/new; mv /data/new /data/file; cat /data/file"), prepare: bindTo("/data", "bind")},
		{name: "bind-file-replaced", options: sh("until [ -e /data/replaced ]; do sleep 0.1; done; sleep 1; grep . /etc/resolv.conf /etc/hosts /data/resolv.conf /data/hosts"), prepare: bindReplaced, short: true},
		{name: "bind-fifo", options: sh("ls -l /pipe | cut -c1"), prepare: func(t testing.TB, b *bundle) { b.mount(b.fifo(t, "pipe"), "/pipe", "bind", "bind") }},
		{name: "bind-nested", options: sh("ls /data /data/inner; cat /data/inner/file"), prepare: func(t testing.TB, b *bundle) {
			b.mount(b.volume(t, "outer"), "/data", "bind", "bind")
			b.write(t, filepath.Join(b.volume(t, "inner"), "file"), "inner\n", 0o644)
			b.mount(b.path("volumes/inner"), "/data/inner", "bind", "bind")
		}},
		{name: "bind-nested-read-only", options: sh("ls /data"), prepare: func(t testing.TB, b *bundle) {
			b.mount(b.volume(t, "outer"), "/data", "bind", "bind", "ro")
			b.mount(b.volume(t, "inner"), "/data/inner", "bind", "bind")
		}},
		{name: "bind-twice", options: sh("ls /one /two; touch /one/x; ls /two"), prepare: func(t testing.TB, b *bundle) {
			b.mount(b.volume(t, "data"), "/one", "bind", "bind")
			b.mount(b.volume(t, "data"), "/two", "bind", "bind", "ro")
		}},
		{name: "bind-same-destination", options: sh("ls /data"), prepare: func(t testing.TB, b *bundle) {
			b.write(t, filepath.Join(b.volume(t, "one"), "first"), "", 0o644)
			b.write(t, filepath.Join(b.volume(t, "two"), "second"), "", 0o644)
			b.mount(b.path("volumes/one"), "/data", "bind", "bind")
			b.mount(b.path("volumes/two"), "/data", "bind", "bind")
		}},
		{name: "bind-rootfs-read-only-missing", options: sh("cat /new/file; ls -ld /new | cut -c1-10", readOnlyRoot), prepare: bindTo("/new", "bind")},
		{name: "bind-over-tmpfs", options: sh("cat /t/sub/file; ls -ld /t/sub | cut -c1-10", mount("/t", "tmpfs", "tmpfs", "mode=755")), prepare: bindTo("/t/sub", "bind")},
		{name: "bind-device", options: sh("echo x >/dev/mynull; ls -l /dev/mynull | cut -c1-10"), prepare: func(t testing.TB, b *bundle) { b.mount("/dev/null", "/dev/mynull", "bind", "bind") }},
		{name: "mounts-50", options: sh("cat /v*/file | sort -n | sha256sum; ls -d /v* | wc -l; echo x >/v49/file"), prepare: fifty, short: true},
		{name: "user-volume", options: sh("id -u; ls -ln /data | cut -c1-30; touch /data/mine /data/file; echo $?", user(1000, 1000)), prepare: bindTo("/data", "bind")},
	}
}

func propagation(place string) string {
	return `awk '$5 == "` + place + `"' /proc/self/mountinfo | grep -oE '(shared|master|unbindable)'; true`
}

func makeFolder(name string) func(testing.TB, *bundle) {
	return func(t testing.TB, b *bundle) { b.folder(t, name, 0o755) }
}

func fifty(t testing.TB, b *bundle) {
	for i := range 50 {
		dir := b.volume(t, fmt.Sprint("v", i))
		b.write(t, filepath.Join(dir, "file"), fmt.Sprintln(i), 0o644)
		b.mount(dir, fmt.Sprint("/v", i), "bind", "rbind")
	}
}

func tmpfsCases() []testCase {
	use := "ls -ld /t | cut -c1-10; touch /t/x; echo $?; " + tmpfsOptions("/t")
	return []testCase{
		{name: "tmpfs", options: sh(use, mount("/t", "tmpfs", "tmpfs")), short: true},
		{name: "tmpfs-options", options: sh(use+"; ls -ldn /t | cut -c1-30", mount("/t", "tmpfs", "tmpfs", "nosuid", "nodev", "noexec", "mode=0700", "size=64k", "uid=1000", "gid=2000")), short: true},
		{name: "tmpfs-full", options: sh("dd if=/dev/zero of=/t/f bs=1024 count=100 2>&1 | grep -v records; ls -l /t/f | cut -c1-40; df -k /t | tail -1 | tr -s ' ' | cut -d' ' -f2-5", mount("/t", "tmpfs", "tmpfs", "size=64k"))},
		{name: "tmpfs-inodes", options: sh("cd /t; touch a b c d e f g h; ls | wc -l", mount("/t", "tmpfs", "tmpfs", "nr_inodes=5"))},
		{name: "tmpfs-ro", options: sh(use, mount("/t", "tmpfs", "tmpfs", "ro"))},
		{name: "tmpfs-copy-up", options: sh("ls /etc; cat /etc/passwd; touch /etc/x; "+tmpfsOptions("/etc"), mount("/etc", "tmpfs", "tmpfs", "tmpcopyup"))},
		{name: "tmpfs-bad-option", options: sh(use, mount("/t", "tmpfs", "tmpfs", "nonsense=1"))},
		{name: "tmpfs-bad-size", options: sh(use, mount("/t", "tmpfs", "tmpfs", "size=lots"))},
		{name: "tmpfs-existing-folder-mode", options: sh(use, mount("/t", "tmpfs", "tmpfs")), prepare: func(t testing.TB, b *bundle) { b.folder(t, "t", 0o711) }},
		{name: "tmpfs-symlinked-destination", options: sh("touch /var/t/x; ls /var/t", mount("/link", "tmpfs", "tmpfs")), prepare: both(symlink("link", "var/t"), makeFolder("var/t"))},
		{name: "tmpfs-dangling-destination", options: sh("touch /var/t/x; ls /var/t", mount("/link", "tmpfs", "tmpfs")), prepare: symlink("link", "var/t")},
		{name: "tmpfs-over-file", options: sh("true", mount("/etc/passwd", "tmpfs", "tmpfs"))},
		{name: "tmpfs-nested", options: sh("ls /t/u; touch /t/u/x", mount("/t", "tmpfs", "tmpfs"), mount("/t/u", "tmpfs", "tmpfs"))},
		{name: "tmpfs-strictatime", options: sh(tmpfsOptions("/t"), mount("/t", "tmpfs", "tmpfs", "strictatime", "sync", "mand"))},
	}
}

func kernelMountCases() []testCase {
	return []testCase{
		{name: "proc", options: sh(mountFlags("/proc") + "; ls /proc/self/ns; cat /proc/1/comm"), short: true},
		{name: "proc-flags", options: sh(mountFlags("/proc"), replaceMount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"))},
		{name: "proc-elsewhere", options: sh("ls -d /p/self; "+mountFlags("/p"), mount("/p", "proc", "proc"))},
		{name: "proc-hidepid", options: sh("set -- /proc/[0-9]*; echo $#; "+mountFlags("/proc"), replaceMount("/proc", "proc", "proc", "hidepid=2"), user(1000, 1000))},
		{name: "proc-symlinked", options: sh("true", mount("/p", "proc", "proc")), prepare: symlink("p", "var/p")},
		{name: "bind-over-proc", options: sh("true"), prepare: bindTo("/proc/sys", "bind")},
		{name: "bind-over-proc-file", options: sh("cat /proc/meminfo"), prepare: bindFile("/proc/meminfo", "bind")},
		{name: "tmpfs-over-proc", options: sh("true", mount("/proc/scsi", "tmpfs", "tmpfs"))},
		{name: "sysfs", options: sh(mountFlags("/sys") + "; ls -d /sys/kernel /sys/fs; touch /sys/x"), short: true},
		{name: "sysfs-rw", options: sh(mountFlags("/sys"), replaceMount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev"))},
		{name: "devpts", options: sh(mountFlags("/dev/pts") + "; ls -l /dev/ptmx | cut -d/ -f2-; ls -ld /dev/pts | cut -c1-10; ls /dev/pts")},
		{name: "mqueue", options: sh(mountFlags("/dev/mqueue")+"; touch /dev/mqueue/q; ls /dev/mqueue", mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev")), short: true},
		{name: "shm", options: sh(tmpfsOptions("/dev/shm") + "; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2; ls -ld /dev/shm | cut -c1-10; echo x >/dev/shm/f; probe mmap /dev/shm")},
		{name: "cgroup", options: sh("ls -d /sys/fs/cgroup; cat /proc/self/cgroup | cut -d: -f3 | sort -u", mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"))},
		{name: "unknown-type", options: sh("true", mount("/m", "nosuchfs", "none"))},
		{name: "no-type", options: sh("true", mount("/m", "", "none"))},
	}
}

func replaceMount(destination, kind, source string, options ...string) testenv.Option {
	return with(func(s *specs.Spec) {
		for i := range s.Mounts {
			if s.Mounts[i].Destination == destination {
				s.Mounts[i] = specs.Mount{Destination: destination, Type: kind, Source: source, Options: options}
			}
		}
	})
}

func masked(paths ...string) testenv.Option {
	return with(func(s *specs.Spec) { s.Linux.MaskedPaths = paths })
}

func readonly(paths ...string) testenv.Option {
	return with(func(s *specs.Spec) { s.Linux.ReadonlyPaths = paths })
}

func pathCases() []testCase {
	return []testCase{
		{name: "masked", options: sh("ls -A /home; echo x >/home/f; cat /etc/passwd; ls -l /etc/passwd | cut -c1-10; echo y >>/etc/passwd; "+
			mountFlags("/home"), masked("/home", "/etc/passwd", "/proc/keys")), short: true},
		{name: "masked-missing", options: sh("ls -d /nope", masked("/nope", "/etc/passwd/nope"))},
		{name: "masked-symlink", options: sh("cat /link; cat /etc/group", masked("/link")), prepare: symlink("link", "etc/group")},
		{name: "masked-relative", options: sh("cat /etc/group", masked("etc/group"))},
		{name: "masked-none", options: sh("cat /etc/group; ls /proc/keys", masked())},
		{name: "readonly", options: sh("touch /etc/x; echo y >>/home/f; echo $?; cat /home/f; "+mountFlags("/etc|/home"), readonly("/etc", "/home/f")), prepare: func(t testing.TB, b *bundle) {
			b.write(t, "rootfs/home/f", "file\n", 0o644)
		}, short: true},
		{name: "readonly-missing", options: sh("ls -d /nope", readonly("/nope"))},
		{name: "readonly-symlink", options: sh("touch /etc/x; echo $?", readonly("/link")), prepare: symlink("link", "etc")},
		{name: "readonly-volume", options: sh("touch /data/x; echo $?", readonly("/data")), prepare: bindTo("/data", "bind")},
		{name: "readonly-proc-sys", options: sh("echo 1 >/proc/sys/kernel/domainname; echo $?; " + mountFlags("/proc/sys|/proc/bus|/proc/irq"))},
		{name: "masked-defaults", options: sh("cat /proc/keys | wc -c; ls -A /sys/firmware")},
	}
}
