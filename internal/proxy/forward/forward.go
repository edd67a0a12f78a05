// Package forward moves bytes between clients and the master, and stops moving
// them: it is the fence of a cluster. A connection may carry bytes only while
// the route that it was made for is the present one and the deadline of the
// last successful check has not passed; both are looked at between every read
// and its write, because after a pause of the process nothing else runs in
// time (protocols.md P3 to P5).
//
// It knows nothing of the store, and of PostgreSQL only how a session begins
// and how a client is refused (startup.go). Start with Forwarder, the route and
// its end; conn.go is one client, hold.go how it waits while there is no master,
// open.go what happens until the master has answered it, refuse.go how it is
// told, suspect.go what is noticed of the master meanwhile.
package forward

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"stolon/internal/clock"
)

const (
	// dialTimeout is how long a client waits for a master that doesn't answer.
	dialTimeout = 5 * time.Second
	// halfOpen is how long a client may go on sending after its master has
	// ended, as long as Linux keeps such a socket.
	halfOpen = time.Minute
	// shortPause and longPause bound the wait after an accept error, such as
	// too many open files.
	shortPause, longPause = 5 * time.Millisecond, time.Second
)

// Options is what a Forwarder needs.
type Options struct {
	Clock     clock.Clock
	Dial      func(ctx context.Context, address string) (net.Conn, error)
	KeepAlive net.KeepAliveConfig // of client connections
	// HoldTimeout is how long a client waits while there is no master that can
	// be reached; 0 not at all.
	HoldTimeout time.Duration
	// Noticed, unless nil, is called when Suspect changes. It must not wait.
	Noticed func()
	Log     *zap.Logger
}

// Forwarder leads clients to one address, or nowhere.
type Forwarder struct {
	o        Options
	epoch    atomic.Uint64 // raised by every cut
	deadline atomic.Int64  // by o.Clock; nothing flows from then on

	mu      sync.Mutex
	target  string        // "" nowhere
	changed chan struct{} // closed and replaced when target or state changes, and by a cut
	pairs   map[*pair]struct{}
	held    int    // clients that wait for a master
	last    uint64 // number of the newest pair
	timer   *time.Timer
	group   sync.WaitGroup // every goroutine, and the timer while it is armed
	closing chan struct{}  // closed by Close: nobody waits any more

	accepted, cutOff atomic.Int64

	// What is known of the target; see suspect.go.
	probing  bool
	state    state        // whether it accepts clients
	suspects atomic.Bool  // it refuses connections
	seen     atomic.Int64 // when it last lived; 0: not since it is the target
}

// New returns a Forwarder that leads nowhere.
func New(o Options) *Forwarder {
	return &Forwarder{o: o, pairs: map[*pair]struct{}{}, changed: make(chan struct{}), closing: make(chan struct{})}
}

// Open counts the connections that are being served, Accepted those ever
// accepted, and CutOff those of them that a cut or the deadline ended.
func (f *Forwarder) Open() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.pairs)
}

// Held counts the clients that wait for a master.
func (f *Forwarder) Held() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held
}

func (f *Forwarder) Accepted() int64 { return f.accepted.Load() }
func (f *Forwarder) CutOff() int64   { return f.cutOff.Load() }

// Target returns where new clients are led, "" for nowhere.
func (f *Forwarder) Target() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.target
}

// Deadline returns until when, by the clock, bytes may flow.
func (f *Forwarder) Deadline() time.Duration { return time.Duration(f.deadline.Load()) }

// InTime reports whether bytes may flow. It reads the deadline before the
// clock, so a pause in between errs on the safe side.
func (f *Forwarder) InTime() bool {
	deadline := f.Deadline()
	return f.o.Clock() < deadline
}

// Lead makes address the target of new clients, and until the deadline of all.
// It cuts first if the target was another one, and if the last deadline has
// passed: what should have been cut then must not come to life again.
func (f *Forwarder) Lead(address string, until time.Duration) {
	if f.Target() != address || !f.InTime() {
		f.Cut()
	}
	now := f.o.Clock()
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := f.target != address
	if changed {
		f.unknow()
	}
	f.target = address
	f.arm(until, now)
	// Only once the deadline is the new one: who wakes looks at it.
	if changed {
		f.wake()
	}
}

// Shorten brings the deadline forward to until, unless it is earlier already.
func (f *Forwarder) Shorten(until time.Duration) {
	now := f.o.Clock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if until < f.Deadline() {
		f.arm(until, now)
	}
}

// arm sets the deadline and the timer that cuts then. It is called with mu held,
// and so doesn't read the clock itself: in the simulator that takes as long as
// the process is stopped.
func (f *Forwarder) arm(until, now time.Duration) {
	f.deadline.Store(int64(until))
	f.disarm()
	f.group.Add(1)
	f.timer = time.AfterFunc(max(until-now, time.Millisecond), f.ring)
}

func (f *Forwarder) disarm() {
	if f.timer != nil && f.timer.Stop() {
		f.group.Done()
	}
}

// ring cuts, if the deadline is still the one that the timer was armed for.
// The timer's clock is not o.Clock: it may stand still while that one goes on,
// which is why it is not relied upon, and it may be ahead.
func (f *Forwarder) ring() {
	defer f.group.Done()
	now := f.o.Clock()
	if !f.cut(func() bool { return now >= f.Deadline() }) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.arm(f.Deadline(), now)
	}
}

// wake lets the clients that wait look again. It is called with mu held.
func (f *Forwarder) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// Cut closes every connection and leads nowhere; clients that wait for a master
// go on waiting. When it returns no byte of an
// old connection will be passed on any more, and a dial under way will come to
// nothing. Sockets are reset rather than closed in order: an acknowledgement
// not yet sent must not reach the client, nor a request the old master.
func (f *Forwarder) Cut() {
	f.cut(func() bool { return true })
}

// cut cuts if it is due, which it reports.
func (f *Forwarder) cut(due func() bool) bool {
	f.mu.Lock()
	if !due() {
		f.mu.Unlock()
		return false
	}
	f.epoch.Add(1)
	f.target = ""
	f.unknow()
	f.wake()
	pairs := slices.SortedFunc(maps.Keys(f.pairs), func(a, b *pair) int { return cmp.Compare(a.number, b.number) })
	f.mu.Unlock()
	// Also those that another cut is closing just now: this one may be the one
	// after which the proxy publishes.
	for _, p := range pairs {
		p.reset()
	}
	return true
}

// Close cuts, refuses the clients that wait, and waits for every goroutine of
// the Forwarder to end. Every Serve must have returned.
func (f *Forwarder) Close() {
	close(f.closing)
	f.Cut()
	f.mu.Lock()
	f.disarm()
	f.deadline.Store(0)
	f.mu.Unlock()
	f.group.Wait()
}

// Serve accepts clients until l is closed; ctx ends just before. Errors of
// accept are waited out: existing connections are worth more than the new ones
// that can't be had.
func (f *Forwarder) Serve(ctx context.Context, l net.Listener) {
	pause := time.Duration(0)
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			if pause == longPause {
				f.o.Log.Info("connections can be accepted again")
			}
			pause = 0
			f.accepted.Add(1)
			f.group.Go(func() { f.serve(conn) })
			continue
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return
		case pause != longPause && 2*pause >= longPause:
			// Not one client that went away while it waited: it lasts.
			f.o.Log.Warn("cannot accept connections, trying on", zap.Error(err))
		}
		pause = min(max(2*pause, shortPause), longPause)
		wait(ctx, pause)
	}
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
