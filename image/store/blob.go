package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
)

// BlobPath is the place of a blob. What is there is complete.
func (s *Store) BlobPath(d digest.Digest) (string, error) {
	if err := validDigest(d); err != nil {
		return "", err
	}
	return s.place(blobOf(d)), nil
}

// ReadBlob reads a blob of at most limit bytes, and checks it. It is for
// manifests and configurations.
func (s *Store) ReadBlob(d digest.Digest, limit int64) ([]byte, error) {
	f, err := s.OpenBlob(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read blob %s: %w", d, err)
	case int64(len(text)) > limit:
		return nil, fmt.Errorf("read blob %s: more than %d bytes", d, limit)
	case digest.FromBytes(text) != d:
		return nil, fmt.Errorf("%w: blob %s: run fsck", ErrCorrupt, d)
	}
	return text, nil
}

// OpenBlob opens a blob for reading.
func (s *Store) OpenBlob(d digest.Digest) (*os.File, error) {
	path, err := s.BlobPath(d)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	return f, nil
}

// Partial is a blob on its way. What an earlier process had written of it
// counts, after its hash has been taken anew.
type Partial struct {
	s      *Store
	file   *os.File
	hash   hash.Hash
	offset int64
	size   int64
	fresh  bool // nothing in it is of an earlier process
}

// Offset is how many bytes there are.
func (p *Partial) Offset() int64 { return p.offset }

// Size is how many there will be.
func (p *Partial) Size() int64 { return p.size }

// Digest is that of what there is.
func (p *Partial) Digest() digest.Digest { return digest.NewDigest(digest.SHA256, p.hash) }

// Write adds to the content. What goes beyond the size is an error.
func (p *Partial) Write(b []byte) (int, error) {
	if int64(len(b)) > p.size-p.offset {
		return 0, fmt.Errorf("content is longer than the expected %d bytes", p.size)
	}
	n := 0
	err := p.s.step("blob.write", func() (err error) {
		n, err = p.file.WriteAt(b, p.offset)
		return err
	})
	p.hash.Write(b[:n])
	p.offset += int64(n)
	return n, err
}

// Restart drops what there is.
func (p *Partial) Restart() error {
	p.hash, p.offset, p.fresh = sha256.New(), 0, true
	return p.s.step("blob.truncate", func() error { return p.file.Truncate(0) })
}

// open begins with what is there.
func (s *Store) openPartial(d digest.Digest, size int64) (*Partial, error) {
	f, err := os.OpenFile(s.path(partialDir, d.Encoded()), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	p := &Partial{s: s, file: f, size: size, hash: sha256.New()}
	n, err := io.Copy(p.hash, f)
	p.offset, p.fresh = n, n == 0
	if err == nil && n > size {
		err = p.Restart()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return p, nil
}

// HasBlob names a blob in the lease, and then says whether it is there.
func (l *Lease) HasBlob(ctx context.Context, d digest.Digest) (bool, error) {
	there, err := l.need(ctx, blobOf(d))
	if err != nil {
		return false, fmt.Errorf("blob %s: %w", d, err)
	}
	return there[0], nil
}

// EnsureBlob names a blob in the lease and has fetch write it where it is
// missing: from its offset on, to its end. Of several processes and goroutines
// one does the work, and the others wait. A blob that was carried on from what
// an earlier process has left, and then is not what it should be, is fetched
// once more, as a whole.
func (l *Lease) EnsureBlob(ctx context.Context, d digest.Digest, size int64, fetch func(context.Context, *Partial) error) error {
	if err := l.ensureBlob(ctx, d, size, fetch); err != nil {
		return fmt.Errorf("blob %s: %w", d, err)
	}
	return nil
}

func (l *Lease) ensureBlob(ctx context.Context, d digest.Digest, size int64, fetch func(context.Context, *Partial) error) error {
	r := blobOf(d)
	if size < 0 {
		return fmt.Errorf("a size of %d bytes", size)
	}
	if there, err := l.need(ctx, r); err != nil || there[0] {
		return err
	}
	lock, err := l.s.lockKey(ctx, r.key())
	if err != nil {
		return err
	}
	defer lock.release()
	// Somebody else may have been first. What the lease names stays.
	if there, err := l.s.has(r); err != nil || there {
		return err
	}
	p, err := l.s.openPartial(d, size)
	if err != nil {
		return err
	}
	defer p.file.Close()
	err = p.fill(ctx, d, fetch)
	if errors.Is(err, ErrDigest) && !p.fresh {
		if err = p.Restart(); err == nil {
			err = p.fill(ctx, d, fetch)
		}
	}
	if errors.Is(err, ErrDigest) || err != nil && p.offset == 0 { // nothing to carry on
		return errors.Join(err, os.Remove(p.file.Name()))
	}
	if err != nil {
		return err
	}
	return l.commitBlob(r, p)
}

// fill fetches what is missing and checks the whole.
func (p *Partial) fill(ctx context.Context, d digest.Digest, fetch func(context.Context, *Partial) error) error {
	if err := fetch(ctx, p); err != nil {
		return err
	}
	if p.offset != p.size {
		return fmt.Errorf("%d bytes instead of %d: %w", p.offset, p.size, io.ErrUnexpectedEOF)
	}
	if got := p.Digest(); got != d {
		return fmt.Errorf("%w: it is %s", ErrDigest, got)
	}
	return nil
}

// commitBlob puts a checked blob at its place: its data is on the disk before
// its name.
func (l *Lease) commitBlob(r resource, p *Partial) error {
	if err := l.holds(r); err != nil {
		return err
	}
	if err := p.file.Chmod(0o400); err != nil {
		return err
	}
	if err := l.s.syncFile("blob", p.file); err != nil {
		return err
	}
	return l.s.rename("blob", p.file.Name(), l.s.place(r))
}

// EnsureText is EnsureBlob for content whose size is not known before, such as
// a manifest, and that fits into memory.
func (l *Lease) EnsureText(ctx context.Context, d digest.Digest, fetch func(context.Context) ([]byte, error)) error {
	if err := l.ensureText(ctx, d, fetch); err != nil {
		return fmt.Errorf("blob %s: %w", d, err)
	}
	return nil
}

func (l *Lease) ensureText(ctx context.Context, d digest.Digest, fetch func(context.Context) ([]byte, error)) error {
	r := blobOf(d)
	if there, err := l.need(ctx, r); err != nil || there[0] {
		return err
	}
	lock, err := l.s.lockKey(ctx, r.key())
	if err != nil {
		return err
	}
	defer lock.release()
	if there, err := l.s.has(r); err != nil || there {
		return err
	}
	text, err := fetch(ctx)
	if err != nil {
		return err
	}
	p, err := l.s.openPartial(d, int64(len(text)))
	if err != nil {
		return err
	}
	defer p.file.Close()
	err = p.Restart()
	if err == nil {
		err = p.fill(ctx, d, func(context.Context, *Partial) error {
			_, err := p.Write(text)
			return err
		})
	}
	if err != nil {
		return errors.Join(err, os.Remove(p.file.Name()))
	}
	return l.commitBlob(r, p)
}

// PutBlob adds a small blob that is in memory.
func (l *Lease) PutBlob(ctx context.Context, text []byte) (digest.Digest, error) {
	d := digest.FromBytes(text)
	return d, l.EnsureText(ctx, d, func(context.Context) ([]byte, error) { return text, nil })
}
