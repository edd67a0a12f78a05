package forward

import (
	"io"
	"net"
	"time"
)

// A newcomer is a client up to the server's first answer to its start-up. That
// is read ahead, one packet at a time; what comes after it stays in the socket.
// Until the answer nothing was promised to it: it may be led to one server after
// another, and each is told the same (a start-up can be repeated, and nothing
// else is). Only its goroutine uses a newcomer.
type newcomer struct {
	f     *Forwarder
	conn  net.Conn
	start *ahead    // nil: not read ahead
	since time.Time // since when it waits for somebody
	spoke bool      // since counts from its start-up
	once  bool      // a server has ended without an answer
	held  bool      // it counts among those that wait
}

// listen has the next packet read.
func (c *newcomer) listen() { c.start = c.f.readAhead(c.conn, readPacket) }

// spoken reports whether the client has said something, without waiting.
func (c *newcomer) spoken() bool {
	if c.start == nil {
		return false
	}
	select {
	case <-c.start.done:
		return true
	default:
		return false
	}
}

// encrypts reports whether it is known that no answer to the client's start-up
// will be readable.
func (c *newcomer) encrypts() bool {
	if !c.spoken() {
		return false
	}
	k := kindOf(c.start.b)
	return k == request || k == encrypted
}

// patience is how long the client may go on waiting. The time that it took to
// say something isn't waiting.
func (c *newcomer) patience() time.Duration {
	if c.spoken() && !c.spoke {
		c.spoke, c.since = true, c.start.at
	}
	return c.f.o.HoldTimeout - time.Since(c.since)
}

// ahead is a reader whose beginning is read ahead, by a goroutine.
type ahead struct {
	r    io.Reader
	done chan struct{} // closed when what follows is there
	b    []byte
	err  error
	at   time.Time
}

// readAhead begins to read; whoever closes r ends it.
func (f *Forwarder) readAhead(r io.Reader, read func(io.Reader) ([]byte, error)) *ahead {
	a := &ahead{r: r, done: make(chan struct{})}
	f.group.Go(func() {
		defer close(a.done)
		a.b, a.err = read(r)
		a.at = time.Now()
	})
	return a
}

// Read reads what was read ahead, and then from the reader itself.
func (a *ahead) Read(b []byte) (int, error) {
	<-a.done
	switch {
	case len(a.b) > 0:
		n := copy(b, a.b)
		a.b = a.b[n:]
		return n, nil
	case a.err != nil:
		return 0, a.err
	}
	return a.r.Read(b)
}
