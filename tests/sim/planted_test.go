package sim

import (
	"context"
	"net"

	"stolon/internal/clock"
	"stolon/internal/keeper"
	"stolon/internal/store"
)

// A plant wraps the doors of processes such that they behave as a program with
// a known bug would.
type plant struct {
	name     string
	plan     func(*plan)
	store    func(*proc, store.Backend) store.Backend
	instance func(*proc, keeper.Instance) keeper.Instance
	clock    func(*proc, clock.Clock) clock.Clock
	dial     func(*proc, func(context.Context, string) (net.Conn, error)) func(context.Context, string) (net.Conn, error)
}

func (p *proc) clockOf() clock.Clock {
	if wrap := p.s.plant.clock; wrap != nil {
		return wrap(p, p.clock)
	}
	return p.clock
}

func (p *proc) listenFunc() func(context.Context, string) (net.Listener, error) {
	return func(ctx context.Context, address string) (net.Listener, error) { return p.s.network.listen(p, address) }
}

func (p *proc) dialFunc() func(context.Context, string) (net.Conn, error) {
	dial := func(ctx context.Context, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		c, err := p.s.network.dial(ctx, p, p.name, host, address)
		if err != nil {
			return nil, err // not a nil *conn in an interface
		}
		return c, nil
	}
	if wrap := p.s.plant.dial; wrap != nil {
		return wrap(p, dial)
	}
	return dial
}
