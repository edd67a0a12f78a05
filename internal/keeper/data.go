package keeper

import (
	"context"

	"go.uber.org/zap"

	"stolon/internal/cluster"
	"stolon/internal/store"
)

// watch follows the cluster data. What it sees only wakes the others: every
// step is decided on a linearizable read.
func (k *Keeper) watch(ctx context.Context) {
	for ch := range k.o.Store.Watch(ctx, k.o.Store.ClusterDataKey()) {
		for i := range ch.Puts {
			if ch.Puts[i].Key == k.o.Store.ClusterDataKey() {
				k.take(&ch.Puts[i], false)
			}
		}
	}
}

// read reads the cluster data linearizably.
func (k *Keeper) read(ctx context.Context) error {
	select {
	case k.reading <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-k.reading }()
	kv, err := k.getKey(ctx, k.o.Store.ClusterDataKey())
	if err != nil {
		return err
	}
	k.take(kv, true)
	return nil
}

// getKey reads a key linearizably. A read that hangs must not keep a heartbeat
// waiting for longer than its interval.
func (k *Keeper) getKey(ctx context.Context, key string) (kv *store.KV, err error) {
	err = k.reads.Ask(ctx, k.get().settings().SleepInterval.Duration, func(ctx context.Context) (err error) {
		kv, err = k.o.Store.Get(ctx, key)
		return err
	})
	return kv, err
}

// take takes in the stored cluster data, nil when there is none.
func (k *Keeper) take(kv *store.KV, linearizable bool) {
	var cd *cluster.ClusterData
	var err error
	revision := int64(0)
	if kv != nil {
		revision = kv.Revision
		if cd, err = store.DecodeClusterData(kv.Value); err == nil && cd != nil {
			err = cd.Check()
		}
	}
	if err != nil {
		k.tellOnce("cluster data", err.Error(), zap.ErrorLevel, "cluster data can't be used, leaving the instance as it is", zap.Error(err))
		cd = nil
	} else if cd != nil {
		k.tellOnce("cluster data", "", zap.InfoLevel, "")
	}
	changed, cut := false, false
	var newCluster keeperState
	k.set(func(s *shared) {
		if revision < s.revision && !linearizable {
			return // an old event
		}
		changed = revision != s.revision
		cut = changed && cd != nil && routeCut(cd) && (s.data == nil || s.data.Proxy == nil || s.data.Proxy.Generation != cd.Proxy.Generation)
		s.revision, s.data = revision, cd
		if cut {
			s.cutAt = k.o.Clock()
		}
		if cd == nil {
			return
		}
		if me := cd.Keepers[k.uid]; me != nil && me.Status.BootUUID == k.o.BootUUID {
			s.bootSeen = true
		}
		if s.local.keeper.ClusterUID != cd.Cluster.UID {
			s.local.keeper.ClusterUID = cd.Cluster.UID
			newCluster = s.local.keeper
		}
		if s.cancelStep != nil && s.aim() != s.stepFor {
			s.cancelStep()
		}
	})
	if newCluster.UID != "" {
		if err := save(k.o.Files, keeperStateFile, newCluster); err != nil {
			k.log.Error("cannot save local state", zap.Error(err))
		}
	}
	if cd != nil {
		k.metrics.clusterData()
	}
	if changed {
		wake(k.wakeConverge)
	}
	if cut {
		// An election may be near: it waits to hear where this instance stands.
		wake(k.wakeSample)
	}
}

// routeCut: the proxies lead nowhere in a cluster that has been initialised.
func routeCut(cd *cluster.ClusterData) bool {
	return cd.Cluster.Status.Phase == cluster.Normal && cd.Proxy != nil && cd.Proxy.Spec.MasterDBUID == ""
}
