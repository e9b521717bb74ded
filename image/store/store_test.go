package store

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// folder is one in memory where that is possible: what is synced here is not
// meant to outlast a loss of power.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "image-store-*")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// newStore makes a store that lives as long as the test.
func newStore(t *testing.T, opts Options) *Store {
	t.Helper()
	s, err := Open(folder(t), opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// again opens a store as another process does.
func again(t *testing.T, s *Store, hook func(string) error) *Store {
	t.Helper()
	other, err := Open(s.root, Options{Sync: s.opts.Sync, Hook: hook})
	if err != nil {
		t.Fatal(err)
	}
	return other
}

func newLease(t *testing.T, s *Store) *Lease {
	t.Helper()
	l, err := s.NewLease(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// sample is an image with two layers, the same for the same name.
type sample struct {
	img    *Image
	blobs  map[digest.Digest][]byte
	layers map[digest.Digest][]byte // by chain id
}

func newSample(name string, layers ...string) *sample {
	s := &sample{img: &Image{Name: name, Platform: "linux/amd64"}, blobs: map[digest.Digest][]byte{}, layers: map[digest.Digest][]byte{}}
	blob := func(text string) Descriptor {
		d := digest.FromString(text)
		s.blobs[d] = []byte(text)
		return Descriptor{MediaType: "text/plain", Digest: d, Size: int64(len(text))}
	}
	chain := ""
	for _, text := range layers {
		l := Layer{Descriptor: blob("compressed " + text), DiffID: digest.FromString(text)}
		chain = strings.TrimSpace(chain + " " + l.DiffID.String())
		l.ChainID = digest.FromString(chain)
		s.layers[l.ChainID] = bytes.Repeat([]byte(text), 100)
		s.img.Layers = append(s.img.Layers, l)
	}
	s.img.Config = blob("config of " + name)
	s.img.Manifest = blob("manifest of " + name)
	s.img.Target = s.img.Manifest
	return s
}

// addLayer adds one layer, and the blob that it is made of.
func (s *sample) addLayer(ctx context.Context, l *Lease, layer LayerSpec) error {
	if err := s.addBlob(ctx, l, layer.Blobs[0]); err != nil {
		return err
	}
	return l.EnsureLayer(ctx, layer, func(_ context.Context, f *os.File) (Made, error) {
		_, err := f.Write(s.layers[layer.ID])
		return Made{DiffIDs: layer.DiffIDs, Inodes: 1}, err
	})
}

func (s *sample) addBlob(ctx context.Context, l *Lease, d Descriptor) error {
	return l.EnsureBlob(ctx, d.Digest, d.Size, func(_ context.Context, p *Partial) error {
		_, err := p.Write(s.blobs[d.Digest][p.Offset():])
		return err
	})
}

// add is a pull of the sample.
func (s *sample) add(ctx context.Context, st *Store) (*Lease, error) {
	l, err := st.NewLease(ctx)
	if err != nil {
		return nil, err
	}
	return l, s.addWith(ctx, l)
}

func (s *sample) addWith(ctx context.Context, l *Lease) error {
	for _, layer := range s.img.Stack() {
		if err := s.addLayer(ctx, l, layer); err != nil {
			return err
		}
	}
	for _, d := range []Descriptor{s.img.Manifest, s.img.Config} {
		if err := s.addBlob(ctx, l, d); err != nil {
			return err
		}
	}
	return l.PutImage(ctx, s.img)
}

func (s *sample) mustAdd(t *testing.T, st *Store) *Lease {
	t.Helper()
	l, err := s.add(t.Context(), st)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// intact fails the test unless the image is there, with its content.
func (s *sample) intact(t *testing.T, st *Store) {
	t.Helper()
	if _, err := st.Image(s.img.Name); err != nil {
		t.Errorf("image: %v", err)
	}
	s.content(t, st)
}

// content fails the test unless all content of the image is there.
func (s *sample) content(t *testing.T, st *Store) {
	t.Helper()
	for d, text := range s.blobs {
		if got, err := st.ReadBlob(d, 1<<20); err != nil || !bytes.Equal(got, text) {
			t.Errorf("blob %s: %q, %v", d, got, err)
		}
	}
	for chain, text := range s.layers {
		path, err := st.LayerPath(chain)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, text) {
			t.Errorf("layer %s: %d bytes, %v", chain, len(got), err)
		}
	}
}

func mustGC(t *testing.T, s *Store) Report {
	t.Helper()
	r, err := s.GC(t.Context(), GCOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// clean fails the test where fsck finds something.
func clean(t *testing.T, s *Store) {
	t.Helper()
	problems, err := s.Fsck(t.Context(), FsckOptions{Content: true})
	if err != nil {
		t.Error(err)
	}
	for _, p := range problems {
		t.Errorf("fsck: %s", p)
	}
}

// left lists what is in the store's folders that come and go.
func left(t *testing.T, s *Store) (names []string) {
	t.Helper()
	for _, dir := range []string{leasesDir, tmpDir, partialDir, trashDir, locksDir} {
		entries, err := os.ReadDir(s.path(dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, dir+"/"+e.Name())
		}
	}
	return names
}

func TestImageLivesUntilItsNameGoes(t *testing.T) {
	s := newStore(t, Options{})
	one, two := newSample("one", "base", "top"), newSample("two", "base", "other")
	one.mustAdd(t, s).Close()
	two.mustAdd(t, s).Close()
	if r := mustGC(t, s); !r.Empty() {
		t.Errorf("a collection has taken %+v", r)
	}
	one.intact(t, s)
	two.intact(t, s)
	if err := s.RemoveImage(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	// Its own layer with its blob, manifest and configuration; not the base.
	if r := mustGC(t, s); r.Blobs != 3 || r.Layers != 1 || r.Bytes == 0 {
		t.Errorf("a collection has taken %+v", r)
	}
	two.intact(t, s)
	clean(t, s)
	if err := s.RemoveImage(t.Context(), "one"); !errors.Is(err, ErrNotExist) {
		t.Errorf("removing it again: %v", err)
	}
	if err := s.RemoveImage(t.Context(), "two"); err != nil {
		t.Fatal(err)
	}
	mustGC(t, s)
	if r := mustGC(t, s); !r.Empty() {
		t.Errorf("a second collection has taken %+v", r)
	}
	if names := left(t, s); len(names) > 0 {
		t.Errorf("left: %v", names)
	}
	for _, dir := range []string{blobsDir + "/sha256", layersDir, imagesDir} {
		if entries, err := os.ReadDir(s.path(dir)); err != nil || len(entries) > 0 {
			t.Errorf("%s: %v, %v", dir, entries, err)
		}
	}
}

func TestPinKeepsWithoutName(t *testing.T) {
	s := newStore(t, Options{})
	one := newSample("one", "base")
	l := one.mustAdd(t, s)
	if err := l.Pin(t.Context(), "c1", one.img); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := s.RemoveImage(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	if r := mustGC(t, s); !r.Empty() {
		t.Errorf("a collection has taken %+v", r)
	}
	one.content(t, s)
	p, err := s.Pinned("c1")
	if err != nil || p.Image.ID() != one.img.ID() {
		t.Errorf("pin: %+v, %v", p, err)
	}
	gone := func(id string) (bool, error) { return id != "c1", nil }
	if r, err := s.GC(t.Context(), GCOptions{Known: gone}); err != nil || !r.Empty() {
		t.Errorf("its maker lives: %+v, %v", r, err)
	}
	if err := s.Unpin(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Unpin(t.Context(), "c1"); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if r := mustGC(t, s); r.Blobs != 3 || r.Layers != 1 {
		t.Errorf("a collection has taken %+v", r)
	}
	if err := l.Pin(t.Context(), "c2", one.img); err == nil {
		t.Error("an ended lease has pinned")
	}
	if err := newLease(t, s).Pin(t.Context(), "c2", one.img); !errors.Is(err, ErrNotPinned) {
		t.Errorf("a lease that does not name the image: %v", err)
	}
}

func TestPinOfAnotherTime(t *testing.T) {
	for name, change := range map[string]func(*Pin){
		"another boot":     func(p *Pin) { p.Boot = "another" },
		"no container":     func(p *Pin) { p.Maker.StartTime++ },
		"container exists": func(p *Pin) { p.Maker.StartTime++; p.Container = "there" },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, Options{})
			one := newSample("one", "base")
			l := one.mustAdd(t, s)
			if err := l.Pin(t.Context(), "c1", one.img); err != nil {
				t.Fatal(err)
			}
			p, err := s.Pinned("c1")
			if err != nil {
				t.Fatal(err)
			}
			change(p)
			if err := s.Unpin(t.Context(), "c1"); err != nil {
				t.Fatal(err)
			}
			if err := s.replace("pin", s.path(containersDir), p.Container+pinSuffix, p); err != nil {
				t.Fatal(err)
			}
			l.Close()
			r, err := s.GC(t.Context(), GCOptions{Known: func(id string) (bool, error) { return id == "there", nil }})
			if want := p.Container != "there"; err != nil || (r.Pins == 1) != want {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}

func TestLease(t *testing.T) {
	s := newStore(t, Options{})
	one := newSample("one", "base", "top")
	l := newLease(t, s)
	if err := one.addLayer(t.Context(), l, one.img.Stack()[0]); err != nil {
		t.Fatal(err)
	}
	if r := mustGC(t, s); !r.Empty() {
		t.Errorf("what a lease names was taken: %+v", r)
	}
	if err := l.PutImage(t.Context(), one.img); !errors.Is(err, ErrNotPinned) {
		t.Errorf("an image that is not all named: %v", err)
	}
	for _, d := range []digest.Digest{one.img.Manifest.Digest, one.img.Config.Digest, one.img.Layers[1].Digest} {
		if there, err := l.HasBlob(t.Context(), d); there || err != nil {
			t.Errorf("%v, %v", there, err)
		}
	}
	if there, err := l.HasLayer(t.Context(), one.img.Layers[1].ChainID); there || err != nil {
		t.Errorf("%v, %v", there, err)
	}
	if err := l.PutImage(t.Context(), one.img); err == nil || !strings.Contains(err.Error(), "is missing") {
		t.Errorf("an image that is not all there: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if _, err := l.HasBlob(t.Context(), one.img.Config.Digest); err == nil {
		t.Error("an ended lease names things")
	}
	if r := mustGC(t, s); r.Blobs != 1 || r.Layers != 1 {
		t.Errorf("a collection has taken %+v", r)
	}
}

func TestBlobThatIsNotWhatItShouldBe(t *testing.T) {
	s := newStore(t, Options{})
	l := newLease(t, s)
	d := digest.FromString("right")
	write := func(text string) func(context.Context, *Partial) error {
		return func(_ context.Context, p *Partial) error {
			_, err := p.Write([]byte(text))
			return err
		}
	}
	for text, want := range map[string]string{
		"wrong":       ErrDigest.Error(),
		"righ":        "4 bytes instead of 5",
		"right along": "longer than the expected 5 bytes",
	} {
		if err := l.EnsureBlob(t.Context(), d, 5, write(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
		if there, err := l.HasBlob(t.Context(), d); there || err != nil {
			t.Fatalf("%q was taken: %v", text, err)
		}
		if err := os.RemoveAll(s.path(partialDir, d.Encoded())); err != nil {
			t.Fatal(err)
		}
	}
	// What an earlier process has left is carried on, and dropped if it is bad.
	for _, begun := range []string{"ri", "xx", "much too long"} {
		other := newStore(t, Options{})
		l := newLease(t, other)
		if err := os.WriteFile(other.path(partialDir, d.Encoded()), []byte(begun), 0o600); err != nil {
			t.Fatal(err)
		}
		var offsets []int64
		err := l.EnsureBlob(t.Context(), d, 5, func(_ context.Context, p *Partial) error {
			offsets = append(offsets, p.Offset())
			_, err := p.Write([]byte("right")[p.Offset():])
			return err
		})
		if err != nil {
			t.Errorf("after %q: %v", begun, err)
		}
		want := map[string][]int64{"ri": {2}, "xx": {2, 0}, "much too long": {0}}[begun]
		if len(offsets) != len(want) || offsets[0] != want[0] {
			t.Errorf("after %q: fetched from %v, want %v", begun, offsets, want)
		}
		clean(t, other)
	}
	for _, bad := range []digest.Digest{"", "sha256:../../../etc/passwd", "md5:0123", "sha512:" + digest.Digest(strings.Repeat("0", 128))} {
		if err := l.EnsureBlob(t.Context(), bad, 5, write("right")); err == nil {
			t.Errorf("digest %q was taken", bad)
		}
	}
}

func TestLayerWithAnotherDiffID(t *testing.T) {
	s := newStore(t, Options{})
	l := newLease(t, s)
	layer := newSample("one", "base").img.Stack()[0]
	err := l.EnsureLayer(t.Context(), layer, func(context.Context, *os.File) (Made, error) {
		return Made{DiffIDs: []digest.Digest{digest.FromString("other")}}, nil
	})
	if !errors.Is(err, ErrDigest) {
		t.Errorf("got %v", err)
	}
	if there, err := l.HasLayer(t.Context(), layer.ID); there || err != nil {
		t.Errorf("it was taken: %v", err)
	}
	if entries, err := os.ReadDir(l.TempDir()); err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestFind(t *testing.T) {
	s := newStore(t, Options{})
	one := newSample("one", "base")
	one.mustAdd(t, s)
	two := newSample("two", "base")
	two.mustAdd(t, s)
	for _, id := range []string{one.img.ID().String(), one.img.ID().Encoded()[:12], one.img.Manifest.Digest.Encoded()} {
		if found, err := s.ImagesByID(id); err != nil || len(found) != 1 || found[0].Name != "one" {
			t.Errorf("%s: %v, %v", id, found, err)
		}
	}
	for _, id := range []string{"", "abc", "../..", strings.Repeat("0", 64), "one"} {
		if found, err := s.ImagesByID(id); !errors.Is(err, ErrNotExist) {
			t.Errorf("%q: %v, %v", id, found, err)
		}
	}
}

func TestOpen(t *testing.T) {
	s := newStore(t, Options{})
	if err := os.WriteFile(s.path(formatFile), []byte(`{"version": 2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(s.root, Options{}); !errors.Is(err, ErrFutureFormat) {
		t.Errorf("a later version: %v", err)
	}
	if err := os.WriteFile(s.path(formatFile), []byte(`{"ver`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(s.root, Options{}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("half a file: %v", err)
	}
	if _, err := Open("", Options{}); err == nil {
		t.Error("no root")
	}
	if _, err := Open(t.TempDir(), Options{Sync: "some"}); err == nil {
		t.Error("an unknown sync policy")
	}
}

// What cannot be read might name anything.
func TestNothingIsTakenBesideADamagedRecord(t *testing.T) {
	for _, path := range []string{imagesDir + "/" + imageFile("one"), containersDir + "/c1.pin"} {
		s := newStore(t, Options{})
		one := newSample("one", "base")
		l := one.mustAdd(t, s)
		if err := l.Pin(t.Context(), "c1", one.img); err != nil {
			t.Fatal(err)
		}
		l.Close()
		if err := os.Truncate(s.path(path), 10); err != nil {
			t.Fatal(err)
		}
		if _, err := s.GC(t.Context(), GCOptions{}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", path, err)
		}
		one.content(t, s)
		problems, err := s.Fsck(t.Context(), FsckOptions{Repair: true})
		if err != nil || len(problems) != 1 || problems[0].Path != path || !problems[0].Repaired {
			t.Errorf("%s: fsck: %v, %v", path, problems, err)
		}
		clean(t, s)
		if _, err := s.GC(t.Context(), GCOptions{}); err != nil {
			t.Errorf("%s: after the repair: %v", path, err)
		}
	}
}

func TestFsckFindsDamage(t *testing.T) {
	one := newSample("one", "base")
	layer := one.img.Layers[0]
	blob, chain := blobsDir+"/sha256/"+layer.Digest.Encoded(), layersDir+"/"+layer.ChainID.Encoded()
	for name, c := range map[string]struct {
		damage func(t *testing.T, s *Store) error
		paths  []string // of the problems
	}{
		"blob changed": {func(_ *testing.T, s *Store) error {
			return overwrite(s.path(blob), "compressed BASE")
		}, []string{blob, imagesDir}},
		"blob missing":    {func(_ *testing.T, s *Store) error { return os.Remove(s.path(blob)) }, []string{imagesDir}},
		"blob truncated":  {func(_ *testing.T, s *Store) error { return os.Truncate(s.path(blob), 0) }, []string{blob, imagesDir}},
		"layer truncated": {func(_ *testing.T, s *Store) error { return os.Truncate(s.path(chain, layerFile), 3) }, []string{chain, imagesDir}},
		"layer without meta": {func(_ *testing.T, s *Store) error { return os.Remove(s.path(chain, layerMeta)) },
			[]string{chain, imagesDir}},
		"layer missing": {func(_ *testing.T, s *Store) error { return os.RemoveAll(s.path(chain)) }, []string{imagesDir}},
		"foreign file": {func(_ *testing.T, s *Store) error { return os.WriteFile(s.path(blobsDir, "sha256/x"), nil, 0o600) },
			[]string{blobsDir + "/sha256/x"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, Options{})
			one.mustAdd(t, s).Close()
			if err := c.damage(t, s); err != nil {
				t.Fatal(err)
			}
			problems, err := s.Fsck(t.Context(), FsckOptions{Content: true, Repair: true})
			if err != nil {
				t.Fatal(err)
			}
			if len(problems) != len(c.paths) {
				t.Errorf("found %v", problems)
			}
			for i, p := range problems {
				if !strings.HasPrefix(p.Path, c.paths[min(i, len(c.paths)-1)]) {
					t.Errorf("found %v, want %v", problems, c.paths)
				}
			}
			clean(t, s)
			mustGC(t, s)
			one.mustAdd(t, s)
			one.intact(t, s)
		})
	}
}

func overwrite(path, text string) error {
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o600)
}

func TestLockEndsWithContext(t *testing.T) {
	s := newStore(t, Options{})
	lock, err := s.lockKey(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.lockKey(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	lock.release()
	lock, err = s.lockKey(t.Context(), "x") // also where the first wait got it late
	if err != nil {
		t.Fatal(err)
	}
	lock.release()
}
