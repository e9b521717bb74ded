package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Pod is what the containers of a guest share beside its network: an IPC and a
// UTS namespace, and shared memory. Each is made when the first container asks
// for it, so that it is there whether or not the pod has a container of its
// own, and lives as long as the guest. The agent itself is in neither namespace.
type Pod struct {
	// ShmDir is where the shared memory is mounted.
	ShmDir string

	mu         sync.Mutex          // guards what follows
	namespaces map[string]*os.File // by kind; they keep the namespaces alive
	shm        bool                // mounted
}

// podNamespaces are the kinds of namespaces that a pod shares, as they are
// called in /proc/<pid>/ns and, but for the flag, made together.
var podNamespaces = []string{"ipc", "uts"}

// Namespace gives a path by which the pod's namespace of a kind, "ipc" or
// "uts", can be joined: that of a descriptor of this process.
func (p *Pod) Namespace(kind string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.namespaces == nil {
		made, err := makeNamespaces()
		if err != nil {
			return "", fmt.Errorf("make the pod's namespaces: %w", err)
		}
		p.namespaces = made
	}
	ns := p.namespaces[kind]
	if ns == nil {
		return "", fmt.Errorf("namespace of a pod: %q, expected ipc or uts: %w", kind, unix.EINVAL)
	}
	return fdPath(ns), nil
}

// fdPath names an open file of this process for others in the guest.
func fdPath(f *os.File) string {
	return filepath.Join("/proc", strconv.Itoa(os.Getpid()), "fd", strconv.Itoa(int(f.Fd())))
}

// makeNamespaces makes them on a thread that ends afterwards.
func makeNamespaces() (map[string]*os.File, error) {
	type result struct {
		made map[string]*os.File
		err  error
	}
	c := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		made := make(map[string]*os.File)
		err := unix.Unshare(unix.CLONE_NEWIPC | unix.CLONE_NEWUTS)
		for _, kind := range podNamespaces {
			if err == nil {
				made[kind], err = os.Open(filepath.Join("/proc/thread-self/ns", kind))
			}
		}
		c <- result{made, err}
	}()
	res := <-c
	return res.made, res.err
}

// Shm gives the folder of the pod's shared memory, which is mounted with the
// options of tmpfs (data) when the first container asks for it.
func (p *Pod) Shm(data string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shm {
		return p.ShmDir, nil
	}
	err := mount{"shm", p.ShmDir, "tmpfs", nosuid, data}.do()
	if err != nil {
		return "", errors.Join(fmt.Errorf("the pod's shared memory: %w", err), os.Remove(p.ShmDir))
	}
	p.shm = true
	return p.ShmDir, nil
}
