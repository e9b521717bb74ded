package server

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

const (
	// maxQueries is how many queries are remembered. The answers to older ones are
	// dropped, as a DNS server's that takes too long.
	maxQueries = 1024
	// maxResolverConns is how many TCP connections are served at a time; more of
	// them wait in the kernel's queue.
	maxResolverConns = 64
	// resolverIdle ends a TCP connection on which nothing is asked.
	resolverIdle = 30 * time.Second
)

// resolver takes queries for names on api.ResolverAddress to the host, which has
// a DNS server there that knows the container's neighbours. It listens on ports
// that the kernel chooses, as docker's does, and has the queries led there: the
// port itself stays free for a DNS server of the container's.
type resolver struct {
	stream   net.Conn
	udp      *net.UDPConn
	tcp      *net.TCPListener
	redirect io.Closer

	writing sync.Mutex // one query is written to the stream at a time

	mu     sync.Mutex // guards what follows
	last   uint32     // ID of the latest query
	asking [maxQueries]asker
	conns  map[net.Conn]bool // of TCP; nil when it is over
}

// asker is who waits for the answer to a query.
type asker struct {
	id     uint32
	answer func(message []byte) // nil for nobody
}

// resolve has queries come here, says so on the stream, and passes them on until the host
// closes it. What went wrong is told the host, too.
func (s *Server) resolve(stream net.Conn) error {
	defer stream.Close()
	r, err := s.listenResolver(stream)
	if werr := api.WriteLine(stream, replyOf(err)); werr != nil || err != nil {
		if r != nil {
			err = errors.Join(err, r.close())
		}
		return errors.Join(err, werr)
	}
	var running sync.WaitGroup
	running.Go(r.serveUDP)
	running.Go(func() { r.serveTCP(&running) })
	err = r.answers()
	err = errors.Join(err, r.close())
	running.Wait()
	return err
}

func (s *Server) listenResolver(stream net.Conn) (*resolver, error) {
	if s.cfg.Network == nil {
		return nil, fmt.Errorf("the network is not the agent's: %w", syscall.EOPNOTSUPP)
	}
	at := netip.MustParseAddrPort(api.ResolverAddress)
	free := netip.AddrPortFrom(at.Addr(), 0)
	udp, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(free))
	if err != nil {
		return nil, err
	}
	tcp, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(free))
	if err != nil {
		return nil, errors.Join(err, udp.Close())
	}
	redirect, err := s.cfg.Network.Redirect(at, portOf(udp.LocalAddr()), portOf(tcp.Addr()))
	if err != nil {
		return nil, errors.Join(err, udp.Close(), tcp.Close())
	}
	return &resolver{stream: stream, udp: udp, tcp: tcp, redirect: redirect, conns: make(map[net.Conn]bool)}, nil
}

func portOf(a net.Addr) uint16 { return netip.MustParseAddrPort(a.String()).Port() }

// close ends everything that waits for something.
func (r *resolver) close() error {
	err := r.redirect.Close()
	r.stream.Close()
	r.udp.Close()
	r.tcp.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		c.Close()
	}
	r.conns = nil
	return err
}

// serves notes a TCP connection, for close. It is false when it is over.
func (r *resolver) serves(conn net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns == nil {
		return false
	}
	r.conns[conn] = true
	return true
}

// ask passes a query on. answer is called at most once.
func (r *resolver) ask(transport api.Transport, message []byte, answer func([]byte)) error {
	r.mu.Lock()
	r.last++
	q := api.Query{ID: r.last, Transport: transport, Message: message}
	r.asking[q.ID%maxQueries] = asker{q.ID, answer}
	r.mu.Unlock()
	r.writing.Lock()
	defer r.writing.Unlock()
	return api.WriteQuery(r.stream, q)
}

// answers hands the host's answers to who has asked, until the stream ends.
func (r *resolver) answers() error {
	for {
		q, err := api.ReadQuery(r.stream)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read an answer: %w", err)
		}
		r.mu.Lock()
		slot := &r.asking[q.ID%maxQueries]
		answer := slot.answer
		if slot.id != q.ID {
			answer = nil
		} else {
			slot.answer = nil
		}
		r.mu.Unlock()
		if answer != nil {
			answer(q.Message)
		}
	}
}

func (r *resolver) serveUDP() {
	b := make([]byte, api.MaxMessage)
	for {
		n, from, err := r.udp.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an asker that has gone (ECONNREFUSED)
		}
		message := append([]byte(nil), b[:n]...)
		if r.ask(api.UDP, message, func(m []byte) { r.udp.WriteToUDPAddrPort(m, from) }) != nil {
			return
		}
	}
}

func (r *resolver) serveTCP(running *sync.WaitGroup) {
	slots := make(chan struct{}, maxResolverConns)
	for {
		slots <- struct{}{} // each that is served ends: resolverIdle
		conn, err := r.tcp.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			<-slots
			continue
		}
		if !r.serves(conn) {
			conn.Close()
			return
		}
		running.Go(func() {
			r.serveConn(conn)
			r.mu.Lock()
			delete(r.conns, conn)
			r.mu.Unlock()
			<-slots
		})
	}
}

// serveConn passes on what is asked on one connection.
func (r *resolver) serveConn(conn net.Conn) {
	defer conn.Close()
	var writing sync.Mutex // of answers, which come in any order
	for {
		conn.SetDeadline(time.Now().Add(resolverIdle))
		message, err := api.ReadMessage(conn)
		if err != nil {
			return
		}
		err = r.ask(api.TCP, message, func(m []byte) {
			writing.Lock()
			defer writing.Unlock()
			api.WriteMessage(conn, m) // an asker that has gone is its own choice
		})
		if err != nil {
			return
		}
	}
}
