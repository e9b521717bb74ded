package images

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/image/registrytest"
	"github.com/vc-runtime/vc-runtime/image/store"
	"github.com/vc-runtime/vc-runtime/tests/testenv/outer"
)

// The disk of a machine whose writes are logged: a file system, and after it,
// where it does not reach, a block for each mark. A mark is on the disk once the
// command before it has returned.
const (
	fsSize   = 31 << 20
	markSize = 4096
)

// What the marks say.
const (
	pulled   = iota // the image must be there,
	unpacked        // and the bundle,
	removing        // from here on the image need not be there,
	removed         // and from here on it must not.
	marks           // how many there are
)

// insideScript is what happens inside; runLogged fills it in.
const insideScript = `#!/bin/sh
export PATH=/bin
exec >` + outer.SaidPort + ` 2>&1
mount -t proc proc /proc
%s
until [ -e /dev/vda ]; do sleep 0.1; done
mark() { echo "$1" | dd of=/dev/vda bs=%d seek=$((%d + $2)) conv=notrunc,fsync 2>/dev/null; echo "$1"; }
mount -t ext4 /dev/vda /disk &&
vc-runtime --config /config.toml image pull -q '%s' && mark pulled %d &&
vc-runtime --config /config.toml image unpack '%[4]s' /disk/bundle && mark unpacked %[6]d &&
mark removing %[7]d &&
vc-runtime --config /config.toml image rm '%[4]s' && mark removed %[8]d
umount /disk
poweroff -f
`

