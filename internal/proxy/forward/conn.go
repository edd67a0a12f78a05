package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// pair is a client with its connection to the master.
type pair struct {
	f      *Forwarder
	number uint64 // in the order they came
	target string
	epoch  uint64 // the pair may carry bytes only in this one
	cancel context.CancelFunc

	mu     sync.Mutex
	client net.Conn // nil while the master has not been dialled, or not answered: a cut leaves it alone
	server net.Conn // nil until dialled
	closed bool

	// Of the goroutine that leads the client.
	sure   bool   // the server was known to accept clients before it was dialled
	answer *ahead // what the server says; nil: nothing was read ahead
}

// serve leads one client.
func (f *Forwarder) serve(client net.Conn) {
	if c, ok := client.(interface {
		SetKeepAliveConfig(net.KeepAliveConfig) error
	}); ok {
		// A client that is already gone is found out by reading from it.
		_ = c.SetKeepAliveConfig(f.o.KeepAlive)
	}
	c := &newcomer{f: f, conn: client, since: time.Now()}
	p, why := f.lead(c)
	if p == nil {
		c.refuse(why)
		return
	}
	defer f.forget(p)
	p.move(c)
}

// register notes a pair before its master is dialled, so that a cut finds it.
// It returns nil, and why, when clients are led nowhere.
func (f *Forwarder) register(cancel context.CancelFunc) (p *pair, why string) {
	inTime := f.InTime() // and again when it is dialled
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.target == "" || !inTime:
		return nil, noMaster
	case f.state.notNow != "":
		return nil, f.state.notNow
	}
	f.last++
	p = &pair{f: f, number: f.last, target: f.target, epoch: f.epoch.Load(), cancel: cancel}
	f.pairs[p] = struct{}{}
	return p, ""
}

// forget is called once the connection to the master is closed.
func (f *Forwarder) forget(p *pair) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.pairs, p)
}

// attach joins the client with the dialled connection, unless a cut came first.
func (p *pair) attach(client, server net.Conn) bool {
	allowed := p.allowed()
	p.mu.Lock()
	defer p.mu.Unlock()
	// A cut raises the epoch and then waits for the lock. So one that is not
	// seen here closes both.
	if p.closed || !allowed || p.f.epoch.Load() != p.epoch {
		reset(server)
		return false
	}
	p.client, p.server = client, server
	return true
}

// allowed is the look between a read and its write.
func (p *pair) allowed() bool {
	return p.f.InTime() && p.f.epoch.Load() == p.epoch
}

// part takes the client out of a cut's reach; false when one has closed it.
func (p *pair) part() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.client = nil
	return true
}

// drop closes the connection to the master alone.
func (p *pair) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.server.Close()
}

// move passes bytes both ways until both have ended, or one failed.
func (p *pair) move(c *newcomer) {
	var up, down io.Reader = c.conn, p.server
	if c.start != nil {
		up = c.start
	}
	if p.answer != nil {
		down = p.answer
	}
	p.f.live(1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.copy(p.server, up, func() {})
	}()
	p.copy(p.client, down, func() { p.f.heard(p.f.o.Clock()) })
	p.f.live(-1)
	select {
	case <-ended:
	default:
		if p.allowed() { // the master has ended it: does it live?
			p.f.doubt(p.target)
			p.f.probe()
		}
	}
	// Nobody answers any more. A client that has not noticed, idle in a pool,
	// must not hold two descriptors for ever.
	timer := time.AfterFunc(halfOpen, p.close)
	<-ended
	timer.Stop()
	p.close()
}

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// copy passes bytes from src to dst, and the end of them; it calls read after
// each read that got some. A failure closes both, so that the other direction
// ends too.
//
// Not io.Copy: that one splices inside the runtime, where nobody looks at the
// clock between the read and the write.
func (p *pair) copy(dst net.Conn, src io.Reader, read func()) {
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	for {
		n, err := src.Read(buf[:])
		if !p.allowed() {
			p.reset()
			return
		}
		if n > 0 {
			read()
			if _, err := dst.Write(buf[:n]); err != nil {
				p.close()
				return
			}
		}
		if err != nil {
			if !passEnd(dst, err) {
				p.close()
			}
			return
		}
	}
}

// passEnd passes the end of one direction on, keeping the other one open: a
// client that has sent all may still wait for its answer. It reports false
// when that is not possible.
func passEnd(dst net.Conn, readErr error) bool {
	c, ok := dst.(interface{ CloseWrite() error })
	return ok && errors.Is(readErr, io.EOF) && c.CloseWrite() == nil
}

// reset closes both connections without sending what is still buffered, and
// gives up a dial under way. They are closed when it returns, whoever did it.
func (p *pair) reset() {
	p.cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed && p.client != nil {
		p.f.cutOff.Add(1)
	}
	p.closed = true
	reset(p.client)
	reset(p.server)
}

// close closes both connections in order.
func (p *pair) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.client.Close()
	p.server.Close()
}

func reset(c net.Conn) {
	if c == nil {
		return
	}
	if l, ok := c.(interface{ SetLinger(int) error }); ok {
		// Fails on a connection that is closed already, which is as good.
		_ = l.SetLinger(0)
	}
	c.Close()
}
