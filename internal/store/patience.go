package store

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// Patience is how long a process waits for an answer of the store before it
// asks once more: a call that hangs, on a member that has died or a connection
// that nobody serves any more, must not keep a sign of life from being given
// in its interval. The backend turns to another member, or to a new
// connection, when a call is abandoned.
//
// What is abandoned may be done all the same, even after what is asked next
// (protocols.md C7). So a caller asks only for what may be done twice, or asks
// once and reads before it goes on.
type Patience struct {
	// Timeout bounds a call together with its repetitions.
	Timeout time.Duration
	// least is what a store that answered, or didn't, has taught: a slow one
	// is not asked twice each time.
	least atomic.Int64
}

// Ask calls do until it gets an answer, which may be an error, or Timeout has
// passed. The first call is abandoned after half of interval, so that the
// second one still comes within it, each other after twice the time.
func (p *Patience) Ask(ctx context.Context, interval time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	for {
		err, silent := p.try(ctx, interval, do)
		if !silent || ctx.Err() != nil {
			return err
		}
	}
}

// Once calls do once, for no longer than Ask's first call.
func (p *Patience) Once(ctx context.Context, interval time.Duration, do func(context.Context) error) error {
	err, _ := p.try(ctx, interval, do)
	return err
}

func (p *Patience) try(ctx context.Context, interval time.Duration, do func(context.Context) error) (err error, silent bool) {
	limit := p.limit(interval)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := time.Now()
	err = do(ctx)
	if silent = ctx.Err() != nil && errors.Is(err, context.DeadlineExceeded); silent {
		p.least.Store(int64(2 * limit))
	} else {
		p.least.Store(int64(2 * time.Since(began)))
	}
	return err, silent
}

// limit of the next call. A tenth of Timeout is what a store may take at any
// interval.
func (p *Patience) limit(interval time.Duration) time.Duration {
	return min(max(min(interval, p.Timeout)/2, p.Timeout/10, time.Duration(p.least.Load())), p.Timeout)
}
