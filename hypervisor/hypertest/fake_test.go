package hypertest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/vc-runtime/vc-runtime/hypervisor"
)

func TestFakeKeepsTheContract(t *testing.T) {
	Run(t, Subject{
		Driver: &Driver{},
		Config: hypervisor.Config{Name: "fake", HotplugSlots: 3, CPUs: 1, MaxCPUs: 3, MemoryMiB: 128, MaxMemoryMiB: 1024},
		Share:  newSocket,
	})
}

func TestFakeVsock(t *testing.T) {
	d := &Driver{}
	dialVsock(t, Subject{Driver: d, Config: hypervisor.Config{Vsock: true}})
	d.Vsock = func(port uint32) (net.Conn, error) {
		host, guest := net.Pipe()
		go fmt.Fprintf(guest, "port %d\n", port)
		return host, nil
	}
	vm, err := d.Start(t.Context(), hypervisor.Config{Vsock: true})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	conn, err := vm.DialVsock(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b := make([]byte, 16)
	if n, err := conn.Read(b); err != nil || string(b[:n]) != "port 7\n" {
		t.Errorf("read %q, %v", b[:n], err)
	}
}

func newSocket(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return w
}

func TestFakeAgentAndInjectedErrors(t *testing.T) {
	broken := errors.New("broken")
	d := &Driver{
		Agent:   func(channel net.Conn) { fmt.Fprint(channel, "hi\n") },
		PlugErr: func(tag string) error { return map[string]error{"bad": broken}[tag] },
	}
	vm, err := d.Start(t.Context(), hypervisor.Config{HotplugSlots: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	b := make([]byte, 8)
	if n, err := vm.Channel().Read(b); err != nil || string(b[:n]) != "hi\n" {
		t.Errorf("channel: %q, %v", b[:n], err)
	}
	socket := newSocket(t)
	defer socket.Close()
	if _, err := vm.PlugShare(t.Context(), "bad", socket); !errors.Is(err, broken) {
		t.Errorf("plug: %v", err)
	}
	if _, err := vm.PlugShare(t.Context(), "good", socket); err != nil {
		t.Errorf("plug: %v", err)
	}
	fake := d.VMs()[0]
	if got := fake.Shares(); len(got) != 1 || got[0] != "good" {
		t.Errorf("shares %q", got)
	}
	fake.Print(strings.Repeat("x", 64<<10) + "end")
	if got := vm.Console(); len(got) != 64<<10 || !strings.HasSuffix(string(got), "xend") {
		t.Errorf("console of %d bytes", len(got))
	}

	d.StartErr = broken
	if _, err := d.Start(t.Context(), hypervisor.Config{}); !errors.Is(err, broken) {
		t.Errorf("start: %v", err)
	}
}
