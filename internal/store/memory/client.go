package memory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"stolon/internal/store"
)

// DefaultTimeout is the longest that one request takes.
const DefaultTimeout = 5 * time.Second

// retryWatch is how long a watch waits before it tries to begin again.
const retryWatch = 500 * time.Millisecond

// A Kind is what a request asks for.
type Kind string

const (
	Get    Kind = "get"
	List   Kind = "list" // Leader too
	Commit Kind = "commit"
	Grant  Kind = "grant"
	Renew  Kind = "renew"
	Revoke Kind = "revoke"
	// Watch begins a watch, or begins it again after a break: a snapshot.
	Watch Kind = "watch"
	// Event is one delivery of a watch, which has only a Before: an error
	// breaks the watch, and a Watch follows.
	Event Kind = "event"
)

// A Stage is when a hook is called.
type Stage int

const (
	Before Stage = iota // the server has not seen the request
	After               // the server has done it; the client has no answer yet
)

// A Request is one message from a client to the server. A Campaign is a Grant,
// a Commit and a Watch.
type Request struct {
	Client string
	Kind   Kind
	Key    string // or prefix; of the first op of a commit; "" for leases
	// N counts the client's requests of this kind and key from 1. Hooks run
	// at the same instant in any order, so a repeatable run draws each delay
	// from (seed, Client, Kind, Key, N, Stage), not from a shared sequence.
	N     int
	Stage Stage
	Conds []store.Condition // of a commit
	Ops   []store.Op        // of a commit
	Err   error             // of stage After: what the server says
}

// A Hook is called around every request of a client. It may wait (until ctx
// ends, at the latest). An error from Before means the request never reached
// the server, unless it is a Late; one from After means that the answer was
// lost. Those errors are what the caller gets. ctx has the request's timeout,
// or for an Event none.
type Hook func(ctx context.Context, r Request) error

// writes reports whether the request changes the server.
func (r Request) writes() bool {
	return r.Kind == Commit || r.Kind == Grant || r.Kind == Renew || r.Kind == Revoke
}

// Late, as an error of stage Before, lets the caller fail now and a request
// that writes be done all the same, After that time: a message that was under
// way.
type Late struct{ After time.Duration }

func (l Late) Error() string { return fmt.Sprintf("no answer yet, arrives in %s", l.After) }

// A Client is one process's access to a Server.
type Client struct {
	server  *Server
	name    string
	hook    Hook
	timeout time.Duration

	mu     sync.Mutex
	counts map[string]int
	closed bool
	ends   map[int]context.CancelFunc // of the background work
	nextID int
	wg     sync.WaitGroup
}

var _ store.Backend = (*Client)(nil)

// Client returns a client that calls itself name and passes every request
// through hook, which may be nil.
func (s *Server) Client(name string, hook Hook) *Client {
	return &Client{
		server: s, name: name, hook: hook, timeout: DefaultTimeout,
		counts: map[string]int{}, ends: map[int]context.CancelFunc{},
	}
}

// SetTimeout changes the request timeout; before the first request only.
func (c *Client) SetTimeout(d time.Duration) { c.timeout = d }

