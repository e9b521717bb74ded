// Package pull brings images into the store: it resolves a reference, fetches
// what is missing, has layers unpacked, and records the image. The commands
// use it. Where an image comes from is a Source's affair.
package pull

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/vc-runtime/vc-runtime/image/registry"
	"github.com/vc-runtime/vc-runtime/image/store"
)

// Source is where an image comes from: a registry, a folder or an archive.
type Source interface {
	// Resolve gives the digest of the manifest or index that is meant. "" says
	// that only Manifest knows it.
	Resolve(ctx context.Context) (digest.Digest, error)
	// Manifest gives a manifest or index of at most limit bytes; with "" the
	// one that is meant. By digest it is checked.
	Manifest(ctx context.Context, d digest.Digest, limit int64) (*registry.Manifest, error)
	// Fetch writes a blob into the sink, from its offset on.
	Fetch(ctx context.Context, d digest.Digest, sink registry.Sink) error
}

// Unpack writes the file system image of a layer: UnpackLayer.
type Unpack func(ctx context.Context, job Job, dst *os.File) (store.Made, error)

// Options are the choices of a pull.
type Options struct {
	// Platform that is taken of several, such as linux/amd64.
	Platform string
	Unpack   Unpack
	// Downloads is how many layers are fetched at a time.
	Downloads int
	// MaxLayers is how many file system images an image may become: where it
	// has more layers, the lowest are merged. 0 is any number.
	MaxLayers int
	// Progress is told what happens, by several goroutines, and is not to
	// block. It may be nil.
	Progress func(Event)
}

// Limits of what a source may make us read into memory, and begin to fetch.
const (
	maxManifest = 4 << 20 // bytes; what the OCI specification wants to be possible
	maxConfig   = 8 << 20
	maxLayers   = 512
	maxNesting  = 3 // indexes in indexes
)

// ErrInvalid is given for an image that contradicts itself, or that is none.
var ErrInvalid = errors.New("not a valid image")

// Pull brings the image of a source into the store, under the name. What is
// there already is not fetched again; several pulls at once share the work,
// whichever processes they are of. The image is complete and recorded when Pull
// returns, and the lease names all of it: until the lease is closed, which is
// the caller's, nothing of it goes away, whoever removes the image.
func Pull(ctx context.Context, s *store.Store, src Source, name string, o Options) (_ *store.Image, _ *store.Lease, err error) {
	lease, err := s.NewLease(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lease.Close())
		}
	}()
	p := &puller{Options: o, src: src, lease: lease}
	if p.Progress == nil {
		p.Progress = func(Event) {}
	}
	img, err := p.image(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("pull %s: %w", name, err)
	}
	img.Name, img.Pulled = name, time.Now().UTC()
	if n := len(img.Layers); p.MaxLayers > 0 && n > p.MaxLayers {
		img.Merged = n - p.MaxLayers + 1
	}
	if err := p.layers(ctx, img); err != nil {
		return nil, nil, fmt.Errorf("pull %s: %w", name, err)
	}
	if err := lease.PutImage(ctx, img); err != nil {
		return nil, nil, err
	}
	p.Progress(Event{Phase: Pulled, Digest: img.ID()})
	return img, lease, nil
}

type puller struct {
	Options
	src   Source
	lease *store.Lease
}

// image fetches manifests and configuration.
func (p *puller) image(ctx context.Context) (*store.Image, error) {
	target, err := p.src.Resolve(ctx)
	if err != nil {
		return nil, err
	}
	var served *registry.Manifest
	if target == "" {
		if served, err = p.src.Manifest(ctx, "", maxManifest); err != nil {
			return nil, err
		}
		target = served.Digest
	}
	p.Progress(Event{Phase: Resolved, Digest: target})
	top, err := p.document(ctx, target, -1, served)
	if err != nil {
		return nil, err
	}
	img := &store.Image{Target: top.descriptor()}
	for range maxNesting {
		if !top.isIndex() {
			break
		}
		chosen, err := top.choose(p.Platform)
		if err != nil {
			return nil, err
		}
		if top, err = p.document(ctx, chosen.Digest, chosen.Size, nil); err != nil {
			return nil, err
		}
	}
	if top.isIndex() {
		return nil, fmt.Errorf("%w: more than %d indexes in each other", ErrInvalid, maxNesting)
	}
	if err := top.checkManifest(); err != nil {
		return nil, err
	}
	img.Manifest = top.descriptor()
	img.Config = descriptorOf(*top.Config)
	err = p.lease.EnsureBlob(ctx, img.Config.Digest, img.Config.Size, func(ctx context.Context, partial *store.Partial) error {
		return p.src.Fetch(ctx, img.Config.Digest, partial)
	})
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	config, err := p.lease.Store().ReadBlob(img.Config.Digest, maxConfig)
	if err != nil {
		return nil, err
	}
	return img, top.describe(img, config, p.Platform)
}

