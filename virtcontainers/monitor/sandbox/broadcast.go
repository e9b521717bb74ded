package sandbox

import "sync"

// broadcast tells everybody who has joined that something has happened. The
// zero broadcast is ready.
type broadcast struct {
	mu     sync.Mutex // guards what follows
	joined map[chan struct{}]bool
	closed bool
}

// backlog is how many events wait for one that does not receive; what comes
// after that is not told.
const backlog = 64

// join gives a channel that gets a value for each event from now on, and is
// closed at the end; leave must be called.
func (b *broadcast) join() (events <-chan struct{}, leave func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ch := make(chan struct{}, backlog)
	if b.closed {
		close(ch)
		return ch, func() {}
	}
	if b.joined == nil {
		b.joined = make(map[chan struct{}]bool)
	}
	b.joined[ch] = true
	return ch, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.joined, ch)
	}
}

// tell tells everybody.
func (b *broadcast) tell() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ch := range b.joined {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// close says that nothing more will come.
func (b *broadcast) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for ch := range b.joined {
		close(ch)
	}
	b.joined = nil
}
