package integration

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// noise is data that no compression and no mistake makes by chance.
func noise(seed uint64, size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(b)
	return b
}

const streamSize = 10 << 20

// TestBulk sends 10 MB each way through an exec, as often as VC_STREAMS
// says. Nothing is lost, and the sizes of shim and monitor do not follow.
func TestBulk(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	c := e.Started(nil)
	pids := e.SandboxPids(c.ID)
	rounds := testenv.Number(t, "VC_STREAMS", 3)
	before := map[string]int{}
	watched := map[string]int{"monitor": pids.Monitor, "shim": c.Pid}
	for i := range rounds {
		data := noise(uint64(i), streamSize)
		res := e.Call(testenv.Command{Args: []string{"exec", c.ID, "cat"}, Stdin: bytes.NewReader(data)})
		if res.Code != 0 || sha256.Sum256([]byte(res.Stdout)) != sha256.Sum256(data) {
			t.Fatalf("round %d: exit code %d, %d bytes out of %d, stderr %q", i, res.Code, len(res.Stdout), len(data), res.Stderr)
		}
		for name, pid := range watched {
			kb := residentKB(t, pid)
			if i == 0 {
				before[name] = kb
			} else if i == rounds-1 {
				t.Logf("%s: %d kB after the first, %d kB after round %d", name, before[name], kb, rounds)
				if kb > before[name]+(16<<10) {
					t.Errorf("the %s has grown from %d to %d kB", name, before[name], kb)
				}
			}
		}
	}
	c.DeleteForced()
}

// residentKB reads VmRSS (proc(5), status).
func residentKB(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.Atoi(strings.Fields(rest)[0])
			return n
		}
	}
	t.Fatalf("process %d has no VmRSS", pid)
	return 0
}

// TestContainerStreams sends a container's own stdin through it: the shim
// carries every byte and stays small.
func TestContainerStreams(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	rounds := testenv.Number(t, "VC_STREAMS", 3)
	sum := sha256.New()
	var parts []io.Reader
	for i := range rounds {
		parts = append(parts, io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)}), streamSize), sum))
	}
	// The container hashes: the output would have to be kept here.
	c := e.Started(io.MultiReader(parts...), testenv.Shell("sha256sum; touch /read; head -c 1 >/dev/null; sleep 1000"))
	largest := 0
	testenv.Eventually(t, time.Duration(rounds)*time.Minute, func() error {
		largest = max(largest, residentKB(t, c.Pid))
		_, err := os.Stat(c.Bundle.Rootfs + "/read")
		return err
	})
	t.Logf("shim: at most %d kB while %d MB went in", largest, rounds*streamSize>>20)
	if largest > 64<<10 {
		t.Errorf("the shim has had %d kB", largest)
	}
	e.OK("kill", c.ID, "KILL")
	c.Wait(exitLimit)
	if want := fmt.Sprintf("%x  -\n", sum.Sum(nil)); c.Stdout() != want {
		t.Errorf("got %q, sent %q", c.Stdout(), want)
	}
	c.Delete()
}

// TestHalfClose: the end of one stream is not the end of the others.
func TestHalfClose(t *testing.T) {
	e := suite.New(t)
	t.Run("stdin", func(t *testing.T) {
		c := e.With(t).Started(strings.NewReader("in"), testenv.Shell("cat; echo ' is read'; sleep 1; echo more; echo err >&2; exit 4"))
		c.Equal("exit code", c.Wait(exitLimit), 4)
		c.Equal("output", c.Stdout(), "in is read\nmore\n")
		c.Equal("errors", c.Stderr(), "err\n")
		c.Delete()
	})
	t.Run("stdout", func(t *testing.T) {
		r, w := io.Pipe()
		c := e.With(t).Started(r, testenv.Shell("echo out; exec >&-; read line; echo got $line >&2; exit 5"))
		if err := c.EndOfStdout(exitLimit); err != nil {
			t.Errorf("the process has closed its stdout: %v", err)
		}
		c.IsStatus(c.ID, "running")
		io.WriteString(w, "late\n")
		w.Close()
		c.Equal("exit code", c.Wait(exitLimit), 5)
		c.Equal("output", c.Stdout(), "out\n")
		c.Equal("errors", c.Stderr(), "got late\n")
		c.Delete()
	})
	t.Run("stdin unread", func(t *testing.T) {
		c := e.With(t).Started(bytes.NewReader(noise(1, streamSize)), testenv.Shell("exec <&-; echo closed; exit 6"))
		c.Equal("exit code", c.Wait(exitLimit), 6)
		c.Equal("output", c.Stdout(), "closed\n")
		c.Delete()
	})
}