// TestEveryPrefixOfAGuestsWrites: the power goes after any write that a machine has
// made to its disk, not only after a step of ours. In an emulated machine
// vc-runtime pulls an image, unpacks it and removes it, and QEMU logs what comes to
// the disk. Then the disk is made again from the log, write by write. At each
// flush, and at some writes in between (with VC_IMAGES_ALL=1 at each write), what a
// host would find there is looked at: the store is whole, and what had returned by
// then has happened. At some of these (or each) the pull is tried again.
func TestEveryPrefixOfAGuestsWrites(t *testing.T) {
	m := outer.New(t)
	layout := filepath.Join(t.TempDir(), "layout")
	registrytest.WriteLayout(t, layout, sample(t))
	name := "oci:" + layout
	first, log := runLogged(m, layout, name)

	writes := readLog(t, log)
	d := &disk{t: t, file: filepath.Join(memory(t), "disk"), dir: t.TempDir()}
	content := first
	seen, flushes := [marks]int{}, 0
	dirty, looks := 0, 0 // writes since the last prefix that was looked at, and how many were
	for n, w := range writes {
		w.apply(content)
		if w.flags&logFlush != 0 {
			flushes++
		}
		if dirty++; w.flags&logFlush == 0 && dirty < every(between) && n+1 < len(writes) {
			continue
		}
		dirty = 0
		looks++
		p := prefix{disk: d, retry: looks%every(retries) == 0, store: d.dir + "/store", name: name}
		for i := range p.marks {
			if p.marks[i] = content[fsSize+i*markSize] != 0; p.marks[i] {
				seen[i]++
			}
		}
		if err := os.WriteFile(d.file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if p.check(); t.Failed() {
			t.Fatalf("after %d of %d writes, marks %v", n+1, len(writes), p.marks)
		}
	}
	t.Logf("%d writes, %d flushes; of %d prefixes, those with each mark: %v", len(writes), flushes, looks, seen)
	for i, n := range seen {
		if n == 0 || i > 0 && n > seen[i-1] {
			t.Errorf("prefixes with each mark: %v", seen)
		}
	}
	if flushes < 30 {
		t.Errorf("%d flushes of %d writes: what is logged is not what the store does", flushes, len(writes))
	}
}

// How many writes between two flushes are taken as one, and of how many prefixes
// one has the pull tried again.
const (
	between = 16
	retries = 4
)

// every is n, or 1 where all is to be tested.
func every(n int) int {
	if os.Getenv("VC_IMAGES_ALL") != "" {
		return 1
	}
	return n
}

// runLogged runs the machine. It gives the disk as it was before, and the path of
// the log.
func runLogged(m *outer.Machine, layout, name string) (before []byte, log string) {
	m.Helper()
	tree := filepath.Join(m.Dir, "tree")
	m.Folders(tree, "proc", "disk", "run", "tmp")
	m.Busybox(tree, "sh", "mount", "umount", "insmod", "sleep", "dd", "poweroff")
	m.Copy(m.Runtime(), filepath.Join(tree, "bin/vc-runtime"))
	m.Must(os.CopyFS(filepath.Join(tree, layout), os.DirFS(layout)))
	m.Write(filepath.Join(tree, "config.toml"), "[image]\nroot = \"/disk/store\"\n")
	load := m.Modules(tree, outer.DiskModules()...)
	m.Write(filepath.Join(tree, "inside"), fmt.Sprintf(insideScript, load, markSize, fsSize/markSize, name, pulled, unpacked, removing, removed))
	m.Write(filepath.Join(tree, "init"), "#!/bin/sh\n/bin/busybox mount -t devtmpfs dev /dev\nexec /inside\n")
	m.Folders(tree, "dev")

	file := filepath.Join(m.Dir, "disk")
	log = filepath.Join(m.Dir, "log")
	m.Must(os.WriteFile(file, make([]byte, fsSize+marks*markSize), 0o600))
	m.Must(os.WriteFile(log, nil, 0o600))
	m.Tool("", "mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", file, fmt.Sprintf("%dk", fsSize>>10))
	before, err := os.ReadFile(file)
	m.Must(err)
	lines := m.Boot(m, outer.Hardware{
		MemoryMiB: 512, Initrd: m.Pack(tree), Limit: 15 * time.Minute,
		Args: []string{
			"-blockdev", "driver=blklogwrites,node-name=logged,log-super-update-interval=1,file.driver=file,file.filename=" + file + ",log.driver=file,log.filename=" + log,
			"-device", "virtio-blk-pci,drive=logged",
		},
	}, nil)
	if text := strings.Join(lines, "\n"); !strings.HasSuffix(text, "removed") {
		m.Fatalf("inside was said:\n%s", text)
	}
	return before, log
}

// The log as QEMU's blklogwrites writes it, which is that of the kernel's
// dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst): a sector
// that describes it, then the writes, a sector about each before its data.
const (
	logMagic   = 0x6a736677736872
	logSector  = 512
	logFlush   = 1 << 0 // what was written before is on the disk
	logDiscard = 1 << 2 // without data
)

// written is one write.
type written struct {
	at    int64
	flags uint64
	data  []byte
	size  int64 // bytes; more than data of a discard
}

func readLog(t *testing.T, path string) []written {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var super struct {
		Magic, Version, Entries uint64
		SectorSize              uint32
	}
	if _, err := binary.Decode(text, binary.LittleEndian, &super); err != nil {
		t.Fatal(err)
	}
	if super.Magic != logMagic || super.Version != 1 || super.SectorSize != logSector {
		t.Fatalf("%s is no log: %+v", path, super)
	}
	var writes []written
	for rest := text[logSector:]; len(writes) < int(super.Entries); {
		var entry struct{ Sector, Sectors, Flags, DataLen uint64 }
		if _, err := binary.Decode(rest, binary.LittleEndian, &entry); err != nil {
			t.Fatalf("write %d of %d: %v", len(writes), super.Entries, err)
		}
		rest = rest[logSector:]
		w := written{at: int64(entry.Sector) * logSector, flags: entry.Flags, size: int64(entry.Sectors) * logSector}
		if w.flags&logDiscard == 0 {
			w.data, rest = rest[:w.size], rest[w.size:]
		}
		writes = append(writes, w)
	}
	return writes
}

// apply makes the write. What was discarded reads as zeroes.
func (w written) apply(disk []byte) {
	there := disk[w.at : w.at+w.size]
	clear(there[copy(there, w.data):])
}

// prefix is a disk as it was after some of the writes.
type prefix struct {
	*disk
	store, name string
	retry       bool
	marks       [marks]bool
}

// check starts a host with the disk.
func (p *prefix) check() {
	p.t.Helper()
	p.mount()
	defer p.umount()
	s, err := store.Open(p.store, store.Options{})
	if err != nil {
		p.t.Fatal(err)
	}
	_, err = s.Image(p.name)
	switch there := err == nil; {
	case err != nil && !errors.Is(err, store.ErrNotExist):
		p.t.Error(err)
	case p.marks[pulled] && !p.marks[removing] && !there:
		p.t.Error("the pull had returned, and the image is not there")
	case p.marks[removed] && there:
		p.t.Error("the removal had returned, and the image is there")
	}
	p.checkBundle(filepath.Join(p.dir, "bundle"))
	if undamaged(p.t, p.store, "after the cut"); p.retry {
		recovers(p.t, p.store, p.name)
	}
}

// checkBundle: it is whole where it has a configuration, and where the command
// had returned it has one.
func (p *prefix) checkBundle(dir string) {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if errors.Is(err, fs.ErrNotExist) && !p.marks[unpacked] {
		return
	}
	if err != nil || !json.Valid(text) {
		p.t.Errorf("config.json of the bundle is %q, %v", text, err)
	}
	for name, want := range map[string]string{"bin/sh": registrytest.Noise(1, 40_000), "bin/true": registrytest.Noise(2, 20_000)} {
		if got, err := os.ReadFile(filepath.Join(dir, "rootfs", name)); err != nil || !bytes.Equal(got, []byte(want)) {
			p.t.Errorf("%s of the bundle has %d bytes, %v", name, len(got), err)
		}
	}
}
