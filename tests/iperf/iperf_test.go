package iperf

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// programs is where iperf3 and its libraries are in a container.
const programs = "/iperf"

// Each connection has a server of its own, on a port of its own: between two clients a
// server stops listening for a moment. So many are made to a pod in each round.
const (
	firstPort   = 5201
	connections = 4
)

// tableRounds is how often the ways take turns for a table.
const tableRounds = 3

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
func ways() []way {
	return []way{
		{"vc-runtime, tc", func(e *testenv.Env) *testenv.Env { return e }},
		{"vc-runtime, macvtap", func(e *testenv.Env) *testenv.Env {
			return e.Configured(testenv.Settings{"network.mode": `"macvtap"`})
		}},
		{"runc", nil},
	}
}

// Nothing is lost, whoever sends.
func TestIperf(t *testing.T) {
	if s := os.Getenv("VC_IPERF"); s != "" {
		seconds, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		printTable(t, seconds)
		return
	}
	for i, w := range ways() {
		if w.env != nil {
			t.Run(w.name, func(t *testing.T) { newSite(newEnv(t, w), i, 1).round(1, i == 0) })
		}
	}
}

// printTable has all ways take turns, and prints what came through: medians, with
// the least and the most.
func printTable(t *testing.T, seconds int) {
	var sites []*site
	for i, w := range ways() {
		sites = append(sites, newSite(newEnv(t, w), i, tableRounds))
	}
	for range tableRounds {
		for _, s := range sites {
			s.round(seconds, true)
		}
	}
	fmt.Printf("<!-- bench: network -->\n\nTCP, Mbit/s, medians of %d rounds in turns of %d s for each stream:\n\n| | %s |\n|---|%s\n",
		tableRounds, seconds, strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for i, w := range ways() {
		fmt.Printf("| %s |", w.name)
		for _, rates := range sites[i].rates {
			slices.Sort(rates)
			fmt.Printf(" %.0f (%.0f–%.0f) |", rates[len(rates)/2], rates[0], rates[len(rates)-1])
		}
		fmt.Printf(" 0 of %d |\n", sites[i].sent)
	}
	fmt.Printf("\n<!-- end -->\n\n")
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

// site is two pods on a bridge, each with servers, and what came through.
type site struct {
	pods  []*peer
	host  *peer
	rates [3][]float64 // Mbit/s, by column
	sent  int          // datagrams, of which none was lost
}

// newSite makes the pods, with servers for so many rounds.
func newSite(e *testenv.Env, subnet, rounds int) *site {
	e.Helper()
	net := func(host int) string { return fmt.Sprintf("10.77.%d.%d", subnet, host) }
	folder := collect(e)
	bridge := e.NewBridge(fmt.Sprintf("vcbr%d", subnet), net(1)+"/24")
	servers := connections * rounds
	serve := fmt.Sprintf("for port in $(seq %d %d); do %s --one-off --port $port >/dev/null & done; wait; sleep 1000000",
		firstPort, firstPort+servers-1, strings.Join(iperf(programs, "--server"), " "))
	s := &site{host: &peer{e: e, address: net(1), folder: folder}}
	for i := range 2 {
		p := &peer{e: e, address: net(2 + i), folder: folder}
		netns := bridge.Pod(p.address + "/24")
		c := e.Started(nil, testenv.NetworkNamespace(netns), testenv.Bind(folder, programs, "ro"),
			testenv.Shell(serve))
		p.id = c.ID
		p.awaitServers(servers)
		s.pods = append(s.pods, p)
	}
	return s
}

// round has the pods talk to each other and, where that is wanted, to the host.
func (s *site) round(seconds int, withHost bool) {
	one, other := s.pods[0], s.pods[1]
	s.rates[0] = append(s.rates[0], one.stream(other, seconds, false)/1e6)
	one.stream(other, seconds, true)
	s.sent += one.datagrams(other, seconds, false) + one.datagrams(other, seconds, true)
	if !withHost {
		return // nothing differs there
	}
	s.rates[1] = append(s.rates[1], s.host.stream(one, seconds, false)/1e6)
	s.rates[2] = append(s.rates[2], s.host.stream(one, seconds, true)/1e6)
	s.sent += s.host.datagrams(one, seconds, false) + s.host.datagrams(one, seconds, true)
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
func (p *peer) awaitServers(servers int) {
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
