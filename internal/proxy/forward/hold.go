package forward

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
)

const (
	// maxHeld bounds the clients that wait, each of which costs a descriptor.
	maxHeld = 1000
	// firstRetry and lastRetry bound the pause before a master that could not
	// be reached is dialled again. A change of the route ends it.
	firstRetry, lastRetry = 20 * time.Millisecond, 320 * time.Millisecond

	noMaster    = "the cluster has no master at present"
	changing    = "the cluster is changing its master"
	unreachable = "the master can't be reached"
)

// lead joins a client with the master. While there is none, or it can't be
// reached or accepts nobody, the client waits, up to HoldTimeout: what it has
// said after its start-up stays in its socket, and it is led only to where all
// new clients are at that moment. lead returns nil and what to tell the client
// when there is nothing to wait for any more.
func (f *Forwarder) lead(c *newcomer) (p *pair, why string) {
	defer c.release()
	limit := dialTimeout // the first time a dial may outlast the hold
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		changed := f.change()
		p, out, why := f.try(c, limit)
		switch {
		case out == led || out == gone:
			return p, why
		case !f.InTime():
			return nil, "this proxy has lost contact with the store and can't tell which server is the master"
		case out == atOnce:
			continue
		case c.patience() > 0 && !c.hold():
			return nil, fmt.Sprintf("%s, and %d clients wait for one already", why, maxHeld)
		}
		retry := time.NewTimer(min(pause, c.patience()))
		select {
		case <-f.closing:
		case <-changed:
			pause = firstRetry
		case <-retry.C:
		}
		retry.Stop()
		limit = min(dialTimeout, c.patience())
		switch {
		case f.closed():
			return nil, "this proxy is being stopped"
		case limit <= 0:
			return nil, fmt.Sprintf("%s (waited %s, --hold-timeout)", why, f.o.HoldTimeout)
		}
	}
}

// try makes one attempt to lead the client. It may wait for what the client, or
// the server, has to say.
func (f *Forwarder) try(c *newcomer, limit time.Duration) (*pair, outcome, string) {
	sure := f.vouched()
	if c.encrypts() && !sure {
		why := ""
		if sure, why = f.asked(limit); !sure {
			return nil, later, why
		}
	}
	p, why := f.dial(limit, c)
	if p == nil {
		return nil, later, why
	}
	c.release()
	p.sure = sure
	out, why := p.open(c)
	if out != led {
		f.forget(p)
		return nil, out, why
	}
	return p, led, ""
}

// dial connects the client with the master. Without one it only says so.
func (f *Forwarder) dial(limit time.Duration, c *newcomer) (p *pair, why string) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	p, why = f.register(cancel)
	if p == nil {
		return nil, why
	}
	server, err := f.o.Dial(ctx, p.target)
	f.dialled(p.target, err)
	if err == nil && p.attach(c.conn, server) {
		return p, ""
	}
	f.forget(p)
	if err == nil {
		return nil, changing
	}
	f.o.Log.Debug("cannot reach the master", zap.String("address", p.target), zap.Error(err))
	return nil, unreachable
}

// change returns a channel that ends with the present route, or with what is
// known of its target.
func (f *Forwarder) change() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// hold counts the client among those that wait, if there is room.
func (c *newcomer) hold() bool {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	if !c.held && c.f.held < maxHeld {
		c.held = true
		c.f.held++
	}
	return c.held
}

func (c *newcomer) release() {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	if c.held {
		c.held = false
		c.f.held--
	}
}

func (f *Forwarder) closed() bool {
	select {
	case <-f.closing:
		return true
	default:
		return false
	}
}