// TestSlowReader: whoever reads slowly gets everything, and in the meantime
// the process waits, and neither the memory nor the CPU of somebody in between is
// taken.
func TestSlowReader(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	c := e.Started(nil)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	pid, end := e.Piped(w, "exec", c.ID, "sh", "-c", "seq 1 1000000; echo written >&2; touch /written; exit 3")
	w.Close()
	sum := sha256.New()
	buf := make([]byte, 64<<10)
	for i := range 20 {
		n, err := io.ReadFull(r, buf)
		sum.Write(buf[:n])
		if err != nil {
			t.Fatal(err)
		}
		if i == 10 {
			time.Sleep(2 * time.Second) // this is what slow means
			testenv.Eventually(t, time.Minute, func() error { return asleep(pid) })
			if _, err := os.Stat(c.Bundle.Rootfs + "/written"); err == nil {
				t.Error("6.9 MB are written although 0.7 are read: somebody keeps them")
			}
		}
	}
	if _, err := io.Copy(sum, r); err != nil {
		t.Fatal(err)
	}
	e.Equal("exit code", end(), 3)
	want := sha256.New()
	for i := 1; i <= 1_000_000; i++ {
		fmt.Fprintln(want, i)
	}
	e.Equal("output", fmt.Sprintf("%x", sum.Sum(nil)), fmt.Sprintf("%x", want.Sum(nil)))
	c.DeleteForced()
}

// asleep gives an error where a thread of the process runs, or wants to.
func asleep(pid int) error {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(stats) == 0 {
		return fmt.Errorf("process %d has no threads: %v", pid, err)
	}
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		if _, fields, _ := strings.Cut(string(b), ") "); strings.HasPrefix(fields, "R") { // proc(5)
			return fmt.Errorf("while nobody reads its output, process %d is busy: %s", pid, b)
		}
	}
	return nil
}

// TestReaderGoesAway: the process sees a broken pipe, as it would with runc.
func TestReaderGoesAway(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	c := e.Started(nil)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_, end := e.Piped(w, "exec", c.ID, "sh", "-c", "trap 'echo pipe >/seen' EXIT; while :; do seq 1 1000; [ $? = 141 ] && exit 141; done")
	w.Close()
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	r.Close()
	e.Equal("exit code of a process whose reader has gone", end(), 141)
	c.WaitFor("seen")
	c.DeleteForced()
}

// TestNoLostTail: what a process writes last is there, however soon it ends.
func TestNoLostTail(t *testing.T) {
	e := suite.New(t)
	c := e.Started(nil)
	for i := range testenv.Number(t, "VC_TAILS", 10) {
		res := e.OK("exec", c.ID, "sh", "-c", "head -c 65536 /dev/zero; printf last; printf last >&2")
		if len(res.Stdout) != 65540 || !strings.HasSuffix(res.Stdout, "last") || res.Stderr != "last" {
			t.Fatalf("round %d: %d bytes, stderr %q", i, len(res.Stdout), res.Stderr)
		}
	}
	c.DeleteForced()
}

// TestManyExecs runs 200 at once, half of them before the container is started,
// each with its own input, output and code.
func TestManyExecs(t *testing.T) {
	e := suite.New(t)
	c := e.Container(nil)
	many := func(status string, n int) {
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() {
				text := fmt.Sprintf("%s %d\n", status, i)
				res, err := e.Exec(testenv.Command{
					Path: e.Runtime, Env: []string{"XDG_RUNTIME_DIR="}, Stdin: strings.NewReader(text), Limit: 10 * time.Minute,
					Args: append(e.Globals(), "exec", "--env", fmt.Sprint("N=", i), c.ID, "sh", "-c", "cat; echo $N >&2; exit $((N % 256))"),
				})
				if err != nil {
					t.Errorf("%s %d: %v", status, i, err)
				} else if res.Code != i%256 || res.Stdout != text || res.Stderr != fmt.Sprintln(i) {
					t.Errorf("%s %d: %s", status, i, res)
				}
			})
		}
		all.Wait()
	}
	n := testenv.Number(t, "VC_EXECS", 30)
	many("created", n/2)
	c.Start()
	many("running", n-n/2)
	e.IsStatus(c.ID, "running")
	c.DeleteForced()
}
