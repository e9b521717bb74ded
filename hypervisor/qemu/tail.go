package qemu

import "sync"

// tail keeps the last bytes written to it. Writing never fails or blocks,
// whatever the writer sends.
type tail struct {
	limit int // bytes kept

	mu    sync.Mutex // guards what follows
	ring  []byte     // grows to limit, then is written in circles
	start int        // index of the oldest byte
	total uint64     // bytes ever written
}

func newTail(limit int) *tail { return &tail{limit: limit} }

// Write is io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	if len(p) > t.limit {
		p = p[len(p)-t.limit:]
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total += uint64(n)
	grow := min(len(p), t.limit-len(t.ring))
	t.ring = append(t.ring, p[:grow]...) // start is 0 as long as this does anything
	for p = p[grow:]; len(p) > 0; {
		c := copy(t.ring[t.start:], p)
		t.start = (t.start + c) % t.limit
		p = p[c:]
	}
	return n, nil
}

// Written counts the bytes that were ever written.
func (t *tail) Written() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.total
}

// Bytes is a copy of what is kept, oldest first.
func (t *tail) Bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := make([]byte, 0, len(t.ring))
	b = append(b, t.ring[t.start:]...)
	return append(b, t.ring[:t.start]...)
}
