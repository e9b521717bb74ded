package testenv

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// makeBase makes the lower layer of every rootfs: Debian's static busybox with
// a hard link for each applet (so that `ps` shows names), and the probe.
func (s *Suite) makeBase() error {
	for _, d := range []string{"bin", "dev", "etc", "home/user", "proc", "root", "run", "sys", "tmp", "var"} {
		if err := os.MkdirAll(filepath.Join(s.Base, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(s.Base, "tmp"), 0o1777); err != nil {
		return err
	}
	for name, content := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n",
		"etc/group":  "root:x:0:\nuser:x:1000:\nmore:x:2000:user\n",
	} {
		if err := os.WriteFile(filepath.Join(s.Base, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	if err := os.Chown(filepath.Join(s.Base, "home/user"), 1000, 1000); err != nil {
		return err
	}
	if err := s.linkBusybox(); err != nil {
		return err
	}
	return s.buildProbe()
}

func (s *Suite) linkBusybox() error {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("busybox-static is missing: run `hack/deps test`: %w", err)
	}
	busybox := filepath.Join(s.Base, "bin", "busybox")
	if err := copyFile(path, busybox, 0o755); err != nil {
		return err
	}
	res, err := s.Exec(Command{Path: path, Args: []string{"--list"}})
	if err != nil {
		return err
	}
	for _, applet := range strings.Fields(res.Stdout) {
		if applet == "busybox" {
			continue
		}
		if err := os.Link(busybox, filepath.Join(s.Base, "bin", applet)); err != nil {
			return err
		}
	}
	return nil
}

// buildProbe builds the guest's end of those tests that a shell cannot do.
func (s *Suite) buildProbe() error {
	return s.Build(filepath.Join(s.Base, "bin", "probe"), "./tests/testenv/probe", "-ldflags=-s -w")
}

// Build builds a program of this module.
func (s *Suite) Build(to, pkg string, flags ...string) error {
	root, err := ModuleRoot()
	if err != nil {
		return err
	}
	gobin, err := exec.LookPath("go")
	if err != nil {
		return err
	}
	args := append([]string{"build", "-C", root, "-o", to}, flags...)
	res, err := s.Exec(Command{
		Path: gobin, Limit: 5 * time.Minute, Env: append(os.Environ(), "CGO_ENABLED=0"),
		Args: append(args, pkg),
	})
	if err != nil {
		return err
	}
	if res.Code != 0 {
		return fmt.Errorf("build %s: %s", pkg, res)
	}
	return nil
}

func copyFile(from, to string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// Overlay is an overlay mount over the suite's busybox. With index=on the
// kernel refuses an upper layer that anything still holds, which is what the
// promise about released root file systems is measured with.
type Overlay struct {
	e                   *Env
	Dir, Upper, workdir string
	mounted             bool
}

// NewOverlay makes and mounts an overlay, which is unmounted (plainly: it must
// not be busy) when the test ends.
func (e *Env) NewOverlay(name string) *Overlay {
	e.Helper()
	o := &Overlay{e: e, Dir: e.Path(name), Upper: e.Path(name + ".upper"), workdir: e.Path(name + ".work")}
	for _, d := range []string{o.Dir, o.Upper, o.workdir} {
		if err := os.Mkdir(d, 0o755); err != nil {
			e.Fatal(err)
		}
	}
	if err := o.Mount(); err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() {
		if o.mounted {
			if err := o.Unmount(); err != nil {
				e.Error(err)
			}
		}
	})
	return o
}

// Mount mounts the overlay, also again.
func (o *Overlay) Mount() error {
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,index=on", o.e.Base, o.Upper, o.workdir)
	if err := unix.Mount("overlay", o.Dir, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount overlay %s: %w", o.Dir, err)
	}
	o.mounted = true
	return nil
}

// Unmount unmounts it with umount(2), once and without flags.
func (o *Overlay) Unmount() error {
	if err := unix.Unmount(o.Dir, 0); err != nil {
		return fmt.Errorf("unmount %s: %w; held by %s", o.Dir, err, holders(o.Dir))
	}
	o.mounted = false
	return nil
}

// Cycle checks that nothing holds the overlay: it is unmounted and the same
// upper layer is mounted again, at once.
func (o *Overlay) Cycle() error {
	if err := o.Unmount(); err != nil {
		return err
	}
	return o.Mount()
}

// holders names the processes that have something of dir in their mounts.
func holders(dir string) string {
	var found []string
	for _, p := range processes() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", p.pid))
		if err == nil && p.pid != os.Getpid() && strings.Contains(string(b), dir) {
			found = append(found, p.String())
		}
	}
	return strings.Join(found, ", ") + "; processes: " + fmt.Sprint(processes())
}
