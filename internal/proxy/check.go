package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"go.uber.org/zap"

	"stolon/internal/cluster"
	"stolon/internal/proxy/decide"
	"stolon/internal/store"
)

// conflicts is how often one check starts over because the cluster data
// changed under it.
const conflicts = 10

// check brings the proxy in line with the cluster data and renews its promise.
// Only its success lets bytes flow, and the socket listen.
func (p *Proxy) check(ctx context.Context) error {
	for range conflicts {
		sent := p.o.Clock()
		if !p.settled() {
			if err := p.read(ctx); err != nil {
				return err
			}
		}
		if !p.result.Good {
			p.tell(zap.InfoLevel, p.result.Why)
			return fmt.Errorf("cannot use cluster data: %w", p.bad)
		}
		if !p.result.Publish {
			p.tell(zap.InfoLevel, p.result.Why)
			return p.good(ctx, "", sent, sent+p.timeout)
		}
		if err := p.resolve(ctx); err != nil {
			// There is nowhere to lead to and no generation that could be said
			// to be applied, but the store has answered: nobody is at risk.
			p.tell(zap.ErrorLevel, "cannot resolve db address", zap.Error(err))
			return p.good(ctx, "", sent, sent+p.timeout)
		}
		if p.result.Why != "" {
			p.tell(zap.InfoLevel, p.result.Why)
		}
		done, err := p.promise(ctx)
		if done || err != nil {
			return err
		}
		p.known = false
	}
	return errors.New("cluster data changes faster than it can be applied")
}

// settled reports whether the next thing to do is to publish. If not, the
// store has to be read: what has no generation, or none applied yet, no
// transaction can compare with.
func (p *Proxy) settled() bool {
	resolved := p.address != "" || p.result.Route.Address == ""
	return p.known && p.result.Publish && resolved
}

// good ends a check that succeeded.
func (p *Proxy) good(ctx context.Context, address string, sent, until time.Duration) error {
	p.fwd.Lead(address, until)
	p.expired = false
	p.lastCheck.Store(int64(sent))
	return p.listen(ctx)
}

// read reads the cluster data and applies it.
func (p *Proxy) read(ctx context.Context) error {
	var kv *store.KV
	err := p.reads.Ask(ctx, p.interval, func(ctx context.Context) (err error) {
		kv, err = p.o.Store.Get(ctx, p.o.Store.ClusterDataKey())
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot get cluster data: %w", err)
	}
	if kv != nil && kv.Revision < p.revision && p.fwd.InTime() {
		// A restored store is followed only once nothing depends on the old
		// one: the generation published must not go back before.
		return fmt.Errorf("cannot get cluster data: the store went back from revision %d to %d; was it restored?", p.revision, kv.Revision)
	}
	p.apply(kv)
	return nil
}

// apply makes the stored cluster data, nil when there is none, that by which
// this proxy goes. What it no longer allows has ended when apply returns; what
// it newly allows begins with the check.
func (p *Proxy) apply(kv *store.KV) {
	p.known, p.revision, p.bad = true, 0, nil
	var cd *cluster.ClusterData
	if kv != nil {
		p.revision = kv.Revision
		cd, p.bad = store.DecodeClusterData(kv.Value)
	}
	if cd != nil && p.bad == nil {
		p.bad = cd.Check()
	}
	r := decide.Look(cd, p.bad, p.o.UID)
	if r.Route != p.result.Route {
		p.fwd.Cut()
		p.address = ""
	}
	p.result = r
}

// resolve finds the address of the route, once per route.
func (p *Proxy) resolve(ctx context.Context) error {
	address := p.result.Route.Address
	if address == "" || p.address != "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.o.StoreTimeout)
	defer cancel()
	host, port, err := net.SplitHostPort(address)
	switch {
	case err != nil:
		return err
	case host == "" || port == "":
		return errors.New("its keeper has not told where it listens")
	}
	ip, err := p.o.Resolve(ctx, host)
	if err != nil {
		return err
	}
	p.address = net.JoinHostPort(ip, port)
	p.log.Info("master address", zap.String("db", p.result.Route.DB), zap.String("address", p.address))
	return nil
}

// promise publishes the ProxyInfo if the cluster data is still the applied one,
// and only then leads on. It reports false when it isn't.
func (p *Proxy) promise(ctx context.Context) (done bool, err error) {
	timeout := p.result.Promise(p.timeout)
	ttl := max(2*timeout, store.MinTTL)
	renewed := p.o.Clock()
	lease, err := p.keepLease(ctx, ttl)
	if err != nil {
		return false, fmt.Errorf("failed to update proxyInfo: %w", err)
	}
	var sent, until time.Duration
	err = p.writes.Ask(ctx, p.interval, func(ctx context.Context) error {
		// One that is repeated is a promise of its own: the sentinel counts from
		// when it saw the infoUID, and may have seen that of an abandoned one.
		info := p.info(timeout)
		sent = p.o.Clock()
		// A sentinel that sees the key go may take this proxy for gone: it goes no
		// sooner than ttl after renewed, less what two clocks may differ by.
		until = min(sent+timeout, renewed+ttl-ttl/10)
		// The write may be done and its answer lost. Then this is what the sentinel
		// counts on, although an earlier promise may have been for longer.
		p.fwd.Shorten(until)
		return p.publish(ctx, info, lease)
	})
	switch {
	case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrOutcome):
		return false, nil
	case errors.Is(err, store.ErrLeaseLost):
		p.lease.Forget()
		fallthrough
	case err != nil:
		return false, fmt.Errorf("failed to update proxyInfo: %w", err)
	}
	p.interval, p.timeout = p.result.Interval, p.result.Timeout
	if !p.result.Route.Enabled {
		return true, p.good(ctx, "", sent, until)
	}
	p.tell(zap.InfoLevel, "proxying to master address")
	return true, p.good(ctx, p.address, sent, until)
}

// info is what there is to publish now.
func (p *Proxy) info(timeout time.Duration) cluster.ProxyInfo {
	info := cluster.ProxyInfo{
		InfoUID: p.o.NewUID(), UID: p.o.UID, Generation: p.result.Generation, ProxyTimeout: timeout,
		Features: []cluster.Feature{cluster.AtomicCheck}, Lifeline: p.o.Lifeline,
	}
	if refuses, ago := p.fwd.Suspect(); p.result.Route.Enabled {
		info.MasterSeen = ago
		if refuses {
			info.Suspect = p.result.Route.DB
		}
	}
	return info
}

// publish puts info if the cluster data is still the applied one.
func (p *Proxy) publish(ctx context.Context, info cluster.ProxyInfo, lease store.Lease) error {
	_, err := p.o.Store.Commit(ctx,
		[]store.Condition{{Key: p.o.Store.ClusterDataKey(), Revision: p.revision}},
		[]store.Op{{Key: p.o.Store.ProxyKey(p.o.UID), Value: store.Encode(info), Lease: lease}})
	return err
}

// keepLease makes the lease good for ttl from now. There is no keep-alive in
// the background: a stuck proxy must go silent (protocols.md P6).
func (p *Proxy) keepLease(ctx context.Context, ttl time.Duration) (store.Lease, error) {
	var lease store.Lease
	err := p.reads.Ask(ctx, p.interval, func(ctx context.Context) (err error) {
		lease, err = p.lease.Keep(ctx, p.o.Store, ttl)
		return err
	})
	return lease, err
}
