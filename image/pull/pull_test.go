package pull_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/vc-runtime/vc-runtime/image/pull"
	"github.com/vc-runtime/vc-runtime/image/ref"
	"github.com/vc-runtime/vc-runtime/image/registry"
	"github.com/vc-runtime/vc-runtime/image/registrytest"
	"github.com/vc-runtime/vc-runtime/image/store"
)

// client is somebody who pulls.
type client struct {
	store    *store.Store
	registry registry.Options
	pull     pull.Options
}

func newClient(t testing.TB) *client {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "pull-*")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &client{
		store:    s,
		registry: registry.Options{AuthFile: dir + "/no-auth", Backoff: time.Millisecond},
		pull:     pull.Options{Platform: "linux/amd64", Unpack: pull.UnpackLayer, Downloads: 3},
	}
}

// do pulls, and drops the lease.
func (c *client) do(ctx context.Context, name string) (*store.Image, error) {
	r, err := ref.Parse(name)
	if err != nil {
		return nil, err
	}
	repo, err := registry.New(c.registry).Repository(r)
	if err != nil {
		return nil, err
	}
	defer repo.Close()
	img, lease, err := pull.Pull(ctx, c.store, pull.FromRegistry(repo, r), r.String(), c.pull)
	if err != nil {
		return nil, err
	}
	return img, lease.Close()
}

