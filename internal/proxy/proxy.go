// Package proxy is the loop around proxy/decide and proxy/forward: it reads
// the cluster data, cuts and leads clients accordingly, and promises what it
// did in its ProxyInfo.
//
// Its one promise holds the cluster together: past ProxyTimeout after its last
// successful check it forwards nothing. A successful check is one store
// transaction that publishes the promise only if the cluster data is still the
// one applied, and the time counts from when that was sent (protocols.md P1,
// P2). Everything else here only takes permission away.
//
// Start with Run. check.go is the check, serve.go the listening socket.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"stolon/internal/proxy/decide"
	"stolon/internal/proxy/forward"
	"stolon/internal/store"
)

const (
	// retryAfter is the longest pause after a failed check, and shortest the
	// shortest between any two, whatever the spec says.
	retryAfter = time.Second
	shortest   = 10 * time.Millisecond
	// noticePause lies between two publications of what was noticed of the master.
	noticePause = 100 * time.Millisecond
	// goodbye bounds the leave-taking at the end of Run.
	goodbye = 2 * time.Second
	// never is before the first good check.
	never = math.MinInt64
)

// Proxy is one proxy process.
type Proxy struct {
	o   Options
	log *zap.Logger
	fwd *forward.Forwarder

	// All below belongs to the goroutine of Run.

	// The cluster data applied. While known is false the store has to be asked
	// before anything can be held against it.
	known    bool
	revision int64
	result   decide.Result
	bad      error  // why it can't be used
	address  string // result's, resolved; "" not yet

	interval, timeout time.Duration // in force: those of the last good check
	lease             store.Held
	reads, writes     store.Patience // what a write takes says nothing of reads
	checkAt           time.Duration  // when the next check is due
	expired           bool           // no good check within the deadline; nothing flows
	failing           bool           // the last check failed
	told              string         // where clients are led, as last logged

	noticed   chan struct{} // holds a token when the forwarder noticed something of the master
	noticedAt time.Duration // when that was last published out of turn, or is to be

	stopServing func() // nil while not listening
	serving     sync.WaitGroup

	lastCheck atomic.Int64 // when the last good check was sent, for the metrics
}

// New checks the options.
func New(o Options) (*Proxy, error) {
	switch {
	case o.UID == "":
		return nil, errors.New("proxy: no UID")
	case o.Store == nil || o.Clock == nil || o.NewUID == nil || o.Log == nil:
		return nil, errors.New("proxy: Store, Clock, NewUID and Log are required")
	case o.StoreTimeout <= 0:
		return nil, errors.New("proxy: StoreTimeout must be positive")
	case o.HoldTimeout < 0:
		return nil, errors.New("proxy: HoldTimeout must not be negative")
	}
	if o.Listen == nil {
		o.Listen = listen
	}
	if o.Dial == nil {
		o.Dial = dial
	}
	if o.Resolve == nil {
		o.Resolve = resolve
	}
	defaults := decide.Look(nil, nil, o.UID)
	noticed := make(chan struct{}, 1)
	p := &Proxy{
		o: o, log: o.Log, noticed: noticed,
		fwd: forward.New(forward.Options{
			Clock: o.Clock, Dial: o.Dial, KeepAlive: o.KeepAlive, HoldTimeout: o.HoldTimeout, Log: o.Log,
			Noticed: func() {
				select {
				case noticed <- struct{}{}:
				default:
				}
			},
		}),
		interval: defaults.Interval,
		timeout:  defaults.Timeout,
		expired:  true,
	}
	p.reads.Timeout, p.writes.Timeout = o.StoreTimeout, o.StoreTimeout
	p.lastCheck.Store(never)
	if err := p.register(o.Metrics); err != nil {
		return nil, fmt.Errorf("proxy: metrics: %w", err)
	}
	return p, nil
}

