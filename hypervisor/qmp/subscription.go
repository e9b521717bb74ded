package qmp

// Subscription is a queue of the events that somebody waits for.
type Subscription struct {
	// C gets the events. It is never closed: wait for Client.Done as well.
	C <-chan Event

	c      *Client
	events chan Event
	wants  func(Event) bool
}

// Subscribe queues from now on the events for which wants is true, at most
// limit of them: those that come while the queue is full are lost. wants
// runs in the connection's reader: it must not block or call the Client.
func (c *Client) Subscribe(limit int, wants func(Event) bool) *Subscription {
	events := make(chan Event, limit)
	s := &Subscription{C: events, c: c, events: events, wants: wants}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subs[s] = struct{}{}
	return s
}

// Close ends the subscription. Events in the queue stay readable.
func (s *Subscription) Close() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	delete(s.c.subs, s)
}

func (s *Subscription) offer(e Event) {
	if !s.wants(e) {
		return
	}
	select {
	case s.events <- e:
	default:
	}
}
