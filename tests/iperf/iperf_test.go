package iperf

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// programs is where iperf3 and its libraries are in a container.
const programs = "/iperf"

// Each connection has a server of its own, on a port of its own: between two clients a
// server stops listening for a moment.
const (
	firstPort = 5201
	servers   = 4
)

// Datagrams are sent at a rate, in bits each second, and a size that leave an emulated
// guest on a busy machine the time to read them.
const (
	datagramRate = "1M"
	datagramSize = "1200"
)

// way is one way of connecting pods.
type way struct {
	name string
	env  func(*testenv.Env) *testenv.Env
}

// ways are all; the last is for comparison only.
func ways(seconds int) []way {
	list := []way{
		{"vc-runtime, tc", func(e *testenv.Env) *testenv.Env { return e }},
		{"vc-runtime, macvtap", func(e *testenv.Env) *testenv.Env {
			return e.Configured(testenv.Settings{"network.mode": `"macvtap"`})
		}},
	}
	if seconds > 1 {
		list = append(list, way{"runc", nil})
	}
	return list
}

// Nothing is lost, whoever sends.
func TestIperf(t *testing.T) {
	seconds := 1
	if s := os.Getenv("VC_IPERF"); s != "" {
		var err error
		if seconds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	var table strings.Builder
	for i, w := range ways(seconds) {
		t.Run(w.name, func(t *testing.T) {
			e := newEnv(t, w)
			fmt.Fprintf(&table, "| %s |%s\n", w.name, measure(e, i, seconds))
		})
	}
	if seconds > 1 {
		fmt.Printf("| | %s |\n|---|%s\n%s", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)), table.String())
	}
}

// columns are what is measured, in order.
var columns = []string{"pod to pod", "host to pod", "pod to host", "datagrams lost"}

func newEnv(t *testing.T, w way) *testenv.Env {
	if w.env == nil {
		return suite.Beside(testenv.Tool(t, "runc")).New(t)
	}
	e := suite.New(t)
	e.NeedVM()
	return w.env(e)
}

// peer is an end of a connection.
type peer struct {
	e       *testenv.Env
	address string
	id      string // of the container; "" is the host
	folder  string // of the programs, on the host
	served  int    // how many connections its servers have had
}

// measure makes two pods, each with a server, has all talk to all, and gives the
// cells of a row.
func measure(e *testenv.Env, subnet, seconds int) (cells string) {
	e.Helper()
	net := func(host int) string { return fmt.Sprintf("10.77.%d.%d", subnet, host) }
	folder := collect(e)
	bridge := e.NewBridge(fmt.Sprintf("vcbr%d", subnet), net(1)+"/24")
	var pods []*peer
	serve := fmt.Sprintf("for port in $(seq %d %d); do %s --one-off --port $port >/dev/null & done; wait; sleep 1000000",
		firstPort, firstPort+servers-1, strings.Join(iperf(programs, "--server"), " "))
	for i := range 2 {
		p := &peer{e: e, address: net(2 + i), folder: folder}
		netns := bridge.Pod(p.address + "/24")
		c := e.Started(nil, testenv.NetworkNamespace(netns), testenv.Bind(folder, programs, "ro"),
			testenv.Shell(serve))
		p.id = c.ID
		p.awaitServers()
		pods = append(pods, p)
	}
	host := &peer{e: e, address: net(1), folder: folder}
	rate := func(from, to *peer, reverse bool) string {
		s := from.stream(to, seconds, reverse)
		return fmt.Sprintf(" %.0f Mbit/s |", s/1e6)
	}
	cells = rate(pods[0], pods[1], false)
	rate(pods[0], pods[1], true)
	sent := pods[0].datagrams(pods[1], seconds, false) + pods[0].datagrams(pods[1], seconds, true)
	if seconds == 1 && subnet > 0 {
		return "" // the short form: the rest differs in nothing
	}
	cells += rate(host, pods[0], false) + rate(host, pods[0], true)
	sent += host.datagrams(pods[0], seconds, false) + host.datagrams(pods[0], seconds, true)
	return cells + fmt.Sprintf(" 0 of %d |", sent)
}

// report is what of iperf3's JSON is looked at.
type report struct {
	Error string
	End   struct {
		Sent     struct{ Bytes int64 } `json:"sum_sent"`
		Received struct {
			Bytes int64
			Rate  float64 `json:"bits_per_second"`
		} `json:"sum_received"`
		UDP struct {
			Packets int
			Lost    int `json:"lost_packets"`
		} `json:"sum"`
	}
}

