package etcd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"stolon/internal/store"
)

const (
	retryWatch = 200 * time.Millisecond // between two watches, when one broke
	// askAfter is how long a watch, and all else that goes by its connection, may
	// be silent before etcd is asked whether it is still there. A stopped member
	// doesn't close its connections.
	askAfter = 3 * time.Second
)

// Watch implements store.Backend. It is a list and then etcd's stream from the
// revision after it. Whenever the stream breaks, whatever the cause (a dead
// connection, a member without leader, a compacted revision, a store that was
// restored), it begins again with a list, so it can't silently miss anything;
// clientv3's own watcher would resume a stream where a restored store has
// nothing yet.
func (b *Backend) Watch(ctx context.Context, prefix string) <-chan store.Change {
	out := make(chan store.Change, 1)
	started := b.work.Go(ctx, func(ctx context.Context) {
		defer close(out)
		for ctx.Err() == nil {
			// Whatever ended it: begin again.
			_ = b.watchOnce(ctx, prefix, out)
			wait(ctx, retryWatch)
		}
	})
	if !started {
		close(out)
	}
	return out
}

// watchOnce watches until ctx ends or something breaks.
func (b *Backend) watchOnce(ctx context.Context, prefix string, out chan store.Change) error {
	snap, err := b.List(ctx, prefix)
	if err != nil {
		return err
	}
	i := b.current.Load() // the one that answered
	asking, cancel := context.WithTimeout(ctx, b.timeout)
	token, err := b.login.token(asking, i, b.clients[i])
	cancel()
	if err != nil {
		return err
	}
	err = b.stream(with(ctx, token), i, prefix, snap, out)
	if ctx.Err() == nil {
		b.leave(i)
	}
	return err
}

// stream reports what changes after snap, as the member has it. It ends, too,
// when it has nothing to report and requests have left that.
func (b *Backend) stream(ctx context.Context, member int64, prefix string, snap store.Snapshot, out chan store.Change) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel() // ends the stream
	stream, err := etcdserverpb.NewWatchClient(b.clients[member].ActiveConnection()).Watch(ctx, grpc.MaxCallRecvMsgSize(math.MaxInt32))
	if err != nil {
		return err
	}
	err = stream.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
		CreateRequest: &etcdserverpb.WatchCreateRequest{
			Key:           []byte(prefix),
			RangeEnd:      []byte(clientv3.GetPrefixRangeEnd(prefix)),
			StartRevision: snap.Revision + 1,
		},
	}})
	if err != nil {
		return err
	}
	store.Offer(out, store.Change{Reset: true, Puts: snap.KVs, Revision: snap.Revision})

	last := snap.Revision
	responses, broken := receive(ctx, stream)
	defer func() {
		cancel()
		for range responses { // until the receiver has gone
		}
	}()
	asked, heard := false, b.lines[member].heard()
	for {
		timer := time.NewTimer(askAfter)
		select {
		case resp, ok := <-responses:
			timer.Stop()
			if !ok {
				return <-broken
			}
			asked = false
			switch {
			case resp.Canceled:
				return fmt.Errorf("watch cancelled (compacted at %d): %s", resp.CompactRevision, resp.CancelReason)
			case resp.Header.Revision < last:
				return fmt.Errorf("the store went back from revision %d to %d", last, resp.Header.Revision)
			case len(resp.Events) > 0:
				last = resp.Events[len(resp.Events)-1].Kv.ModRevision
				store.Offer(out, toChange(resp.Events))
			}
		case <-timer.C:
			before := heard
			heard = b.lines[member].heard()
			switch {
			case b.current.Load() != member:
				return errors.New("requests have left the watch's member")
			case heard != before:
				// Others talk by this connection: the member lives, and one that
				// loses its leader ends its watches itself.
				asked = false
				continue
			case asked:
				return errors.New("the watch went silent")
			}
			asked = true
			err := stream.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_ProgressRequest{
				ProgressRequest: &etcdserverpb.WatchProgressRequest{},
			}})
			if err != nil {
				return err
			}
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// receive moves the stream's messages to a channel that is closed at its end.
func receive(ctx context.Context, stream etcdserverpb.Watch_WatchClient) (<-chan *etcdserverpb.WatchResponse, <-chan error) {
	responses, broken := make(chan *etcdserverpb.WatchResponse), make(chan error, 1)
	go func() {
		defer close(responses)
		for {
			resp, err := stream.Recv()
			if err != nil {
				broken <- err
				return
			}
			select {
			case responses <- resp:
			case <-ctx.Done():
				broken <- ctx.Err()
				return
			}
		}
	}()
	return responses, broken
}

// toChange makes one change of the events of one or more whole revisions.
func toChange(events []*mvccpb.Event) store.Change {
	var ch store.Change
	for _, e := range events {
		next := store.Change{Revision: e.Kv.ModRevision}
		if e.Type == mvccpb.Event_DELETE {
			next.Deletes = []string{string(e.Kv.Key)}
		} else {
			next.Puts = []store.KV{toKV(e.Kv)}
		}
		ch = ch.Then(next)
	}
	return ch
}
