package forward

import (
	"context"
	"fmt"
	"net"
	"time"

	"go.uber.org/zap"
)

const (
	// maxHeld bounds the clients that wait, each of which costs a descriptor.
	maxHeld = 1000
	// firstRetry and lastRetry bound the pause before a master that could not
	// be reached is dialled again. A change of the route ends it.
	firstRetry, lastRetry = 20 * time.Millisecond, 320 * time.Millisecond
)

// lead joins a client with the master. While there is none, or it can't be
// reached, the client waits, up to HoldTimeout: its bytes stay in its socket,
// and it is led only to where all new clients are at that moment. lead returns
// nil and what to tell the client when there is nothing to wait for any more.
func (f *Forwarder) lead(client net.Conn) (p *pair, why string) {
	held, cancel := context.WithTimeout(context.Background(), f.o.HoldTimeout)
	defer cancel()
	dialling := context.Background() // the first time a dial may outlast the hold
	holding := false
	defer func() {
		if holding {
			f.release()
		}
	}()
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		changed := f.change()
		p, why := f.dial(dialling, client)
		if p != nil {
			return p, ""
		}
		switch {
		case !f.InTime():
			return nil, "this proxy has lost contact with the store and can't tell which server is the master"
		case held.Err() != nil:
			return nil, fmt.Sprintf("%s (waited %s, --hold-timeout)", why, f.o.HoldTimeout)
		case !holding && !f.hold():
			return nil, fmt.Sprintf("%s, and %d clients wait for one already", why, maxHeld)
		}
		holding, dialling = true, held
		retry := time.NewTimer(pause)
		select {
		case <-f.closing:
		case <-held.Done():
		case <-changed:
			pause = firstRetry
		case <-retry.C:
		}
		retry.Stop()
		if f.closed() {
			return nil, "this proxy is being stopped"
		}
	}
}

// dial makes one attempt to lead the client. Without a master it only says so.
func (f *Forwarder) dial(ctx context.Context, client net.Conn) (p *pair, why string) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	p, target := f.register(cancel)
	if p == nil {
		return nil, "the cluster has no master at present"
	}
	server, err := f.o.Dial(ctx, target)
	f.dialled(target, err)
	if err == nil && p.attach(client, server) {
		return p, ""
	}
	f.forget(p)
	if err == nil {
		return nil, "the cluster is changing its master"
	}
	f.o.Log.Debug("cannot reach the master", zap.String("address", target), zap.Error(err))
	return nil, "the master can't be reached"
}

// change returns a channel that ends with the present route.
func (f *Forwarder) change() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// hold counts a client among those that wait, if there is room.
func (f *Forwarder) hold() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held >= maxHeld {
		return false
	}
	f.held++
	return true
}

func (f *Forwarder) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held--
}

func (f *Forwarder) closed() bool {
	select {
	case <-f.closing:
		return true
	default:
		return false
	}
}
