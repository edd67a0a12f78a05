package keeper

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"go.uber.org/zap"

	"stolon/internal/cluster"
	"stolon/internal/keeper/decide"
	"stolon/internal/postgresql/conf"
	"stolon/internal/store"
)

const (
	// handOverLimit is how long the instance has to write its last record.
	handOverLimit = 5 * time.Second
	// stopPatience is how long a keeper that stops waits for its master to be
	// handed over.
	stopPatience = 30 * time.Second
	// shippingSample is how often the target of a switchover is looked at while
	// the old master ships its last records.
	shippingSample = 20 * time.Millisecond
	// clearLimit bounds one look for what holds up its replay.
	clearLimit = time.Second
)

// watchSwitchover follows the switchover under way. What it sees only wakes the
// others: every step is decided on a linearizable read.
func (k *Keeper) watchSwitchover(ctx context.Context) {
	key := k.o.Store.ExtKey(cluster.ExtSwitchover)
	for ch := range k.o.Store.Watch(ctx, key) {
		var kv *store.KV
		touched := ch.Reset || len(ch.Deletes) > 0
		for i := range ch.Puts {
			if ch.Puts[i].Key == key {
				kv, touched = &ch.Puts[i], true
			}
		}
		if touched {
			k.takeSwitchover(decodeSwitchover(kv))
		}
	}
}

func decodeSwitchover(kv *store.KV) *cluster.Switchover {
	var st cluster.Switchover
	if kv == nil || json.Unmarshal(kv.Value, &st) != nil || st.ID == "" {
		return nil
	}
	return &st
}

func (k *Keeper) takeSwitchover(st *cluster.Switchover) {
	k.set(func(s *shared) {
		s.switchover = st
		if s.cancelStep != nil && s.aim() != s.stepFor {
			s.cancelStep()
		}
	})
	wake(k.wakeConverge)
	wake(k.wakeSample)
}

// readSwitchover reads the switchover under way linearizably. That its record
// is gone, read before the cluster data, means that it can't change these any
// more (protocols.md W1).
func (k *Keeper) readSwitchover(ctx context.Context) (*cluster.Switchover, error) {
	kv, err := k.getKey(ctx, k.o.Store.ExtKey(cluster.ExtSwitchover))
	if err != nil {
		return nil, err
	}
	return decodeSwitchover(kv), nil
}

// takesOver: this keeper's db is the target of the switchover under way.
func (s shared) takesOver() bool {
	st, db := s.switchover, s.db()
	return st != nil && db != nil && st.Target == db.UID && st.Phase != cluster.RollingBack && st.Phase != cluster.Electing
}

// clearTheWay ends what the replay of a switchover's target waits for: the
// cluster waits for it, and would give up (protocols.md W4).
func (k *Keeper) clearTheWay(ctx context.Context, r report) {
	if m := r.sample; m == nil || m.Primary || m.Replayed >= m.Position || !k.get().takesOver() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, clearLimit)
	defer cancel()
	n, err := k.o.Instance.EndConflicts(ctx)
	if err != nil {
		k.log.Debug("cannot look for what replay waits for", zap.Error(err))
	}
	if n > 0 {
		k.log.Warn("queries ended that replay waited for", zap.Int("transactions", n), zap.String("why", "switchover"))
	}
}

// prepare checkpoints, which a stop would have to do otherwise.
func (k *Keeper) prepare(ctx context.Context, step decide.Step) error {
	k.log.Info("preparing a switchover: checkpoint", zap.String("target", step.Switchover.Target))
	if err := k.o.Instance.Checkpoint(ctx); err != nil {
		return err
	}
	k.set(func(s *shared) { s.handover = cluster.Handover{ID: step.Switchover.ID, Prepared: true} })
	return k.publish(ctx)
}

// handOver stops the instance for a switchover and tells where it ends. The
// cluster is told before that it goes down (protocols.md K11).
func (k *Keeper) handOver(ctx context.Context, step decide.Step) error {
	h := cluster.Handover{ID: step.Switchover.ID, Prepared: true}
	k.set(func(s *shared) { s.downtime, s.handover = "switchover", h })
	defer k.set(func(s *shared) { s.downtime = "" })
	if err := k.publish(ctx); err != nil {
		k.set(func(s *shared) { s.handover = cluster.Handover{} })
		return fmt.Errorf("not handing over, the cluster could not be told: %w", err)
	}
	k.log.Info("stopping postgres for a switchover", zap.String("target", step.Switchover.Target))
	k.applied.shutsDown = true
	hctx, cancel := context.WithTimeout(ctx, handOverLimit)
	at, err := k.o.Instance.HandOver(hctx, conf.ApplicationName(step.Switchover.Target))
	cancel()
	k.forget()
	if err != nil {
		h.Failed = err.Error()
		k.log.Error("postgres could not be stopped for a switchover", zap.Error(err))
	} else {
		h.Stopped, h.Position = true, uint64(at)
		k.log.Info("postgres has shut down for a switchover", zap.Stringer("lsn", at))
	}
	k.set(func(s *shared) { s.handover, s.report.sample = h, nil })
	return k.publish(ctx)
}

// handOverFirst asks for a switchover if this keeper's db is the master and
// others could be, and waits for its end. It is never a reason not to stop.
func (k *Keeper) handOverFirst(ctx context.Context) {
	s := k.get()
	db := s.db()
	if db == nil || s.data.Cluster.Status.Master != db.UID || len(s.data.DBs) < 2 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	req := cluster.SwitchoverRequest{ID: k.o.NewUID(), ClusterUID: s.data.Cluster.UID, Master: db.UID, Timeout: stopPatience / 2}
	k.log.Info("handing the master over before stopping (--switchover-on-stop)")
	outcomes := k.o.Store.Watch(ctx, k.o.Store.ExtKey(cluster.ExtSwitchoverOutcome))
	if err := k.o.Store.RequestSwitchover(ctx, req); err != nil {
		k.log.Warn("cannot ask for a switchover, stopping without", zap.Error(err))
		return
	}
	for ch := range outcomes {
		for _, kv := range ch.Puts {
			var o cluster.SwitchoverOutcome
			if json.Unmarshal(kv.Value, &o) != nil || o.ID != req.ID {
				continue
			}
			if o.Done {
				k.log.Info("the master is handed over, stopping")
			} else {
				k.log.Warn("the master could not be handed over, stopping without", zap.String("why", o.Why))
			}
			return
		}
	}
	k.log.Warn("the master was not handed over in time, stopping without")
}