// Run forwards until ctx ends, and returns nil once every connection is closed
// and the proxy's key withdrawn.
func (p *Proxy) Run(ctx context.Context) error {
	p.log.Info("proxy uid", zap.String("uid", p.o.UID))
	changes := p.o.Store.Watch(ctx, p.o.Store.ClusterDataKey())
	defer p.leave()
	p.checkAt = p.o.Clock()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
		case ch, ok := <-changes:
			if ok {
				p.take(ch)
			}
		case <-p.noticed:
			p.notice()
		case <-timer.C:
		}
		// What else has come is looked at too, so that it doesn't matter which
		// of several wake-ups was taken first.
		open := p.drain(changes)
		if !open || ctx.Err() != nil {
			return nil
		}
		p.watchdog()
		if p.o.Clock() >= p.checkAt {
			p.step(ctx)
		}
		timer.Reset(p.next() - p.o.Clock())
	}
}

// drain takes in what has come. It reports false at the end of the watch,
// which is the end of the store.
func (p *Proxy) drain(changes <-chan store.Change) bool {
	for {
		select {
		case ch, ok := <-changes:
			if !ok {
				return false
			}
			p.take(ch)
		case <-p.noticed:
			p.notice()
		default:
			return true
		}
	}
}

// notice has what the forwarder noticed of the master published at once, or, if
// that was done just before, after a pause. Of a busy master there is news with
// every chunk of bytes: what is to be published already is not put off by more.
func (p *Proxy) notice() {
	switch now := p.o.Clock(); {
	case p.noticedAt == 0 || now >= p.noticedAt+noticePause:
		p.noticedAt = now
	case now >= p.noticedAt:
		p.noticedAt += noticePause
	}
	// Else it is to be published then already: news that comes faster must not
	// put that off.
	p.checkAt = min(p.checkAt, p.noticedAt)
}

// take applies a change that the watch saw and has it checked at once. That
// can only take permission away: nothing new is led to, and no deadline moves,
// before the transaction has compared the revision.
func (p *Proxy) take(ch store.Change) {
	key := p.o.Store.ClusterDataKey()
	i := slices.IndexFunc(ch.Puts, func(kv store.KV) bool { return kv.Key == key })
	switch {
	case i >= 0 && ch.Puts[i].Revision > p.revision:
		p.apply(&ch.Puts[i])
		p.checkAt = p.o.Clock()
	case i < 0 && p.revision > 0 && (ch.Reset || slices.Contains(ch.Deletes, key)):
		p.known = false
		p.checkAt = p.o.Clock()
	}
}

// next is when the loop has something to do unless it is woken before.
func (p *Proxy) next() time.Duration {
	if p.expired {
		return p.checkAt
	}
	return min(p.checkAt, p.fwd.Deadline())
}

// watchdog notices that the deadline has passed. No byte flows any more, the
// forwarder sees to that; the listening socket is closed so that load
// balancers take this proxy out.
func (p *Proxy) watchdog() {
	if p.expired || p.fwd.InTime() {
		return
	}
	p.expired = true
	p.fwd.Cut()
	p.told = ""
	p.log.Warn("check timeout timer fired")
	if p.o.StopListening {
		p.stopListening()
	}
}

// step does one check.
func (p *Proxy) step(ctx context.Context) {
	start := p.o.Clock()
	err := p.check(ctx)
	p.checkAt = start + max(p.interval, shortest)
	switch {
	case err == nil && p.failing:
		p.log.Info("check function succeeds again")
	case err != nil && !p.failing && ctx.Err() == nil:
		p.log.Error("check function error", zap.Error(err))
	}
	p.failing = err != nil
	if p.failing {
		p.checkAt = min(p.checkAt, p.o.Clock()+retryAfter)
	}
}

// tell logs what became of the clients' route, once.
func (p *Proxy) tell(level zapcore.Level, what string, fields ...zap.Field) {
	now := fmt.Sprint(what, p.result.Route)
	if now == p.told {
		return
	}
	p.told = now
	fields = append([]zap.Field{zap.String("db", p.result.Route.DB), zap.String("address", p.result.Route.Address)}, fields...)
	p.log.Log(level, what, fields...)
}

// leave closes everything first; only then may the sentinel forget this proxy.
func (p *Proxy) leave() {
	p.stopListening()
	p.fwd.Cut()
	p.serving.Wait()
	p.fwd.Close()
	ctx, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	if err := p.lease.Revoke(ctx); err != nil {
		p.log.Debug("could not withdraw the proxy info, it expires", zap.Error(err))
	}
}