// request passes r through the hook, does it, and passes it again.
func (c *Client) request(ctx context.Context, r Request, do func() error) error {
	if err := ctx.Err(); err != nil {
		return c.failed(r, err) // not counted: whether it comes at all is often chance
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	c.number(&r)
	if err := c.call(ctx, r); err != nil {
		var late Late
		if errors.As(err, &late) && r.writes() {
			time.AfterFunc(late.After, func() { _ = do() })
		}
		return c.failed(r, err)
	}
	r.Err = do()
	r.Stage = After
	if err := c.call(ctx, r); err != nil {
		return c.failed(r, err)
	}
	if r.Err != nil {
		return c.failed(r, r.Err)
	}
	return nil
}

func (c *Client) call(ctx context.Context, r Request) error {
	if c.hook != nil {
		if err := c.hook(ctx, r); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (c *Client) number(r *Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.Client = c.name
	id := string(r.Kind) + " " + r.Key
	c.counts[id]++
	r.N = c.counts[id]
}

func (c *Client) failed(r Request, err error) error {
	return fmt.Errorf("memory store: %s %s: %w", r.Kind, r.Key, err)
}

// Get implements store.Backend.
func (c *Client) Get(ctx context.Context, key string) (*store.KV, error) {
	var kv *store.KV
	err := c.request(ctx, Request{Kind: Get, Key: key}, func() error {
		kv = c.server.get(key)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return kv, nil
}

// List implements store.Backend.
func (c *Client) List(ctx context.Context, prefix string) (store.Snapshot, error) {
	var snap store.Snapshot
	err := c.request(ctx, Request{Kind: List, Key: prefix}, func() error {
		snap = c.server.list(prefix)
		return nil
	})
	if err != nil {
		return store.Snapshot{}, err
	}
	return snap, nil
}

// Commit implements store.Backend.
func (c *Client) Commit(ctx context.Context, conds []store.Condition, ops []store.Op) (int64, error) {
	r := Request{Kind: Commit, Conds: conds, Ops: ops}
	if len(ops) > 0 {
		r.Key = ops[0].Key
	}
	var rev atomic.Int64 // a Late commit may still write it after the return
	err := c.request(ctx, r, func() error {
		n, err := c.server.commit(conds, ops)
		rev.Store(n)
		return err
	})
	if err != nil {
		return 0, err
	}
	return rev.Load(), nil
}

// Grant implements store.Backend.
func (c *Client) Grant(ctx context.Context, ttl time.Duration) (store.Lease, error) {
	l, err := c.grant(ctx, ttl)
	if err != nil {
		return nil, err
	}
	return l, nil
}

func (c *Client) grant(ctx context.Context, ttl time.Duration) (*clientLease, error) {
	if ttl <= 0 {
		return nil, fmt.Errorf("memory store: grant: ttl %s is not positive", ttl)
	}
	var id atomic.Int64
	err := c.request(ctx, Request{Kind: Grant}, func() error {
		id.Store(c.server.grant(ttl))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &clientLease{c: c, id: id.Load()}, nil
}

type clientLease struct {
	c  *Client
	id int64
}

func (l *clientLease) Renew(ctx context.Context) error {
	return l.c.request(ctx, Request{Kind: Renew}, func() error { return l.c.server.renew(l.id) })
}

func (l *clientLease) Revoke(ctx context.Context) error {
	return l.c.request(ctx, Request{Kind: Revoke}, func() error {
		l.c.server.revoke(l.id)
		return nil
	})
}

// Watch implements store.Backend.
func (c *Client) Watch(ctx context.Context, prefix string) <-chan store.Change {
	out := make(chan store.Change, 1)
	started := c.background(ctx, func(ctx context.Context) {
		defer close(out)
		for ctx.Err() == nil {
			c.watchOnce(ctx, prefix, out)
			wait(ctx, retryWatch)
		}
	})
	if !started {
		close(out)
	}
	return out
}

// watchOnce watches until ctx ends or the watch breaks.
func (c *Client) watchOnce(ctx context.Context, prefix string, out chan store.Change) {
	var w *watcher
	err := c.request(ctx, Request{Kind: Watch, Key: prefix}, func() error {
		w = c.server.watch(prefix)
		return nil
	})
	if w != nil {
		defer c.server.unwatch(w)
	}
	if err != nil {
		return
	}
	first := true // the answer to the Watch itself is no Event
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.some:
		}
		if !first {
			r := Request{Kind: Event, Key: prefix}
			c.number(&r)
			if c.call(ctx, r) != nil {
				return
			}
		}
		first = false
		if ch, some := c.server.take(w); some {
			store.Offer(out, ch)
		}
	}
}

// background runs f in a goroutine that Close ends and waits for. It reports
// false when the client is closed.
func (c *Client) background(ctx context.Context, f func(context.Context)) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	ctx, cancel := context.WithCancel(ctx)
	id := c.nextID
	c.nextID++
	c.ends[id] = cancel
	c.wg.Go(func() {
		f(ctx)
		cancel()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.ends, id)
	})
	return true
}

// Close implements store.Backend.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	for _, cancel := range c.ends {
		cancel()
	}
	c.mu.Unlock()
	c.wg.Wait()
	return nil
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
