package qemu

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/state"
)

// firstFD is the number of exec.Cmd.ExtraFiles[0] in the child.
const firstFD = 3

// spawn starts QEMU's process. The connection is its control socket, the
// caller's to close unless it makes v.qmp of it.
func spawn(cfg hypervisor.Config, memory *guestMemory) (*vm, *net.UnixConn, error) {
	host, guest, err := sockets()
	if err != nil {
		return nil, nil, err
	}
	defer closeAll(guest)
	v := &vm{
		channel: host.channel,
		console: newTail(consoleLimit),
		stderr:  newTail(stderrLimit),
		done:    make(chan struct{}),
		slots:   make([]slot, cfg.HotplugSlots),
		cpus:    cfg.CPUs,
		memory:  memory,
	}
	l := Layout{QMP: firstFD, Console: firstFD + 1, Channel: firstFD + 2, Firmware: FirmwareOf(cfg.Binary)}
	inherited := slices.Clone(guest)
	if memory != nil {
		l.Memory = firstFD + len(inherited)
		inherited = append(inherited, memory.copy)
	}
	if cfg.Vsock {
		var device *os.File
		if device, v.cid, err = openVsock(vhostVsock); err != nil {
			host.close()
			return nil, nil, err
		}
		// Nobody but QEMU may keep it open: connections end with the device.
		defer device.Close()
		l.Vsock, l.CID = firstFD+len(inherited), v.cid
		inherited = append(inherited, device)
	}
	if cfg.Accel == hypervisor.AccelTCG && cfg.Template == nil {
		l.TSC = measureTSC().kHz()
	}
	v.cmd = command(cfg.Binary, Args(cfg, l), inherited, v.stderr)

	// Files that the caller was given without close-on-exec are not QEMU's.
	if err := unix.CloseRange(firstFD, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		host.close()
		return nil, nil, fmt.Errorf("close-on-exec for all files: %w", err)
	}
	started := make(chan error)
	go v.run(host.console, started)
	if err := <-started; err != nil {
		host.close()
		return nil, nil, binaryError(cfg.Binary, err)
	}
	return v, host.qmp, nil
}

// command is QEMU's process before it starts: in its own session and in an
// empty network namespace, with nothing of the caller's environment.
func command(binary string, args []string, files []*os.File, stderr io.Writer) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	cmd.Stderr = stderr
	cmd.WaitDelay = lastWords
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig:  syscall.SIGKILL,
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWNET,
	}
	return cmd
}

// run starts the process, tells started, and sees it to its end. The kernel
// sends the parent-death signal when the parent *thread* ends (prctl(2)), so
// this goroutine keeps its thread for as long as the process lives; it never
// unlocks it, and the thread ends with the goroutine.
func (v *vm) run(console *net.UnixConn, started chan<- error) {
	runtime.LockOSThread()
	if err := v.cmd.Start(); err != nil {
		started <- err
		return
	}
	proc, err := state.FindProcess(v.cmd.Process.Pid)
	if err != nil { // cannot be: it was not waited for
		v.cmd.Process.Kill()
		v.cmd.Wait()
		started <- err
		return
	}
	v.proc = proc
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		io.Copy(v.console, console) // ends with QEMU, the only holder of the other end
	}()
	started <- nil

	err = v.cmd.Wait()
	v.memory.discard()
	<-copied
	console.Close()
	if !v.killed.Load() {
		v.err = v.endOf(err)
	}
	close(v.done)
}

// endOf describes how the process ended: never nil, because a VM that goes by
// itself takes its containers with it, whatever its exit status.
func (v *vm) endOf(wait error) error {
	how := "exit status 0"
	if wait != nil {
		how = wait.Error()
	}
	if said := v.lastMessages(); said != "" {
		return fmt.Errorf("QEMU ended: %s: %s", how, said)
	}
	return fmt.Errorf("QEMU ended: %s", how)
}

// lastMessages is the end of QEMU's stderr, on one line.
func (v *vm) lastMessages() string {
	const most = 5
	lines := strings.FieldsFunc(string(v.stderr.Bytes()), func(r rune) bool { return r == '\n' || r == '\r' })
	return strings.Join(lines[max(0, len(lines)-most):], "; ")
}

// binaryError adds to the error of an exec what the user can do about it.
func binaryError(binary string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no QEMU at %s: install the package qemu-system-x86 or set the path in the configuration: %w", binary, fs.ErrNotExist)
	}
	return err
}