func (c *client) must(t testing.TB, name string) *store.Image {
	t.Helper()
	img, err := c.do(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// whole fails the test unless the store is clean and the image is all there.
func (c *client) whole(t testing.TB, img *store.Image, want *registrytest.Image) {
	t.Helper()
	problems, err := c.store.Fsck(t.Context(), store.FsckOptions{Content: true, Unpack: pull.Remake(c.store)})
	if err != nil || len(problems) > 0 {
		t.Errorf("fsck: %v, %v", problems, err)
	}
	if got, err := c.store.ReadBlob(img.Config.Digest, 1<<20); err != nil || !bytes.Equal(got, want.Config) {
		t.Errorf("configuration %q, %v", got, err)
	}
	if len(img.Layers) != len(want.Layers) {
		t.Fatalf("%d layers, want %d", len(img.Layers), len(want.Layers))
	}
	for i, l := range img.Layers {
		if l.DiffID != digest.FromBytes(want.Layers[i].Tar) || l.Digest != digest.FromBytes(want.Layers[i].Blob) {
			t.Errorf("layer %d: %+v", i, l)
		}
	}
	for i, l := range img.Stack() {
		path, err := c.store.LayerPath(l.ID)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Size()%4096 != 0 || info.Size() == 0 {
			t.Errorf("layer %d: %v, %v", i, info, err)
		}
	}
}

// sample is an image with a layer of each compression.
func sample(t testing.TB, changes ...registrytest.Change) *registrytest.Image {
	t.Helper()
	return registrytest.NewImage(t, []registrytest.Layer{
		registrytest.Files(t, "gzip", map[string]string{"etc/": "", "etc/os-release": "ID=test\n", "bin/": "", "bin/sh": registrytest.Noise(1, 200_000)}),
		registrytest.Files(t, "zstd", map[string]string{"usr/": "", "usr/lib": registrytest.Noise(2, 100_000)}),
		registrytest.Files(t, "", map[string]string{"a": "plain", "etc/.wh.os-release": ""}),
	}, changes...)
}

func TestPull(t *testing.T) {
	for name, change := range map[string]registrytest.Change{
		"OCI":    func(*ocispec.Image, *ocispec.Manifest) {},
		"docker": registrytest.Docker,
	} {
		t.Run(name, func(t *testing.T) {
			r, c := registrytest.New(t), newClient(t)
			want := sample(t, change)
			d := r.Add("some/image", "v1", want)
			var mu sync.Mutex
			phases := map[pull.Phase]int{}
			c.pull.Progress = func(e pull.Event) {
				mu.Lock()
				defer mu.Unlock()
				phases[e.Phase]++
			}
			img := c.must(t, r.Host()+"/some/image:v1")
			c.whole(t, img, want)
			if img.Name != r.Host()+"/some/image:v1" || img.Target.Digest != d.Digest || img.Manifest != img.Target ||
				img.Platform != "linux/amd64" || img.Manifest.MediaType != d.MediaType {
				t.Errorf("got %+v", img)
			}
			if phases[pull.Pulled] != 1 || phases[pull.Done] != 3 || phases[pull.Downloading] < 3 || phases[pull.Unpacking] != 3 {
				t.Errorf("phases %v", phases)
			}
			// Again: what is there is not asked for.
			r.Forget()
			c.must(t, r.Host()+"/some/image:v1")
			if got := r.Requests(); !slices.Equal(got, []string{"HEAD some/image/manifests/v1"}) {
				t.Errorf("a second pull has asked for %q", got)
			}
			// By digest, and under another name: nothing is fetched.
			r.Forget()
			byDigest := c.must(t, r.Host()+"/some/image@"+d.Digest.String())
			if got := r.Requests(); len(got) > 0 || byDigest.ID() != img.ID() {
				t.Errorf("a pull by digest has asked for %q", got)
			}
		})
	}
}

func TestPullOfAnIndex(t *testing.T) {
	for _, mediaType := range []string{ocispec.MediaTypeImageIndex, "application/vnd.docker.distribution.manifest.list.v2+json"} {
		r, c := registrytest.New(t), newClient(t)
		want := sample(t)
		amd, arm := r.Add("x", "amd", want), r.Add("x", "arm", sample(t, func(img *ocispec.Image, _ *ocispec.Manifest) {
			img.Architecture, img.Variant = "arm64", "v8"
		}))
		attestation := r.Add("x", "att", registrytest.NewImage(t, nil))
		amd.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
		arm.Platform = &ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
		attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
		index := r.AddIndex(t, "x", "latest", mediaType, attestation, arm, amd)
		img := c.must(t, r.Host()+"/x")
		c.whole(t, img, want)
		if img.Target.Digest != index || img.Target.MediaType != mediaType || img.Manifest.Digest != amd.Digest {
			t.Errorf("got %+v", img)
		}
		c.pull.Platform = "linux/arm64" // the variant goes without saying
		if img := c.must(t, r.Host()+"/x"); img.Manifest.Digest != arm.Digest || img.Platform != "linux/arm64/v8" {
			t.Errorf("got %+v", img)
		}
		c.pull.Platform = "linux/s390x"
		if _, err := c.do(t.Context(), r.Host()+"/x"); !errors.Is(err, registry.ErrNotFound) || !strings.Contains(err.Error(), "it has linux/amd64, linux/arm64/v8") {
			t.Errorf("a platform that is not there: %v", err)
		}
		if _, err := c.do(t.Context(), r.Host()+"/x:amd"); err == nil {
			t.Error("an image for another platform was taken")
		}
	}
}

// Eight pullers, as of eight processes: each blob is asked for once.
func TestEightPullersShareTheWork(t *testing.T) {
	r, c := registrytest.New(t), newClient(t)
	want := sample(t)
	r.Add("x", "latest", want)
	var made sync.Map
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s, err := store.Open(c.store.Root(), store.Options{})
			if err != nil {
				t.Error(err)
				return
			}
			other := *c
			other.store = s
			other.pull.Unpack = func(ctx context.Context, job pull.Job, dst *os.File) (store.Made, error) {
				if _, twice := made.LoadOrStore(job.Blobs[0].Name(), true); twice {
					t.Errorf("%s was unpacked twice", job.Blobs[0].Name())
				}
				return pull.UnpackLayer(ctx, job, dst)
			}
			img, err := other.do(t.Context(), r.Host()+"/x")
			if err != nil {
				t.Error(err)
				return
			}
			other.whole(t, img, want)
		})
	}
	wg.Wait()
	gets := r.Gets()
	if len(gets) != 4 {
		t.Errorf("blobs asked for: %v", gets)
	}
	for d, n := range gets {
		if n != 1 {
			t.Errorf("%s was asked for %d times", d, n)
		}
	}
	manifests := 0
	for _, request := range r.Requests() {
		if strings.HasPrefix(request, "GET x/manifests/") {
			manifests++
		}
	}
	if manifests != 1 {
		t.Errorf("%d requests for the manifest", manifests)
	}
}

