package trace

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// writer is what the children of TestManyProcesses are given.
const writer = "TRACE_TEST_WRITER"

func TestMain(m *testing.M) {
	if path := os.Getenv(writer); path != "" {
		os.Exit(write(path))
	}
	os.Exit(m.Run())
}

// spansEach is how many spans a child writes.
const spansEach = 200

// write is a process that traces.
func write(path string) int {
	t, err := Open(path, "writer", "c1")
	if err != nil {
		os.Stderr.WriteString(err.Error())
		return 1
	}
	defer t.Close()
	ctx := With(context.Background(), t)
	for i := range spansEach {
		Begin(ctx, Phase, strings.Repeat("x", i)).End()
	}
	return 0
}

// Several processes that begin and append at the same time make one trace in
// which no line is lost or mixed with another.
func TestManyProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trace.json")
	const processes = 8
	var running []*exec.Cmd
	for range processes {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{writer + "=" + path}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		running = append(running, cmd)
	}
	for _, cmd := range running {
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	events, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	spans := map[int]int{}
	for _, e := range events {
		if e.Type == complete {
			spans[e.Pid]++
		}
	}
	if len(spans) != processes {
		t.Errorf("%d processes, expected %d", len(spans), processes)
	}
	for pid, n := range spans {
		if n != spansEach {
			t.Errorf("%d spans of process %d, expected %d", n, pid, spansEach)
		}
	}
	// What a viewer that wants the end of the array reads.
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []map[string]any
	if err := json.Unmarshal([]byte(strings.TrimSuffix(string(b), ",\n")+"]"), &all); err != nil {
		t.Error(err)
	}
}

// Whoever is not traced pays next to nothing.
func TestOff(t *testing.T) {
	ctx := context.Background()
	n := testing.AllocsPerRun(100, func() {
		Begin(ctx, Phase, "x").End()
		From(Lane(With(ctx, nil), "y")).Add(1, 1, Phase, "z", 0, 1)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
	if path := From(ctx).Path(); path != "" {
		t.Errorf("path %q", path)
	}
}

// Nothing is written into a file that is no trace.
func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	other, fifo := filepath.Join(dir, "other"), filepath.Join(dir, "fifo")
	if err := os.WriteFile(other, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		other:                     "something else than a trace",
		fifo:                      "not a regular file",
		dir:                       "is a directory",
		filepath.Join(dir, "x/y"): "no such file",
	} {
		if _, err := Open(path, "p", ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, expected %q", path, err, want)
		}
	}
	if b, _ := os.ReadFile(other); string(b) != "precious" {
		t.Errorf("the file is now %q", b)
	}
}

func TestRead(t *testing.T) {
	line := `{"name":"n","cat":"phase","ph":"X","ts":1,"dur":2,"pid":3,"tid":1}`
	for name, c := range map[string]struct {
		text   string
		events int
		err    string
	}{
		"empty":        {opening, 0, ""},
		"one":          {opening + line + ",\n", 1, ""},
		"closed":       {opening + line + "\n]\n", 1, ""},
		"cut off":      {opening + line + ",\n" + line[:20], 1, ""},
		"other":        {"{}", 0, "not a trace"},
		"broken":       {opening + "{\n" + line + ",\n", 0, "line 2"},
		"nothing":      {"", 0, "not a trace"},
		"out of order": {opening + strings.Replace(line, `"ts":1`, `"ts":9`, 1) + ",\n" + line + ",\n", 2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "trace")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			events, err := Read(path)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil || len(events) != c.events {
				t.Errorf("%d events, %v", len(events), err)
			}
			for i := 1; i < len(events); i++ {
				if events[i].Time < events[i-1].Time {
					t.Error("not in order")
				}
			}
		})
	}
}

// The summary of a known trace, with a name that a guest has made up.
func TestSummary(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trace")
	tr, err := Open(path, "vc-runtime create", "c1")
	if err != nil {
		t.Fatal(err)
	}
	const ms = 1_000_000
	me := tr.pid
	tr.NameProcess(7, "monitor of c1")
	tr.NameProcess(8, GuestName("c1"))
	tr.Add(me, 1, Phase, "plan", 11*ms, 12*ms)
	tr.Add(me, 1, Spawn, "monitor", 12*ms, 13*ms)
	tr.Add(7, 2, Call, "qmp device_add", 20*ms, 25*ms)
	tr.Add(7, 2, Call, "agent CreateContainer", 25*ms, 90*ms)
	tr.Add(8, 3, Spawn, "crun\x1b[2J", 30*ms, 80*ms)
	tr.Add(me, 1, Command, "create", 10*ms, 100*ms)
	tr.Add(7, 2, Phase, "late", 110*ms, 111*ms)
	tr.Add(me, 1, Command, "start", 200*ms, 201*ms)
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	events, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := Summary(&b, events); err != nil {
		t.Fatal(err)
	}
	want := `create c1: 90.0 ms; processes started: 1, in the guest 1; requests: 2 (agent 1, qmp 1)

       at      took  in                       what
      0.0      90.0  vc-runtime create        create
      1.0       1.0  vc-runtime create          plan
      2.0       1.0  vc-runtime create          monitor
     10.0       5.0  monitor of c1            qmp device_add
     15.0      65.0  monitor of c1            agent CreateContainer
     20.0      50.0  guest of c1              crun[2J
     90.0            -- the command has returned
    100.0       1.0  monitor of c1            late

start c1: 1.0 ms; processes started: 0, in the guest 0; requests: 0

       at      took  in                       what
      0.0       1.0  vc-runtime create        start
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nexpected\n%s", got, want)
	}
}

// A lane is a row of its own, and a process is named.
func TestLanes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trace")
	tr, err := Open(path, "p", "")
	if err != nil {
		t.Fatal(err)
	}
	ctx := With(context.Background(), tr)
	outer := Begin(ctx, Phase, "outer")
	Begin(Lane(ctx, "aside"), Phase, "inner").End()
	outer.End()
	tr.Close()
	Begin(ctx, Phase, "too late").End()
	events, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	lanes := map[string]int{}
	names := map[string]bool{}
	for _, e := range events {
		if e.Type == complete {
			lanes[e.Name] = e.Lane
		}
		names[e.Args[argName]] = true
		if want := strconv.Itoa(e.Pid); want != strconv.Itoa(os.Getpid()) {
			t.Errorf("pid %s", want)
		}
	}
	if len(lanes) != 2 || lanes["outer"] == lanes["inner"] {
		t.Errorf("lanes %v", lanes)
	}
	if !names["p"] || !names["aside"] {
		t.Errorf("names %v", names)
	}
}
