// Package forward moves bytes between clients and the master, and stops moving
// them: it is the fence of a cluster. A connection may carry bytes only while
// the route that it was made for is the present one and the deadline of the
// last successful check has not passed; both are looked at between every read
// and its write, because after a pause of the process nothing else runs in
// time (protocols.md P3 to P5).
//
// Start with Forwarder. It knows nothing of the store or of PostgreSQL.
package forward

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"stolon/internal/clock"
)

const (
	// dialTimeout is how long a client waits for a master that doesn't answer.
	dialTimeout = 5 * time.Second
	bufferSize  = 32 << 10
	// acceptPause is the longest pause after an accept error, such as too many
	// open files.
	acceptPause = time.Second
)

// Options is what a Forwarder needs.
type Options struct {
	Clock     clock.Clock
	Dial      func(ctx context.Context, address string) (net.Conn, error)
	KeepAlive net.KeepAliveConfig // of client connections
	Log       *zap.Logger
}

// Forwarder leads clients to one address, or nowhere.
type Forwarder struct {
	o        Options
	epoch    atomic.Uint64 // raised by every cut
	deadline atomic.Int64  // by o.Clock; nothing flows from then on

	mu     sync.Mutex
	target string // "" nowhere
	pairs  map[*pair]struct{}
	timer  *time.Timer
	group  sync.WaitGroup

	// For the metrics.
	Accepted, CutOff atomic.Int64
}

// New returns a Forwarder that leads nowhere.
func New(o Options) *Forwarder {
	return &Forwarder{o: o, pairs: map[*pair]struct{}{}}
}

// Open counts the connections that are being served.
func (f *Forwarder) Open() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.pairs)
}

// Target returns where new clients are led, "" for nowhere.
func (f *Forwarder) Target() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.target
}

// Deadline returns until when bytes may flow.
func (f *Forwarder) Deadline() time.Duration { return time.Duration(f.deadline.Load()) }

// Lead makes address the target of new clients. Another target than before
// cuts every connection first.
func (f *Forwarder) Lead(address string) {
	if f.Target() != address {
		f.Cut()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.target = address
}

// Extend lets bytes flow until deadline, and calls expired, once, when that
// passes without another Extend; everything has been cut by then. What should
// have been cut since the last deadline is cut now.
func (f *Forwarder) Extend(deadline time.Duration, expired func()) {
	if !f.inTime() {
		target := f.Target()
		f.Cut()
		defer f.Lead(target)
	}
	f.deadline.Store(int64(deadline))
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.timer != nil {
		f.timer.Stop()
	}
	f.timer = time.AfterFunc(deadline-f.o.Clock(), func() {
		if !f.inTime() {
			f.Cut()
			expired()
		}
	})
}

// inTime reads the deadline before the clock, so a pause in between errs on
// the safe side.
func (f *Forwarder) inTime() bool {
	deadline := f.Deadline()
	return f.o.Clock() < deadline
}

// Cut closes every connection and leads nowhere. When it returns no byte of an
// old connection will be passed on any more, and a dial under way will come to
// nothing. Sockets are reset rather than closed in order: an acknowledgement
// not yet sent must not reach the client, nor a request the old master.
func (f *Forwarder) Cut() {
	f.mu.Lock()
	f.epoch.Add(1)
	f.target = ""
	pairs := f.pairs
	f.pairs = map[*pair]struct{}{}
	f.mu.Unlock()
	for p := range pairs {
		p.reset()
	}
	f.CutOff.Add(int64(len(pairs)))
}

// Close cuts, and waits for every goroutine of the Forwarder to end. Listeners
// are to be closed before.
func (f *Forwarder) Close() {
	f.Cut()
	f.mu.Lock()
	if f.timer != nil {
		f.timer.Stop()
	}
	f.mu.Unlock()
	f.group.Wait()
}

// Serve accepts clients until l is closed. Errors of accept are waited out:
// existing connections are worth more than the new ones that can't be had.
func (f *Forwarder) Serve(l net.Listener) {
	pause := time.Duration(0)
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			pause = min(max(2*pause, 5*time.Millisecond), acceptPause)
			f.o.Log.Warn("cannot accept a connection, trying on", zap.Error(err))
			time.Sleep(pause)
			continue
		}
		pause = 0
		f.Accepted.Add(1)
		f.group.Go(func() { f.serve(conn) })
	}
}

// serve leads one client.
func (f *Forwarder) serve(client net.Conn) {
	if c, ok := client.(interface {
		SetKeepAliveConfig(net.KeepAliveConfig) error
	}); ok {
		// A client that is already gone is found out by reading from it.
		_ = c.SetKeepAliveConfig(f.o.KeepAlive)
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	p := &pair{f: f, client: client, cancel: cancel}
	target, ok := f.register(p)
	if !ok {
		client.Close()
		return
	}
	defer f.forget(p)
	server, err := f.o.Dial(ctx, target)
	if err != nil {
		f.o.Log.Debug("cannot reach the master", zap.String("address", target), zap.Error(err))
		p.close()
		return
	}
	if !p.attach(server) {
		return
	}
	p.move()
}

// register notes a client before its master is dialled, so that a cut finds it.
func (f *Forwarder) register(p *pair) (target string, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.target == "" {
		return "", false
	}
	p.epoch = f.epoch.Load()
	f.pairs[p] = struct{}{}
	return f.target, true
}

func (f *Forwarder) forget(p *pair) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.pairs, p)
}

// pair is a client with its connection to the master.
type pair struct {
	f      *Forwarder
	epoch  uint64 // the pair may carry bytes only in this one
	cancel context.CancelFunc

	mu     sync.Mutex
	client net.Conn
	server net.Conn
}

// attach adds the dialled connection, unless a cut came first.
func (p *pair) attach(server net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server = server
	if !p.allowed() {
		resetConn(p.client)
		resetConn(server)
		return false
	}
	return true
}

// allowed is the look between a read and its write.
func (p *pair) allowed() bool {
	return p.f.inTime() && p.f.epoch.Load() == p.epoch
}

// move passes bytes both ways until both have ended, or one failed.
func (p *pair) move() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.copy(p.client, p.server)
	}()
	p.copy(p.server, p.client)
	<-done
	p.close()
}

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// copy passes bytes from src to dst, and the end of them. A failure closes
// both, so that the other direction ends too.
func (p *pair) copy(dst, src net.Conn) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		n, err := src.Read(*buf)
		if !p.allowed() {
			p.reset()
			return
		}
		if n > 0 {
			if _, err := dst.Write((*buf)[:n]); err != nil {
				p.close()
				return
			}
		}
		if err != nil {
			if endOf(dst, err) != nil {
				p.close()
			}
			return
		}
	}
}

// reset closes both connections without sending what is still buffered.
func (p *pair) reset() {
	p.cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	resetConn(p.client)
	resetConn(p.server)
}

func (p *pair) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.client.Close()
	if p.server != nil {
		p.server.Close()
	}
}