// What an image says of itself must fit together, and within limits.
func TestHostileImages(t *testing.T) {
	huge := strings.Repeat(" ", 5<<20)
	for name, c := range map[string]struct {
		change registrytest.Change
		text   func(*registrytest.Image) []byte // the manifest instead
		want   string
	}{
		"fewer diff ids": {change: func(i *ocispec.Image, _ *ocispec.Manifest) { i.RootFS.DiffIDs = i.RootFS.DiffIDs[:2] }, want: "2 diff ids for 3 layers"},
		"fewer layers":   {change: func(_ *ocispec.Image, m *ocispec.Manifest) { m.Layers = m.Layers[:2] }, want: "3 diff ids for 2 layers"},
		"wrong diff id": {change: func(i *ocispec.Image, _ *ocispec.Manifest) { i.RootFS.DiffIDs[1] = i.RootFS.DiffIDs[0] },
			want: store.ErrDigest.Error()},
		"diff id that is a path": {change: func(i *ocispec.Image, _ *ocispec.Manifest) { i.RootFS.DiffIDs[1] = "sha256:../../../../x" }, want: `diff id "sha256:../../../../x"`},
		"digest that is a path":  {change: func(_ *ocispec.Image, m *ocispec.Manifest) { m.Layers[0].Digest = "sha256:../../../../x" }, want: `digest "sha256:../../../../x"`},
		"negative size":          {change: func(_ *ocispec.Image, m *ocispec.Manifest) { m.Layers[0].Size = -1 }, want: "-1 bytes"},
		"layer is larger":        {change: func(_ *ocispec.Image, m *ocispec.Manifest) { m.Layers[0].Size-- }, want: store.ErrDigest.Error()},
		"layer is smaller":       {change: func(_ *ocispec.Image, m *ocispec.Manifest) { m.Layers[0].Size += 10 }, want: "bytes instead of"},
		"not a layer":            {change: func(_ *ocispec.Image, m *ocispec.Manifest) { m.Layers[0].MediaType = "text/html" }, want: `media type "text/html"`},
		"600 layers": {change: func(_ *ocispec.Image, m *ocispec.Manifest) {
			for len(m.Layers) < 600 {
				m.Layers = append(m.Layers, m.Layers[0])
			}
		}, want: "600 layers: expected at most 512"},
		"another platform":   {change: func(i *ocispec.Image, _ *ocispec.Manifest) { i.Architecture = "s390x" }, want: "is for platform linux/s390x, not for linux/amd64"},
		"manifest too large": {text: func(i *registrytest.Image) []byte { return append(i.Manifest, huge...) }, want: registry.ErrTooLarge.Error()},
		"not JSON":           {text: func(*registrytest.Image) []byte { return []byte("<html>") }, want: pull.ErrInvalid.Error()},
		"manifest and index": {text: func(i *registrytest.Image) []byte {
			return bytes.Replace(i.Manifest, []byte(`"layers"`), []byte(`"manifests":[],"layers"`), 1)
		}, want: "a manifest and an index at once"},
		"neither":       {text: func(*registrytest.Image) []byte { return []byte(`{"schemaVersion":2}`) }, want: "neither a manifest nor an index"},
		"first version": {text: func(*registrytest.Image) []byte { return []byte(`{"schemaVersion":1,"fsLayers":[]}`) }, want: "docker's first version"},
		"config too large": {text: func(i *registrytest.Image) []byte {
			var m ocispec.Manifest
			if err := json.Unmarshal(i.Manifest, &m); err != nil {
				panic(err)
			}
			m.Config.Size = 1 << 40
			text, err := json.Marshal(m)
			if err != nil {
				panic(err)
			}
			return text
		}, want: registry.ErrTooLarge.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			r, client := registrytest.New(t), newClient(t)
			var changes []registrytest.Change
			if c.change != nil {
				changes = append(changes, c.change)
			}
			img := sample(t, changes...)
			if c.text != nil {
				r.Add("x", "latest", img)
				r.Tag("x", "latest", r.Put(ocispec.MediaTypeImageManifest, c.text(img)))
			} else {
				r.Add("x", "latest", img)
			}
			_, err := client.do(t.Context(), r.Host()+"/x")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			// Nothing stays of it.
			if _, err := client.store.GC(t.Context(), store.GCOptions{}); err != nil {
				t.Error(err)
			}
			for _, dir := range []string{"blobs/sha256", "layers", "images", "leases", "tmp", "partial", "trash", "locks"} {
				if entries, err := os.ReadDir(client.store.Root() + "/" + dir); err != nil || len(entries) > 0 {
					t.Errorf("left in %s: %v, %v", dir, entries, err)
				}
			}
		})
	}
}

// The lease of a pull keeps the image when all names are taken from it.
func TestLeaseOfAPull(t *testing.T) {
	r, c := registrytest.New(t), newClient(t)
	r.Add("x", "latest", sample(t))
	name, err := ref.Parse(r.Host() + "/x")
	if err != nil {
		t.Fatal(err)
	}
	repo, err := registry.New(c.registry).Repository(name)
	if err != nil {
		t.Fatal(err)
	}
	img, lease, err := pull.Pull(t.Context(), c.store, pull.FromRegistry(repo, name), name.String(), c.pull)
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Close()
	if err := c.store.RemoveImage(t.Context(), img.Name); err != nil {
		t.Fatal(err)
	}
	if report, err := c.store.GC(t.Context(), store.GCOptions{}); err != nil || !report.Empty() {
		t.Errorf("%+v, %v", report, err)
	}
	if err := lease.Pin(t.Context(), "c", img); err != nil {
		t.Error(err)
	}
}
