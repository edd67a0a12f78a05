// Package proxy is the loop around proxy/decide and proxy/forward: it reads
// the cluster data, cuts and leads clients accordingly, and promises what it
// did in its ProxyInfo.
//
// Its one promise holds the cluster together: past ProxyTimeout after its last
// successful check it forwards nothing. A successful check is one store
// transaction that publishes the promise only if the cluster data is still the
// one applied, and the time counts from when that was sent (protocols.md P1,
// P2). Everything else here only takes permission away.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"stolon/internal/cluster"
	"stolon/internal/proxy/decide"
	"stolon/internal/proxy/forward"
	"stolon/internal/store"
)

const (
	// retryAfter is the pause after a failed check.
	retryAfter = time.Second
	// goodbye bounds the leave-taking at the end of Run.
	goodbye = 2 * time.Second
	// conflicts is how often one check starts over because the cluster data
	// changed under it.
	conflicts = 10
)

// Proxy is one proxy process.
type Proxy struct {
	o   Options
	log *zap.Logger
	fwd *forward.Forwarder

	// The loop's own state.
	known    bool  // the cluster data was read at least once
	revision int64 // of the cluster data applied
	result   decide.Result
	target   string        // result's address, resolved; "" nowhere
	interval time.Duration // of the checks
	timeout  time.Duration // last promised
	lease    store.Lease
	leaseTTL time.Duration
	failing  bool
	told     string

	checkAt time.Duration

	mu       sync.Mutex
	listener net.Listener
	serving  sync.WaitGroup
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
	}
	if o.Listen == nil {
		o.Listen = func(ctx context.Context, address string) (net.Listener, error) {
			return (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		}
	}
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}
	}
	if o.Resolve == nil {
		o.Resolve = resolve
	}
	def := (*cluster.Spec)(nil).Settings()
	p := &Proxy{
		o: o, log: o.Log,
		fwd:      forward.New(forward.Options{Clock: o.Clock, Dial: o.Dial, KeepAlive: o.KeepAlive, Log: o.Log}),
		interval: def.ProxyCheckInterval.Duration,
		timeout:  def.ProxyTimeout.Duration,
	}
	if err := p.register(o.Metrics); err != nil {
		return nil, fmt.Errorf("proxy: metrics: %w", err)
	}
	return p, nil
}

func resolve(ctx context.Context, host string) (string, error) {
	if net.ParseIP(host) != nil {
		return host, nil
	}
	addrs, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return "", err
	}
	return addrs[0], nil
}

// Run forwards until ctx ends, and returns nil once every connection is closed
// and the proxy's key withdrawn.
func (p *Proxy) Run(ctx context.Context) error {
	p.log.Info("proxy uid", zap.String("uid", p.o.UID))
	changes := p.o.Store.Watch(ctx, p.o.Store.ClusterDataKey())
	defer p.leave()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case ch, ok := <-changes:
			if !ok {
				return nil
			}
			p.take(ctx, ch)
		case <-timer.C:
		}
		p.drain(ctx, changes)
		if p.o.Clock() >= p.checkAt {
			p.step(ctx)
		}
		timer.Reset(max(0, p.checkAt-p.o.Clock()))
	}
}

// drain takes in what else has come, so that it doesn't matter which of
// several wake-ups was taken first.
func (p *Proxy) drain(ctx context.Context, changes <-chan store.Change) {
	for {
		select {
		case ch, ok := <-changes:
			if !ok {
				return
			}
			p.take(ctx, ch)
		default:
			return
		}
	}
}

// take looks at a change that the watch saw. It can only take permission away;
// what it may give, the check that follows at once gives.
func (p *Proxy) take(ctx context.Context, ch store.Change) {
	var value *store.KV
	for i, kv := range ch.Puts {
		if kv.Key == p.o.Store.ClusterDataKey() {
			value = &ch.Puts[i]
		}
	}
	switch {
	case value == nil && (ch.Reset || len(ch.Deletes) > 0):
		p.checkAt = p.o.Clock() // gone, or a first look at nothing: read it
	case value != nil && value.Revision > p.revision:
		r := p.look(value)
		if r.Route != p.result.Route {
			p.cut(r)
		}
		p.checkAt = p.o.Clock()
	}
}