// document fetches one manifest or index; size is -1 where nobody has said it.
func (p *puller) document(ctx context.Context, d digest.Digest, size int64, served *registry.Manifest) (*document, error) {
	if size > maxManifest {
		return nil, fmt.Errorf("manifest %s: %w: %d bytes, expected at most %d", d, registry.ErrTooLarge, size, maxManifest)
	}
	said := ""
	err := p.lease.EnsureText(ctx, d, func(ctx context.Context) ([]byte, error) {
		if served == nil {
			var err error
			if served, err = p.src.Manifest(ctx, d, maxManifest); err != nil {
				return nil, err
			}
		}
		said = served.MediaType
		return served.Text, nil
	})
	if err != nil {
		return nil, err
	}
	text, err := p.lease.Store().ReadBlob(d, maxManifest)
	if err != nil {
		return nil, err
	}
	if size >= 0 && int64(len(text)) != size {
		return nil, fmt.Errorf("%w: manifest %s has %d bytes instead of %d", ErrInvalid, d, len(text), size)
	}
	return parseDocument(text, d, said)
}

// layers fetches and unpacks all layers, each as soon as it is there, and ends
// at the first error.
func (p *puller) layers(ctx context.Context, img *store.Image) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := &work{
		puller: p, stack: img.Stack(), done: make([]chan struct{}, len(img.Layers)),
		downloads: make(chan struct{}, max(p.Downloads, 1)),
		unpacks:   make(chan struct{}, runtime.GOMAXPROCS(0)),
	}
	var wg sync.WaitGroup
	for i := range w.stack {
		w.done[i] = make(chan struct{})
		wg.Go(func() {
			if err := w.layer(ctx, i); err != nil {
				cancel(err) // the first counts: the others are its consequence
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// work is the layers of one pull.
type work struct {
	*puller
	stack []store.LayerSpec
	done  []chan struct{} // closed when a layer is there

	downloads, unpacks chan struct{} // slots
}

// layer is the one worker of a layer. It takes a slot only when it has work to
// do, not while another process does it.
func (w *work) layer(ctx context.Context, i int) error {
	spec := w.stack[i]
	fetch, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, blob := range spec.Blobs {
		wg.Go(func() {
			if err := w.fetch(fetch, blob); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if fetch.Err() != nil {
		return context.Cause(fetch)
	}
	err := w.lease.EnsureLayer(ctx, spec, func(ctx context.Context, dst *os.File) (store.Made, error) {
		return w.unpack(ctx, i, dst)
	})
	if err != nil {
		return err
	}
	close(w.done[i])
	for _, blob := range spec.Blobs {
		w.event(Done, blob, blob.Size)
	}
	return nil
}

func (w *work) event(phase Phase, blob store.Descriptor, n int64) {
	w.Progress(Event{Phase: phase, Digest: blob.Digest, Current: n, Total: blob.Size})
}

// fetch brings one blob.
func (w *work) fetch(ctx context.Context, blob store.Descriptor) error {
	w.event(Waiting, blob, 0)
	err := w.lease.EnsureBlob(ctx, blob.Digest, blob.Size, func(ctx context.Context, partial *store.Partial) error {
		if err := slot(ctx, w.downloads); err != nil {
			return err
		}
		defer release(w.downloads)
		w.event(Downloading, blob, partial.Offset())
		return w.src.Fetch(ctx, blob.Digest, &counted{partial, func(n int64) { w.event(Downloading, blob, n) }})
	})
	if err == nil {
		w.event(Downloaded, blob, blob.Size)
	}
	return err
}

// unpack makes one layer.
func (w *work) unpack(ctx context.Context, i int, dst *os.File) (store.Made, error) {
	if err := slot(ctx, w.unpacks); err != nil {
		return store.Made{}, err
	}
	free := sync.OnceFunc(func() { release(w.unpacks) })
	defer free()
	for _, blob := range w.stack[i].Blobs {
		w.event(Unpacking, blob, 0)
	}
	s := w.lease.Store()
	job, err := openJob(s, w.stack[i])
	if err != nil {
		return store.Made{}, err
	}
	defer job.close()
	job.Below = func(ctx context.Context) ([]*os.File, error) {
		// Those below may want the slot, and are waited for in the order of the
		// layers: no two wait for each other.
		free()
		for _, done := range w.done[:i] {
			select {
			case <-done:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		return openLayers(s, w.stack[:i])
	}
	return w.Unpack(ctx, job.Job, dst)
}

func slot(ctx context.Context, slots chan struct{}) error {
	select {
	case slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func release(slots chan struct{}) { <-slots }

// Phase is how far something has come.
type Phase string

const (
	Resolved    Phase = "resolved"    // the digest is known
	Waiting     Phase = "waiting"     // for its turn, or for another process
	Downloading Phase = "downloading" // Current of Total bytes are there
	Downloaded  Phase = "downloaded"
	Unpacking   Phase = "unpacking"
	Done        Phase = "done"
	Pulled      Phase = "pulled" // the image, whose id is the digest
)

// Event is a step of a pull.
type Event struct {
	Phase   Phase         `json:"phase"`
	Digest  digest.Digest `json:"digest"` // of the layer's blob, but for Resolved and Pulled
	Current int64         `json:"current,omitempty"`
	Total   int64         `json:"total,omitempty"` // bytes
}

// counted is a sink that tells how much it has.
type counted struct {
	*store.Partial
	tell func(int64)
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Partial.Write(b)
	c.tell(c.Offset())
	return n, err
}
