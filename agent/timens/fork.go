package timens

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Up to Linux 6.2 a child in another time namespace than its parent's cannot
// share its memory (clone(2) fails with EINVAL), which is what
// syscall.ForkExec's children do until they exec. So this is a plain fork. The
// child has one thread and a copy of the memory in which no other will ever
// run: it can do nothing but system calls.

// child is all that the child needs, made before the fork.
type child struct {
	path, dir  *byte
	argv, envv []*byte
	fds        []int         // duplicates above those that they become
	report     [2]int        // a pipe: what exec has failed with, nothing otherwise
	mask       unix.Sigset_t // of the program
}

func newChild(path string, argv []string, attr *syscall.ProcAttr) (*child, error) {
	if attr.Sys != nil {
		return nil, syscall.EINVAL
	}
	c := &child{report: [2]int{-1, -1}}
	err := unix.Pipe2(c.report[:], unix.O_CLOEXEC)
	for _, fd := range attr.Files {
		var dup int
		if err == nil {
			dup, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, len(attr.Files))
		}
		if err == nil {
			c.fds = append(c.fds, dup)
		}
	}
	if err == nil {
		c.path, err = syscall.BytePtrFromString(path)
	}
	if err == nil {
		c.dir, err = syscall.BytePtrFromString(attr.Dir)
	}
	if err == nil {
		c.argv, err = syscall.SlicePtrFromStrings(argv)
	}
	if err == nil {
		c.envv, err = syscall.SlicePtrFromStrings(attr.Env)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *child) close() {
	for _, fd := range append(c.fds, c.report[:]...) {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// start forks, on a locked thread, and waits until the child has become the
// program.
func (c *child) start() (int, error) {
	// A signal's handler is Go's, and must not run in the child.
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^uint64(0)
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &c.mask); err != nil {
		return 0, os.NewSyscallError("sigprocmask", err)
	}
	syscall.ForkLock.Lock()
	pid, errno := c.fork()
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(c)
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &c.mask, nil); err != nil {
		return 0, os.NewSyscallError("sigprocmask", err)
	}
	if errno != 0 {
		return 0, os.NewSyscallError("fork", errno)
	}
	unix.Close(c.report[1])
	c.report[1] = -1
	var failure [8]byte
	n, err := unix.Read(c.report[0], failure[:])
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(c.report[0], failure[:])
	}
	if err == nil && n == 0 {
		return int(pid), nil
	}
	if err == nil {
		err = syscall.Errno(binary.NativeEndian.Uint64(failure[:]))
	}
	unix.Wait4(int(pid), nil, 0, nil)
	return 0, err
}

// fork does not grow its stack, which would ask the scheduler.
//
//go:norace
//go:nosplit
//go:noinline
func (c *child) fork() (pid uintptr, errno syscall.Errno) {
	pid, _, errno = syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	errno = 0
	for i := 0; i < len(c.fds) && errno == 0; i++ {
		_, _, errno = syscall.RawSyscall(syscall.SYS_DUP3, uintptr(c.fds[i]), uintptr(i), 0)
	}
	if errno == 0 && *c.dir != 0 {
		_, _, errno = syscall.RawSyscall(syscall.SYS_CHDIR, uintptr(unsafe.Pointer(c.dir)), 0, 0)
	}
	if errno == 0 {
		_, _, errno = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&c.mask)), 0, unsafe.Sizeof(c.mask.Val[0]), 0, 0)
	}
	if errno == 0 {
		_, _, errno = syscall.RawSyscall(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(c.path)),
			uintptr(unsafe.Pointer(&c.argv[0])), uintptr(unsafe.Pointer(&c.envv[0])))
	}
	code := uint64(errno)
	syscall.RawSyscall(syscall.SYS_WRITE, uintptr(c.report[1]), uintptr(unsafe.Pointer(&code)), unsafe.Sizeof(code))
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 127, 0, 0)
	}
}
