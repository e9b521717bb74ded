package containerd

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/spdystream"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// The protocols of the kubelet's streaming server (k8s.io/kubelet/pkg/cri/streaming).
const (
	execProtocol    = "v4.channel.k8s.io"
	forwardProtocol = "portforward.k8s.io"
)

// streams is a connection to the streaming server, as kubectl makes it.
type streams struct {
	*pod
	conn *spdystream.Connection
}

// openStreams asks for an upgrade to SPDY at the address that the CRI gave.
func (p *pod) openStreams(address, protocol string) *streams {
	p.Helper()
	u, err := url.Parse(address)
	if err != nil {
		p.Fatal(err)
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(callLimit))
	req, err := http.NewRequest(http.MethodPost, address, nil)
	if err != nil {
		p.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "SPDY/3.1")
	req.Header.Set("X-Stream-Protocol-Version", protocol)
	if err := req.Write(conn); err != nil {
		p.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		p.Fatal(err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		p.Fatalf("upgrade to SPDY: %s", res.Status)
	}
	sc, err := spdystream.NewConnection(conn, false)
	if err != nil {
		p.Fatal(err)
	}
	go sc.Serve(spdystream.NoOpStreamHandler)
	p.Cleanup(func() { sc.Close() })
	return &streams{p, sc}
}

// open makes a stream with the given header.
func (s *streams) open(header ...string) *spdystream.Stream {
	s.Helper()
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	stream, err := s.conn.CreateStream(h, nil, false)
	if err != nil {
		s.Fatal(err)
	}
	if err := stream.WaitTimeout(callLimit); err != nil {
		s.Fatal(err)
	}
	return stream
}

// text reads a stream to its end.
func (s *streams) text(stream *spdystream.Stream) string {
	s.Helper()
	b, err := io.ReadAll(stream)
	if err != nil {
		s.Fatal(err)
	}
	return string(b)
}

func (s *streams) write(to io.Writer, text string) {
	s.Helper()
	if _, err := io.WriteString(to, text); err != nil {
		s.Fatal(err)
	}
}

// TestExec is kubectl exec -i, with each stream for itself.
func TestExec(t *testing.T) {
	p := newPod(t, nil)
	c := p.container("c", nil, "sleep", "1000000")
	res := call(p, p.Exec, &cri.ExecRequest{
		ContainerId: c, Cmd: []string{"sh", "-c", "cat; echo err >&2; exit 5"}, Stdin: true, Stdout: true, Stderr: true,
	})
	s := p.openStreams(res.Url, execProtocol)
	failure := s.open("streamType", "error")
	stdin, stdout, stderr := s.open("streamType", "stdin"), s.open("streamType", "stdout"), s.open("streamType", "stderr")
	s.write(stdin, "through the guest\n")
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	p.Equal("stdout", s.text(stdout), "through the guest\n")
	p.Equal("stderr", s.text(stderr), "err\n")
	if text := s.text(failure); !strings.Contains(text, `"message":"5"`) {
		t.Errorf("exit code 5 expected: %s", text)
	}
}

// TestExecTerminal is kubectl exec -it, with a change of size.
func TestExecTerminal(t *testing.T) {
	p := newPod(t, nil)
	c := p.container("c", nil, "sleep", "1000000")
	res := call(p, p.Exec, &cri.ExecRequest{
		ContainerId: c, Tty: true, Stdin: true, Stdout: true,
		Cmd: []string{"sh", "-c", "while [ \"$(stty size)\" != '33 111' ]; do sleep 0.1; done; read line; echo got $line"},
	})
	s := p.openStreams(res.Url, execProtocol)
	s.open("streamType", "error")
	stdin, stdout, resize := s.open("streamType", "stdin"), s.open("streamType", "stdout"), s.open("streamType", "resize")
	s.write(resize, `{"Width":111,"Height":33}`)
	s.write(stdin, "hello\n")
	if text := s.text(stdout); !strings.Contains(text, "got hello\r\n") {
		t.Errorf("output: %q", text)
	}
}

// TestAttach is kubectl attach -i to the container's own process.
func TestAttach(t *testing.T) {
	p := newPod(t, nil)
	c := p.container("c", func(c *cri.ContainerConfig) { c.Stdin, c.StdinOnce = true, true }, "sh", "-c", "while read line; do echo got $line; done; exit 4")
	res := call(p, p.Attach, &cri.AttachRequest{ContainerId: c, Stdin: true, Stdout: true, Stderr: true})
	s := p.openStreams(res.Url, execProtocol)
	s.open("streamType", "error")
	stdin, stdout := s.open("streamType", "stdin"), s.open("streamType", "stdout")
	s.open("streamType", "stderr")
	s.write(stdin, "one\ntwo\n")
	b := make([]byte, len("got one\ngot two\n"))
	if _, err := io.ReadFull(stdout, b); err != nil {
		t.Fatal(err)
	}
	p.Equal("output", string(b), "got one\ngot two\n")
	if err := stdin.Close(); err != nil { // the end of the process's input
		t.Fatal(err)
	}
	testenv.Eventually(t, time.Minute, func() error {
		if st := p.status(c); st.State != cri.ContainerState_CONTAINER_EXITED || st.ExitCode != 4 {
			return &statusError{c, fmt.Sprint(st.State, " with ", st.ExitCode), "EXITED with 4"}
		}
		return nil
	})
}

// TestPortForward is kubectl port-forward: containerd dials localhost in the
// network namespace of the pod on the host.
func TestPortForward(t *testing.T) {
	p := newPod(t, nil)
	c := p.container("c", nil, "sh", "-c", serve)
	p.sh(c, "until wget -qO- http://127.0.0.1/ >/dev/null 2>&1; do sleep 0.1; done")
	res := call(p, p.PortForward, &cri.PortForwardRequest{PodSandboxId: p.id, Port: []int32{80}})
	s := p.openStreams(res.Url, forwardProtocol)
	for i := range 3 { // several connections over one
		failure, data := s.forward(80, i)
		s.write(data, "GET / HTTP/1.0\r\n\r\n")
		if text := s.text(data); !strings.HasPrefix(text, "HTTP/1.") || !strings.HasSuffix(text, "served\n") {
			t.Errorf("answer: %q", text)
		}
		p.Equal("failure", s.text(failure), "")
	}
	_, data := s.forward(81, 9) // nobody listens
	if n, err := io.WriteString(data, "x"); err == nil {
		if text := s.text(data); text != "" {
			t.Errorf("a port on which nobody listens answers %q (%d)", text, n)
		}
	}
}

// forward opens the two streams of a forwarded connection.
func (s *streams) forward(port, request int) (failure, data *spdystream.Stream) {
	s.Helper()
	header := []string{"port", strconv.Itoa(port), "requestID", strconv.Itoa(request), "streamType"}
	failure = s.open(append(header, "error")...)
	return failure, s.open(append(header, "data")...)
}
