package server

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// pidNamespaces are the pid namespaces of other containers that one is created
// in. They are open while crun joins them, since a pid may by then be another
// process's.
type pidNamespaces struct{ files []*os.File }

// open gives a path of the pid namespace of a container that lives.
func (p *pidNamespaces) open(s *Server, name string) (string, error) {
	if err := checkName("container", name); err != nil {
		return "", err
	}
	c, err := s.byID(name)
	if err != nil {
		return "", err
	}
	init, err := c.process(initName)
	if err != nil {
		return "", err
	}
	child, ok := init.running()
	if !ok {
		return "", ended(name)
	}
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(child.Pid), "ns/pid"))
	if os.IsNotExist(err) {
		return "", ended(name)
	}
	if err != nil {
		return "", err
	}
	p.files = append(p.files, f)
	// What was opened is its namespace if it has not been reaped since.
	if child.Signal(0) != nil {
		return "", ended(name)
	}
	return filepath.Join("/proc", strconv.Itoa(os.Getpid()), "fd", strconv.Itoa(int(f.Fd()))), nil
}

func ended(name string) error {
	return fmt.Errorf("container %s, whose pid namespace is to be shared, has ended: %w", name, syscall.ESRCH)
}

func (p *pidNamespaces) close() {
	for _, f := range p.files {
		f.Close()
	}
}
