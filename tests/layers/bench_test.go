package layers

import (
	"archive/tar"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/image/layer"
	. "github.com/vc-runtime/vc-runtime/image/layer/layertest"
)

// unpackEnv makes the test program unpack a layer instead, so that a process
// of its own does it: "1", with the blob and the image as arguments.
const unpackEnv = "VC_TEST_UNPACK"

func TestMain(m *testing.M) {
	if os.Getenv(unpackEnv) != "" {
		err := unpackFile(os.Args[1], os.Args[2])
		if err == nil {
			err = printPeak()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// unpackFile unpacks a layer and waits until it is on the disk.
func unpackFile(blob, image string) error {
	src, err := os.Open(blob)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(image)
	if err != nil {
		return err
	}
	defer dst.Close()
	if _, err := layer.Unpack(context.Background(), layer.Blob{Reader: src, MediaType: Gzip}, dst, layer.Limits{}); err != nil {
		return err
	}
	return unix.Fdatasync(int(dst.Fd()))
}

// printPeak prints the most memory that this program has had, in kB. Its
// parent would be told of its own, where that is more.
func printPeak() error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	_, line, _ := strings.Cut(string(status), "VmHWM:")
	var peak int
	if _, err := fmt.Sscanf(line, "%d kB", &peak); err != nil {
		return fmt.Errorf("VmHWM: %w", err)
	}
	fmt.Println(peak)
	return nil
}

// smallFiles packs 50,000 files of up to 4 KiB.
func smallFiles(t testing.TB) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "layer.tar.gz")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	random := rand.New(rand.NewPCG(1, 2))
	pool := make([]byte, 1<<20)
	for i := range pool {
		pool[i] = "0123456789abcdef"[random.IntN(16)]
	}
	for n := range 50_000 {
		if n%500 == 0 {
			d := Dir(fmt.Sprintf("d%d/", n/500))
			if err := w.WriteHeader(&d.Header); err != nil {
				t.Fatal(err)
			}
		}
		at := random.IntN(len(pool) - 4096)
		data := pool[at : at+random.IntN(4096)]
		i := File(fmt.Sprintf("d%d/file%d", n/500, n), string(data))
		if err := w.WriteHeader(&i.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return name
}

// cost is what something took, in seconds and MB.
type cost struct{ wall, cpu, memory float64 }

// run runs a program, and then what makes it last.
func run(t testing.TB, cmd *exec.Cmd, after func() error) cost {
	t.Helper()
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	if err == nil {
		err = after()
	}
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	peak, _ := strconv.Atoi(strings.TrimSpace(string(out))) // only unpackFile says so
	cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return cost{time.Since(begin).Seconds(), cpu.Seconds(), float64(peak) / 1e3}
}

// BenchmarkUnpack unpacks layers to an image, and with tar to a folder, one
// after the other, up to when they are on the disk; and removes both. It prints a
// table: medians, with the least and the most.
//
//	hack/bench-unpack [RUNS]
func BenchmarkUnpack(b *testing.B) {
	needRoot(b)
	var table strings.Builder
	runs := 0
	for _, layer := range []struct {
		name string
		blob func(testing.TB) string
	}{
		{"Debian (minbase)", func(t testing.TB) string { return compressed(t, packed(t, debian(t))) }},
		{"50,000 files of up to 4 KiB", smallFiles},
	} {
		b.Run(layer.name, func(b *testing.B) {
			table.WriteString(benchmark(b, layer.name, layer.blob(b)))
			runs = b.N
		})
	}
	fmt.Printf("<!-- bench: unpack -->\n\nUnpacking a layer, medians of %d interleaved runs; image against tar in each run:\n\n"+
		"| layer | image: wall s | CPU s | peak memory MB | tar: wall s | CPU s | wall | CPU | removal: image s | folder s |\n|---|---|---|---|---|---|---|---|---|---|\n%s\n<!-- end -->\n\n",
		runs, table.String())
}

// compressed compresses a file.
func compressed(t testing.TB, name string) string {
	t.Helper()
	if out, err := exec.Command(tool(t, "gzip"), name).CombinedOutput(); err != nil {
		t.Fatalf("gzip: %v\n%s", err, out)
	}
	return name + ".gz"
}

// benchmark gives a row of the table.
func benchmark(b *testing.B, name, blob string) string {
	dir := b.TempDir()
	image, folder := filepath.Join(dir, "image"), filepath.Join(dir, "folder")
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	d, err := os.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	sync := func() error { return unix.Syncfs(int(d.Fd())) }
	nothing := func() error { return nil }
	var columns [9][]float64
	for b.Loop() {
		if err := sync(); err != nil {
			b.Fatal(err)
		}
		cmd := exec.Command(self, blob, image)
		cmd.Env = append(os.Environ(), unpackEnv+"=1")
		ours := run(b, cmd, nothing)
		if err := os.Mkdir(folder, 0o755); err != nil {
			b.Fatal(err)
		}
		tars := run(b, exec.Command(tool(b, "tar"), "--extract", "--gzip", "--xattrs", "--file", blob, "--directory", folder), sync)
		oursGone := run(b, exec.Command("rm", image), sync)
		tarsGone := run(b, exec.Command("rm", "-r", folder), sync)
		for i, x := range []float64{ours.wall, ours.cpu, ours.memory, tars.wall, tars.cpu, ours.wall / tars.wall, ours.cpu / tars.cpu, oursGone.wall, tarsGone.wall} {
			columns[i] = append(columns[i], x)
		}
	}
	row := "| " + name + " |"
	for _, x := range columns {
		slices.Sort(x)
		row += fmt.Sprintf(" %.2f (%.2f–%.2f) |", (x[(len(x)-1)/2]+x[len(x)/2])/2, x[0], x[len(x)-1])
	}
	return row + "\n"
}
