package hypertest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"

	"github.com/vc-runtime/vc-runtime/state"
)

// process is the fake hypervisor's process: cat, which answers every line,
// and which ends with the test because its stdin does.
type process struct {
	cmd   *exec.Cmd
	proc  state.Process
	stdin io.WriteCloser
	done  chan struct{} // closed when it was reaped
	err   error         // set before done is closed

	mu      sync.Mutex // guards what follows
	waiting []chan struct{}
	killed  bool
}

func startProcess() (*process, error) {
	p := &process{cmd: exec.Command("cat"), done: make(chan struct{})}
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if p.proc, err = state.FindProcess(p.cmd.Process.Pid); err != nil {
		return nil, errors.Join(err, p.cmd.Process.Kill(), p.cmd.Wait())
	}
	go p.run(stdout)
	return p, nil
}

// run hands out the answers until the process ends.
func (p *process) run(stdout io.Reader) {
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		p.mu.Lock()
		close(p.waiting[0])
		p.waiting = p.waiting[1:]
		p.mu.Unlock()
	}
	err := p.cmd.Wait()
	p.mu.Lock()
	if !p.killed {
		p.err = fmt.Errorf("the fake hypervisor ended: %v", err)
	}
	p.mu.Unlock()
	close(p.done)
}

// ask returns when the process has answered.
func (p *process) ask(ctx context.Context) error {
	answer, err := p.send()
	if err != nil {
		return err
	}
	select {
	case <-answer:
		return nil
	case <-p.done:
		return errors.New("the fake hypervisor has ended")
	case <-ctx.Done():
		return fmt.Errorf("the fake hypervisor does not answer: %w", ctx.Err())
	}
}

func (p *process) send() (<-chan struct{}, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := io.WriteString(p.stdin, "?\n"); err != nil {
		return nil, fmt.Errorf("the fake hypervisor has ended: %w", err)
	}
	answer := make(chan struct{})
	p.waiting = append(p.waiting, answer)
	return answer, nil
}

// terminate is kill without waiting.
func (p *process) terminate() error {
	select {
	case <-p.done:
		return nil
	default:
	}
	p.mu.Lock()
	p.killed = true
	p.mu.Unlock()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

func (p *process) kill() error {
	if err := p.terminate(); err != nil {
		return err
	}
	<-p.done
	return nil
}
