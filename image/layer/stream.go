package layer

import (
	"context"
	"crypto/sha256"
	"hash"
	"io"
	"sync"
	"sync/atomic"
)

const (
	bufferSize  = 128 << 10
	bufferCount = 8 // between the stages
)

// stream is the uncompressed stream of a layer. Decompression, the hash and
// the reader of the stream work at the same time, on the same few buffers:
//
//	blob → decompress ─┬→ sha256
//	                   └→ Read
type stream struct {
	in   counter // the blob
	lim  Limits
	free chan *buffer
	read chan *buffer
	hash chan *buffer
	quit chan struct{} // the reader has gone
	wait sync.WaitGroup
	sum  hash.Hash

	cur  *buffer // what Read has not yet handed out
	rest []byte
	size int64 // of the uncompressed stream; after its end
	err  error // why it ended; io.EOF at its end
}

// buffer is shared by the hash and the reader.
type buffer struct {
	data  []byte
	users atomic.Int32
}

// counter counts what is read.
type counter struct {
	r io.Reader
	n atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// newStream begins to read a blob. Close must follow.
func newStream(ctx context.Context, blob io.Reader, mediaType string, lim Limits) *stream {
	s := &stream{
		in: counter{r: blob}, lim: lim, sum: sha256.New(), quit: make(chan struct{}),
		free: make(chan *buffer, bufferCount), read: make(chan *buffer, bufferCount), hash: make(chan *buffer, bufferCount),
	}
	for range bufferCount {
		s.free <- &buffer{}
	}
	s.wait.Add(2)
	go func() {
		defer s.wait.Done()
		defer close(s.read)
		defer close(s.hash)
		s.err = s.fill(ctx, mediaType)
	}()
	go func() {
		defer s.wait.Done()
		for b := range s.hash {
			s.sum.Write(b.data)
			s.done(b)
		}
	}()
	return s
}

// fill decompresses until the end; it returns io.EOF there.
func (s *stream) fill(ctx context.Context, mediaType string) error {
	r, release, err := decompress(&s.in, mediaType, s.lim)
	if err != nil {
		return err
	}
	defer release()
	for {
		var b *buffer
		select {
		case b = <-s.free:
		case <-s.quit:
			return io.ErrClosedPipe
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if b.data == nil {
			b.data = make([]byte, bufferSize)
		}
		n, err := readFull(r, b.data[:bufferSize])
		if s.size += int64(n); s.size > s.lim.Bytes {
			return exceeded("bytes", s.lim.Bytes)
		}
		if s.size > s.lim.RatioFloor && s.size/s.lim.Ratio > s.in.n.Load() {
			return exceeded("times the size of the blob", s.lim.Ratio)
		}
		if n > 0 {
			b.data = b.data[:n]
			b.users.Store(2)
			s.hash <- b // there is room for all buffers
			s.read <- b
		}
		if err != nil {
			return err
		}
	}
}

// readFull is io.ReadFull that returns the reader's own error.
func readFull(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	return n, err
}

// done gives a buffer back when both have done with it.
func (s *stream) done(b *buffer) {
	if b.users.Add(-1) == 0 {
		s.free <- b
	}
}

// Read reads the uncompressed stream.
func (s *stream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.cur != nil {
			s.done(s.cur)
			s.cur = nil
		}
		b, ok := <-s.read
		if !ok {
			return 0, s.err
		}
		s.cur, s.rest = b, b.data
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// Close ends reading. It waits for a read of the blob that is under way.
func (s *stream) Close() {
	close(s.quit)
	for b := range s.read {
		s.done(b)
	}
	s.wait.Wait()
}