// stream sends by TCP and gives the bits each second that came. What the sender
// has written last may still be on the way when the time is over, so what was sent and
// what came differ by what the sockets hold at most.
func (p *peer) stream(to *peer, seconds int, reverse bool) float64 {
	p.e.Helper()
	r := p.run(to, reverse, "-t", strconv.Itoa(seconds))
	got, sent := r.End.Received.Bytes, r.End.Sent.Bytes
	const inFlight = 16 << 20 // net.ipv4.tcp_rmem and tcp_wmem
	if got == 0 || got > sent || sent-got > inFlight {
		p.e.Errorf("%s to %s, reverse %v: %d bytes were sent, %d came", p, to, reverse, sent, got)
	}
	p.e.Logf("TCP, %s to %s, reverse %v: %.0f Mbit/s", p, to, reverse, r.End.Received.Rate/1e6)
	return r.End.Received.Rate
}

// datagrams sends by UDP, of which none may be lost, and gives their number.
func (p *peer) datagrams(to *peer, seconds int, reverse bool) int {
	p.e.Helper()
	r := p.run(to, reverse, "-u", "-b", datagramRate, "-l", datagramSize, "-w", "400K", "-t", strconv.Itoa(seconds))
	if r.End.UDP.Packets == 0 || r.End.UDP.Lost != 0 {
		p.e.Errorf("%s to %s, reverse %v: %d of %d datagrams were lost", p, to, reverse, r.End.UDP.Lost, r.End.UDP.Packets)
	}
	return r.End.UDP.Packets
}

// run runs a client to its end.
func (p *peer) run(to *peer, reverse bool, args ...string) *report {
	p.e.Helper()
	port := firstPort + to.served
	to.served++
	args = append([]string{"-c", to.address, "-p", strconv.Itoa(port), "-J", "--connect-timeout", "30000"}, args...)
	if reverse {
		args = append(args, "-R")
	}
	var res *testenv.Result
	if p.id == "" {
		line := iperf(p.folder, args...)
		res = p.e.Run(p.e, testenv.Command{Path: line[0], Args: line[1:]})
	} else {
		res = p.e.Do(append([]string{"exec", p.id}, iperf(programs, args...)...)...)
	}
	var r report
	if err := json.Unmarshal([]byte(res.Stdout), &r); err != nil || res.Code != 0 || r.Error != "" {
		p.e.Fatalf("%v: %s", err, res)
	}
	return &r
}

func (p *peer) String() string {
	if p.id == "" {
		return "the host"
	}
	return p.address
}

// awaitServers waits until all servers listen, which they tell nobody.
func (p *peer) awaitServers() {
	p.e.Helper()
	const listening = " 0A " // proc(5): the state TCP_LISTEN
	testenv.Eventually(p.e, time.Minute, func() error {
		res := p.e.Do("exec", p.id, "cat", "/proc/net/tcp", "/proc/net/tcp6")
		if n := strings.Count(res.Stdout, listening); n != servers {
			return fmt.Errorf("%d of %d servers listen: %s", n, servers, res)
		}
		return nil
	})
}

// iperf is the command line for the iperf3 in a folder, with the libraries there.
func iperf(folder string, args ...string) []string {
	return append([]string{filepath.Join(folder, "ld.so"), "--library-path", folder, filepath.Join(folder, "iperf3")}, args...)
}

// collect copies iperf3, its libraries and their loader into a folder.
func collect(e *testenv.Env) string {
	e.Helper()
	program := testenv.Tool(e, "iperf3")
	folder := e.Path("programs")
	if err := os.Mkdir(folder, 0o755); err != nil {
		e.Fatal(err)
	}
	files := map[string]string{"iperf3": program}
	res := e.Run(e, testenv.Command{Path: testenv.Tool(e, "ldd"), Args: []string{program}, Env: []string{"PATH=/usr/bin:/bin"}})
	for _, m := range regexp.MustCompile(`(?m)(?:=> |^\s)(/\S+) \(`).FindAllStringSubmatch(res.Stdout, -1) {
		name := filepath.Base(m[1])
		if strings.HasPrefix(name, "ld-linux") {
			name = "ld.so"
		}
		files[name] = m[1]
	}
	for name, from := range files {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, name), b, 0o755)
		}
		if err != nil {
			e.Fatal(err)
		}
	}
	return folder
}