// step does one check.
func (p *Proxy) step(ctx context.Context) {
	start := p.o.Clock()
	err := p.check(ctx)
	if err == nil {
		p.checkAt = start + p.interval
		if p.failing {
			p.log.Info("check function succeeds again")
		}
		p.failing = false
		return
	}
	p.checkAt = min(start+p.interval, p.o.Clock()+retryAfter)
	if !p.failing && ctx.Err() == nil {
		p.log.Error("check function error", zap.Error(err))
	}
	p.failing = true
}

// check brings the proxy in line with the cluster data and renews its promise.
func (p *Proxy) check(ctx context.Context) error {
	if !p.known || !p.result.Publish {
		// Nothing that a transaction could compare with: look for oneself.
		sent := p.o.Clock()
		if err := p.read(ctx); err != nil {
			return err
		}
		if err := p.listen(ctx); err != nil {
			return err
		}
		if !p.result.Publish {
			if !p.result.Good {
				return errors.New(p.result.Why)
			}
			p.fwd.Extend(sent+p.timeout, p.expired)
			return nil
		}
	}
	for range conflicts {
		done, err := p.promise(ctx)
		if err != nil {
			return err
		}
		if done {
			return p.listen(ctx)
		}
		if err := p.read(ctx); err != nil {
			return err
		}
		if !p.result.Publish {
			return errors.New(p.result.Why)
		}
	}
	return errors.New("cluster data changes faster than it can be applied")
}

// call bounds one store call.
func (p *Proxy) call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, p.o.StoreTimeout)
}

// read reads the cluster data and applies it: what has to be cut is cut when
// it returns.
func (p *Proxy) read(ctx context.Context) error {
	cctx, cancel := p.call(ctx)
	defer cancel()
	kv, err := p.o.Store.Get(cctx, p.o.Store.ClusterDataKey())
	if err != nil {
		return fmt.Errorf("cannot get cluster data: %w", err)
	}
	if kv != nil && kv.Revision < p.revision && p.o.Clock() < p.fwd.Deadline() {
		// A restored store is followed only once nothing depends on the old one.
		return errors.New("cannot get cluster data: the store went back in time")
	}
	r := p.look(kv)
	if r.Route != p.result.Route {
		p.cut(r)
	}
	p.known, p.result, p.revision = true, r, 0
	if kv != nil {
		p.revision = kv.Revision
	}
	p.tell(r)
	return p.resolve(cctx)
}

// look decides from the stored cluster data, nil when there is none.
func (p *Proxy) look(kv *store.KV) decide.Result {
	if kv == nil {
		return decide.Look(nil, nil, p.o.UID)
	}
	cd, err := store.DecodeClusterData(kv.Value)
	if err == nil && cd != nil {
		err = cd.Check()
	}
	if err != nil {
		p.log.Debug("cluster data can't be used", zap.Error(err))
	}
	return decide.Look(cd, err, p.o.UID)
}

// cut ends the present route because r has another one.
func (p *Proxy) cut(r decide.Result) {
	p.fwd.Cut()
	p.target = ""
	p.result.Route = decide.Route{}
	p.told = ""
	if r.Route.Address == "" {
		p.tell(r)
	}
}

// resolve finds the address of the route, once per route. A name that can't be
// resolved leads nowhere, and nothing is promised until it can.
func (p *Proxy) resolve(ctx context.Context) error {
	address := p.result.Route.Address
	if address == "" || p.target != "" {
		return nil
	}
	host, port, err := net.SplitHostPort(address)
	if err == nil {
		host, err = p.o.Resolve(ctx, host)
	}
	if err != nil {
		p.fwd.Cut()
		p.known = false
		return fmt.Errorf("cannot resolve db address %s: %w", address, err)
	}
	p.target = net.JoinHostPort(host, port)
	return nil
}

