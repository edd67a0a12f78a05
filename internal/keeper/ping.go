package keeper

import (
	"context"
	"encoding/json"
	"errors"

	"go.uber.org/zap"

	"stolon/internal/cluster"
	"stolon/internal/store"
)

// published is what was last published of the keeper, and how.
type published struct {
	info     cluster.KeeperInfo
	revision int64 // of the key
	lease    store.Lease
}

// answerPings answers a leading sentinel that asks whether this process lives
// (protocols.md K12). It waits for nothing that has to do with PostgreSQL, nor
// for a publication that hangs: it publishes once more what was published last.
func (k *Keeper) answerPings(ctx context.Context) {
	key := k.o.Store.ExtKey(cluster.ExtPings + k.uid)
	for ch := range k.o.Store.Watch(ctx, key) {
		for _, kv := range ch.Puts {
			var ping cluster.PingRequest
			if kv.Key != key || json.Unmarshal(kv.Value, &ping) != nil || ping.BootUUID != k.o.BootUUID {
				continue
			}
			if err := k.pong(ctx, ping); err != nil && ctx.Err() == nil {
				k.log.Warn("cannot answer a ping", zap.Error(err))
			}
		}
	}
}

func (k *Keeper) pong(ctx context.Context, ping cluster.PingRequest) error {
	s := k.get()
	last := s.published
	if last.lease == nil || last.info.Pong == ping.Nonce || last.info.ClusterUID != ping.ClusterUID {
		return nil
	}
	last.info.Pong, last.info.InfoUID = ping.Nonce, k.o.NewUID()
	var revision int64
	err := k.writes.Ask(ctx, s.settings().SleepInterval.Duration, func(ctx context.Context) (err error) {
		revision, err = k.o.Store.Commit(ctx,
			[]store.Condition{{Key: k.o.Store.KeeperKey(k.uid), Revision: last.revision}},
			[]store.Op{{Key: k.o.Store.KeeperKey(k.uid), Value: store.Encode(last.info), Lease: last.lease}})
		return err
	})
	if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrOutcome) {
		// Something newer was published meanwhile, which is as good a sign of
		// life, or this answer was given by a call that then hung.
		kv, err := k.getKey(ctx, k.o.Store.KeeperKey(k.uid))
		var there cluster.KeeperInfo
		if err != nil || kv == nil || json.Unmarshal(kv.Value, &there) != nil || there.InfoUID != last.info.InfoUID {
			return err
		}
		revision = kv.Revision
	} else if err != nil {
		return err
	}
	k.set(func(s *shared) {
		if s.published.revision < revision {
			s.published.info, s.published.revision = last.info, revision
			s.infoRevision = max(s.infoRevision, revision)
		}
	})
	return nil
}
