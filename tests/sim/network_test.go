package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A network carries bytes between nodes, late, and not at all between those
// that are partitioned.
type network struct {
	s  *sim
	mu sync.Mutex
	// How many faults cut the pair; pairs are kept in one order.
	cuts      map[[2]string]int
	rejects   map[[2]string]int // the same of faults that only refuse new connections
	changed   chan struct{}
	lies      map[[2]string]int // how many faults end the connections of the pair in order
	listeners map[string]*listener
	conns     map[*conn]struct{}
	dials     map[string]uint64
}

func newNetwork(s *sim) *network {
	return &network{s: s, cuts: map[[2]string]int{}, lies: map[[2]string]int{}, rejects: map[[2]string]int{}, changed: make(chan struct{}), listeners: map[string]*listener{}, conns: map[*conn]struct{}{}, dials: map[string]uint64{}}
}

func pair(a, b string) [2]string {
	if a > b {
		a, b = b, a
	}
	return [2]string{a, b}
}

func (n *network) reachable(a, b string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cuts[pair(a, b)] == 0
}

// change is closed when something may be reachable again, or no more.
func (n *network) change() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

func (n *network) noteChange() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// cut partitions pairs until the returned function is called.
func (n *network) cut(pairs ...[2]string) (heal func()) {
	add := func(d int) {
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, p := range pairs {
			n.cuts[p] += d
		}
		n.noteChange()
	}
	add(1)
	healLies := func() {}
	if n.s.plant.silenceEnds {
		healLies = n.lie(slices.DeleteFunc(slices.Clone(pairs), func(p [2]string) bool {
			return !strings.HasPrefix(p[0], "proxy") || !strings.HasPrefix(p[1], "sentinel")
		})...)
	}
	return func() { add(-1); healLies() }
}

// lie is a box between pairs that ends their connections with a FIN and refuses
// others until the returned function is called, though both ends live.
func (n *network) lie(pairs ...[2]string) (heal func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range pairs {
		n.lies[p]++
		for c := range n.conns {
			if pair(c.node, c.peer) == p && c.ended == nil {
				c.ended = io.EOF
				c.in.signal()
			}
		}
	}
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, p := range pairs {
			n.lies[p]--
		}
	}
}

func (n *network) lying(a, b string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lies[pair(a, b)] > 0
}

// A segment is bytes on their way, or the end of them.
type segment struct {
	at   time.Time
	data []byte
	err  error // io.EOF or a reset: nothing comes after it
}

// A half is one direction of a connection.
type half struct {
	queue  []segment
	last   time.Time
	some   chan struct{} // holds a token when the reader should look again
	closed bool          // the reader is gone
	dice   dice
}

func (h *half) signal() {
	select {
	case h.some <- struct{}{}:
	default:
	}
}

// conn is one end of a connection. Guarded by network.mu.
type conn struct {
	n          *network
	owner      *proc // nil: an instance or a client
	node, peer string
	in, out    *half
	closed     chan struct{}
	isClosed   bool
	noLinger   bool
	ended      error // what reading ended with
	within     time.Duration
}

func (n *network) pipe(a, b string, ownerA, ownerB *proc, d dice) (*conn, *conn) {
	ab := &half{some: make(chan struct{}, 1), dice: d.of("there")}
	ba := &half{some: make(chan struct{}, 1), dice: d.of("back")}
	x := &conn{n: n, owner: ownerA, node: a, peer: b, in: ba, out: ab, closed: make(chan struct{})}
	y := &conn{n: n, owner: ownerB, node: b, peer: a, in: ab, out: ba, closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns[x], n.conns[y] = struct{}{}, struct{}{}
	return x, y
}

// push is called with mu held.
func (c *conn) push(data []byte, err error) {
	h := c.out
	at := time.Now().Add(h.dice.between(100*time.Microsecond, 1500*time.Microsecond))
	if !at.After(h.last) {
		at = h.last.Add(1)
	}
	h.last = at
	h.queue = append(h.queue, segment{at: at, data: data, err: err})
	h.signal()
}

func (c *conn) Write(b []byte) (int, error) {
	if c.owner != nil {
		c.n.s.truth.carries(c)
		if !c.owner.gate() {
			return 0, errDead
		}
	}
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	switch {
	case c.isClosed:
		return 0, net.ErrClosed
	case c.ended != nil && !errors.Is(c.ended, io.EOF):
		return 0, c.ended
	case c.out.closed:
		if c.n.cuts[pair(c.node, c.peer)] == 0 {
			return 0, syscall.ECONNRESET
		}
		return len(b), nil // into the void
	}
	c.push(append([]byte(nil), b...), nil)
	return len(b), nil
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.read(b)
	if c.owner != nil && !c.owner.gate() {
		return 0, errDead
	}
	return n, err
}

func (c *conn) read(b []byte) (int, error) {
	n := c.n
	var limit <-chan time.Time
	if c.within != 0 {
		t := time.NewTimer(c.within)
		defer t.Stop()
		limit = t.C
	}
	blocked := false
	for {
		n.mu.Lock()
		switch {
		case c.isClosed:
			n.mu.Unlock()
			return 0, net.ErrClosed
		case c.ended != nil:
			n.mu.Unlock()
			return 0, c.ended
		}
		var arrive <-chan time.Time
		var timer *time.Timer
		changed := n.changed
		if len(c.in.queue) > 0 {
			head := &c.in.queue[0]
			path := n.cuts[pair(c.node, c.peer)] == 0
			if path && blocked {
				// What is repeated doesn't arrive the instant the path is back.
				blocked = false
				head.at = time.Now().Add(c.in.dice.between(5*time.Millisecond, 200*time.Millisecond))
			}
			switch left := time.Until(head.at); {
			case left > 0:
				timer = time.NewTimer(left)
				arrive = timer.C
			case !path:
				blocked = true
			case head.err != nil:
				c.ended = head.err
				n.mu.Unlock()
				return 0, head.err
			default:
				k := copy(b, head.data)
				if head.data = head.data[k:]; len(head.data) == 0 {
					c.in.queue = c.in.queue[1:]
				}
				n.mu.Unlock()
				return k, nil
			}
		}
		if !blocked {
			changed = nil
		}
		n.mu.Unlock()
		var err error
		select {
		case <-arrive:
		case <-c.in.some:
		case <-changed:
		case <-c.closed:
		case <-limit:
			err = errTimeout
		}
		if timer != nil {
			timer.Stop()
		}
		if err != nil {
			return 0, err
		}
	}
}

var errTimeout = errors.New("i/o timeout")

func (c *conn) SetLinger(sec int) error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.noLinger = sec == 0
	return nil
}