// promise publishes the ProxyInfo if the cluster data is still the applied one,
// and only then leads on. It reports false when it isn't.
func (p *Proxy) promise(ctx context.Context) (bool, error) {
	// The promise is never shorter than the one before, which may still be
	// what the sentinel knows.
	timeout := max(p.timeout, p.result.Timeout)
	if err := p.renew(ctx, max(2*timeout, store.MinTTL)); err != nil {
		return false, fmt.Errorf("failed to update proxyInfo: %w", err)
	}
	info := cluster.ProxyInfo{
		InfoUID: p.o.NewUID(), UID: p.o.UID, Generation: p.result.Generation, ProxyTimeout: timeout,
		Features: []cluster.Feature{cluster.AtomicCheck},
	}
	cctx, cancel := p.call(ctx)
	defer cancel()
	sent := p.o.Clock()
	_, err := p.o.Store.Commit(cctx,
		[]store.Condition{{Key: p.o.Store.ClusterDataKey(), Revision: p.revision}},
		[]store.Op{{Key: p.o.Store.ProxyKey(p.o.UID), Value: store.Encode(info), Lease: p.lease}})
	switch {
	case errors.Is(err, store.ErrConflict):
		return false, nil
	case errors.Is(err, store.ErrLeaseLost):
		p.lease = nil
		return false, fmt.Errorf("failed to update proxyInfo: %w", err)
	case err != nil:
		return false, fmt.Errorf("failed to update proxyInfo: %w", err)
	}
	p.fwd.Extend(sent+timeout, p.expired)
	p.interval, p.timeout = p.result.Interval, p.result.Timeout
	p.fwd.Lead(p.target)
	return true, nil
}

// renew makes the lease good for ttl from now. There is no keep-alive in the
// background: a stuck proxy must go silent (protocols.md P6).
func (p *Proxy) renew(ctx context.Context, ttl time.Duration) error {
	cctx, cancel := p.call(ctx)
	defer cancel()
	if p.lease != nil && p.leaseTTL == ttl {
		err := p.lease.Renew(cctx)
		if !errors.Is(err, store.ErrLeaseLost) {
			return err
		}
	}
	lease, err := p.o.Store.Grant(cctx, ttl)
	if err != nil {
		return err
	}
	p.lease, p.leaseTTL = lease, ttl
	return nil
}

// listen opens the listening socket if it isn't open.
func (p *Proxy) listen(ctx context.Context) error {
	p.mu.Lock()
	open := p.listener != nil
	p.mu.Unlock()
	if open {
		return nil
	}
	address := net.JoinHostPort(p.o.ListenAddress, p.o.Port)
	l, err := p.o.Listen(ctx, address)
	if err != nil {
		return fmt.Errorf("listen on %s (--listen-address, --port): %w", address, err)
	}
	p.log.Info("Starting proxying", zap.String("address", address))
	p.mu.Lock()
	p.listener = l
	p.mu.Unlock()
	p.serving.Go(func() { p.fwd.Serve(l) })
	return nil
}

// expired is called when the deadline has passed and everything is cut.
func (p *Proxy) expired() {
	p.log.Warn("check timeout timer fired")
	if p.o.StopListening {
		p.stopListening()
	}
}

func (p *Proxy) stopListening() {
	p.mu.Lock()
	l := p.listener
	p.listener = nil
	p.mu.Unlock()
	if l != nil {
		p.log.Info("Stopping listening")
		l.Close()
	}
}

// tell logs the route when it changed.
func (p *Proxy) tell(r decide.Result) {
	now := r.Why + "\x00" + r.Route.DB + "\x00" + r.Route.Address
	if now == p.told {
		return
	}
	p.told = now
	if r.Why != "" {
		p.log.Info(r.Why)
		return
	}
	p.log.Info("proxying to master address", zap.String("db", r.Route.DB), zap.String("address", r.Route.Address))
}

// leave closes everything first; only then may the sentinel forget this proxy.
func (p *Proxy) leave() {
	p.stopListening()
	p.fwd.Close()
	p.serving.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	if p.lease != nil {
		if err := p.lease.Revoke(ctx); err != nil {
			p.log.Debug("could not withdraw the proxy info, it expires", zap.Error(err))
		}
	}
}

func (p *Proxy) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	for _, g := range []struct {
		name, help string
		value      func() float64
	}{
		{"stolon_proxy_connections", "Client connections being served.", func() float64 { return float64(p.fwd.Open()) }},
		{"stolon_proxy_connections_accepted_total", "Client connections accepted.", func() float64 { return float64(p.fwd.Accepted.Load()) }},
		{"stolon_proxy_connections_cut_total", "Client connections cut because the route ended.", func() float64 { return float64(p.fwd.CutOff.Load()) }},
		{"stolon_proxy_deadline_seconds", "Seconds left until this proxy cuts all unless a check succeeds.", func() float64 { return (p.fwd.Deadline() - p.o.Clock()).Seconds() }},
	} {
		if err := r.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: g.name, Help: g.help}, g.value)); err != nil {
			return err
		}
	}
	return nil
}
