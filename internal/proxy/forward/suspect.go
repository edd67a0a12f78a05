package forward

import (
	"context"
	"errors"
	"syscall"
	"time"
)

// probePause lies between two looks at a target that refuses connections.
const probePause = 250 * time.Millisecond

// Suspect reports whether the target refuses connections, and how long ago it
// was last seen to live: it took a connection or a byte came from it; 0 if it
// wasn't since it is the target (protocols.md P9).
func (f *Forwarder) Suspect() (refuses bool, ago time.Duration) {
	seen, now := time.Duration(f.seen.Load()), f.o.Clock()
	if seen != 0 {
		ago = max(now-seen, 1)
	}
	return f.suspects.Load(), ago
}

// unknow forgets what was known of the target. It is called with mu held.
func (f *Forwarder) unknow() {
	f.suspects.Store(false)
	f.seen.Store(0)
}

// heard notes that a byte came from the master, at this moment. Of one that
// is suspect that is news.
func (f *Forwarder) heard(now time.Duration) {
	f.seen.Store(int64(now))
	if f.suspects.Load() && f.o.Noticed != nil {
		f.o.Noticed()
	}
}

// dialled notes what a dial of target told of it. A connection that can't be
// made for another reason than a refusal tells nothing.
func (f *Forwarder) dialled(target string, err error) {
	refused := errors.Is(err, syscall.ECONNREFUSED)
	if err != nil && !refused {
		return
	}
	now := f.o.Clock()
	f.mu.Lock()
	changed := f.target == target && f.suspects.Load() != refused
	if f.target == target {
		f.suspects.Store(refused)
		if !refused {
			f.seen.Store(int64(now))
		}
	}
	f.mu.Unlock()
	if changed && f.o.Noticed != nil {
		f.o.Noticed()
	}
	if changed && refused {
		f.probe()
	}
}

// probe looks whether the target takes connections: when it has ended one that
// its client hasn't, and again and again while it refuses them. One goroutine
// does so at a time.
func (f *Forwarder) probe() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.probing || f.target == "" {
		return
	}
	f.probing = true
	f.group.Go(func() {
		for f.probeOnce() {
			t := time.NewTimer(probePause)
			select {
			case <-f.closing:
			case <-t.C:
			}
			t.Stop()
		}
	})
}

// probeOnce dials the target once; it reports whether to do so again.
func (f *Forwarder) probeOnce() bool {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	target := f.Target()
	if target != "" && !f.closed() {
		changed := f.change()
		stop := make(chan struct{})
		defer close(stop)
		go func() { // a dial that hangs must not outlive its route
			select {
			case <-changed:
			case <-f.closing:
			case <-stop:
			}
			cancel()
		}()
		conn, err := f.o.Dial(ctx, target)
		if err == nil {
			reset(conn)
		}
		f.dialled(target, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.probing = f.suspects.Load() && f.target != "" && !f.closed()
	return f.probing
}