func (c *conn) CloseWrite() error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if c.isClosed {
		return net.ErrClosed
	}
	c.push(nil, io.EOF)
	return nil
}

func (c *conn) Close() error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if c.isClosed {
		return net.ErrClosed
	}
	c.isClosed = true
	close(c.closed)
	c.in.closed = true
	delete(c.n.conns, c)
	if c.noLinger {
		if c.n.cuts[pair(c.node, c.peer)] > 0 {
			c.out.queue = nil // never left this host
		}
		c.push(nil, syscall.ECONNRESET)
	} else {
		c.push(nil, io.EOF)
	}
	return nil
}

func (c *conn) LocalAddr() net.Addr              { return addr(c.node) }
func (c *conn) RemoteAddr() net.Addr             { return addr(c.peer) }
func (c *conn) SetDeadline(time.Time) error      { return nil }
func (c *conn) SetReadDeadline(time.Time) error  { return nil }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

type addr string

func (a addr) Network() string { return "sim" }
func (a addr) String() string  { return string(a) }

type listener struct {
	n       *network
	owner   *proc
	address string
	backlog chan *conn
	closed  chan struct{}
	once    sync.Once
}

func (n *network) listen(p *proc, address string) (net.Listener, error) {
	if !p.gate() {
		return nil, errDead
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[address] != nil {
		return nil, fmt.Errorf("listen %s: %w", address, syscall.EADDRINUSE)
	}
	l := &listener{n: n, owner: p, address: address, backlog: make(chan *conn, 64), closed: make(chan struct{})}
	n.listeners[address] = l
	return l, nil
}

func (l *listener) Accept() (net.Conn, error) {
	var c *conn
	select {
	case c = <-l.backlog:
	case <-l.closed:
	}
	if !l.owner.gate() {
		return nil, net.ErrClosed
	}
	select {
	case <-l.closed:
		if c != nil {
			c.Close()
		}
		return nil, net.ErrClosed
	default:
	}
	return c, nil
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.n.mu.Lock()
		if l.n.listeners[l.address] == l {
			delete(l.n.listeners, l.address)
		}
		l.n.mu.Unlock()
		close(l.closed)
		for {
			select {
			case c := <-l.backlog:
				c.Close()
				continue
			default:
			}
			break
		}
	})
	return nil
}

func (l *listener) Addr() net.Addr { return addr(l.address) }

// dial connects node with whoever listens on the address of peer. p may be nil.
func (n *network) dial(ctx context.Context, p *proc, node, peer, address string) (*conn, error) {
	if p == nil {
		return n.connect(ctx, p, node, peer, address)
	}
	if !p.gate() {
		return nil, errDead
	}
	c, err := n.connect(ctx, p, node, peer, address)
	if !p.gate() {
		return nil, errDead
	}
	return c, err
}

func (n *network) connect(ctx context.Context, p *proc, node, peer, address string) (*conn, error) {
	who := node
	if p != nil {
		who = p.id
	}
	n.mu.Lock()
	n.dials[who]++
	d := n.s.dice.of(fmt.Sprintf("dial %s %d", who, n.dials[who]))
	n.mu.Unlock()
	wait := d.between(200*time.Microsecond, 2*time.Millisecond)
	for {
		if err := sleep(ctx, wait); err != nil {
			return nil, err
		}
		changed := n.change()
		if n.lying(node, peer) {
			return nil, fmt.Errorf("dial %s: %w", address, syscall.ECONNREFUSED)
		}
		if n.reachable(node, peer) {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		wait = d.between(5*time.Millisecond, 200*time.Millisecond)
	}
	n.mu.Lock()
	l := n.listeners[address]
	rejected := n.rejects[pair(node, peer)] > 0
	n.mu.Unlock()
	if rejected {
		return nil, fmt.Errorf("dial %s: %w", address, syscall.ECONNREFUSED)
	}
	if l != nil {
		a, b := n.pipe(node, peer, p, l.owner, d)
		select {
		case <-l.closed:
		default:
			select {
			case l.backlog <- b:
				return a, nil
			default:
			}
		}
		a.Close()
		b.Close()
	} else if i := n.s.world.At(address); i != nil {
		a, b := n.pipe(node, peer, p, nil, d)
		i.Serve(b, fmt.Sprintf("backend %s %d", who, d))
		return a, nil
	}
	return nil, fmt.Errorf("dial %s: %w", address, syscall.ECONNREFUSED)
}

// closeOf closes what the kernel closes when the process ends.
func (n *network) closeOf(p *proc) {
	n.mu.Lock()
	var conns []*conn
	for c := range n.conns {
		if c.owner == p {
			conns = append(conns, c)
		}
	}
	var ls []*listener
	for _, l := range n.listeners {
		if l.owner == p {
			ls = append(ls, l)
		}
	}
	n.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	for _, l := range ls {
		l.Close()
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
