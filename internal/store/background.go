package store

import (
	"context"
	"sync"
)

// Background is the lasting work of a backend: watches and candidacies. The
// zero value is ready for use.
type Background struct {
	mu     sync.Mutex
	closed bool
	ends   map[int]context.CancelFunc
	nextID int
	wg     sync.WaitGroup
}

// Go runs f in a goroutine that Close ends and waits for. It reports false,
// and doesn't run f, when the background is closed.
func (b *Background) Go(ctx context.Context, f func(context.Context)) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	ctx, cancel := context.WithCancel(ctx)
	if b.ends == nil {
		b.ends = map[int]context.CancelFunc{}
	}
	id := b.nextID
	b.nextID++
	b.ends[id] = cancel
	b.wg.Go(func() {
		f(ctx)
		cancel()
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.ends, id)
	})
	return true
}

// Close ends everything that runs, waits for it and lets nothing new begin.
func (b *Background) Close() {
	b.mu.Lock()
	b.closed = true
	for _, cancel := range b.ends {
		cancel()
	}
	b.mu.Unlock()
	b.wg.Wait()
}
