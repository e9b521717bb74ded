package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
)

// keeperVar marks the process that waits for a detached container with --rm, in
// order to delete it. The runtime has no daemon that could: docker's and
// podman's containers have one process more as well.
const keeperVar = "_VC_RUNTIME_KEEPER"

// keeperFD is where a keeper says that its container runs, or why not.
const keeperFD = 3

// keep starts a keeper with this process's own command line, and returns when
// its container runs.
func (p *program) keep() error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the runtime's own executable: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	keeper := exec.Command(exe, os.Args[1:]...)
	keeper.Env = append(os.Environ(), keeperVar+"=1")
	keeper.ExtraFiles = []*os.File{w}
	keeper.Stdin = p.stdin
	keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = keeper.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("start the container's keeper: %w", err)
	}
	// The first byte says whether the rest is the container's id or an error.
	said, err := io.ReadAll(r)
	switch {
	case err != nil:
		return err
	case len(said) == 0:
		return errors.New("the container's keeper has died")
	case said[0] != keeperOK:
		code, text := keeperCode(said)
		return &exitError{code: code, err: errors.New(text)}
	}
	fmt.Fprintln(p.stdout, string(said[1:]))
	return keeper.Process.Release()
}

// keeperOK is the first byte of a keeper whose container runs; another one is
// the exit code of a run that has failed.
const keeperOK = 0

func keeperCode(said []byte) (int, string) { return int(said[0]), string(said[1:]) }

// isKeeper reports whether this process is a keeper, and keeps that from its
// children.
func isKeeper() bool {
	_, ok := os.LookupEnv(keeperVar)
	os.Unsetenv(keeperVar)
	return ok
}

// tell says what has become of the container, once.
func tell(code byte, text string) error {
	f := os.NewFile(keeperFD, "keeper")
	defer f.Close()
	_, err := f.Write(append([]byte{code}, text...))
	return err
}
