package keeper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"stolon/internal/cluster"
	"stolon/internal/postgresql"
	"stolon/internal/postgresql/conf"
	"stolon/internal/postgresql/wal"
	"stolon/internal/store"
)

// examine looks at the instance, one caller at a time, and remembers what it
// saw. An instance that doesn't answer is no error; it has no sample.
func (k *Keeper) examine(ctx context.Context) (report, error) {
	select {
	case k.asking <- struct{}{}:
	case <-ctx.Done():
		return report{}, ctx.Err()
	}
	defer func() { <-k.asking }()
	before := k.get()
	r := report{began: k.o.Clock(), generation: before.local.db.Generation, dbUID: before.local.db.UID}
	var err error
	if r.look, err = k.o.Instance.Look(ctx); err != nil {
		return report{}, err
	}
	if r.look.Running {
		sctx, cancel := k.within(ctx, before.settings().RequestTimeout.Duration)
		sample, err := k.o.Instance.Sample(sctx)
		cancel()
		if err == nil {
			r.sample = &sample
		} else if ctx.Err() == nil {
			k.log.Debug("the instance does not answer", zap.Error(err))
		}
	}
	r.at = k.o.Clock()
	k.set(func(s *shared) {
		if r.sample != nil && r.sample.Primary && s.force.valid && s.force.epoch == before.force.epoch && r.sample.SyncNames == s.force.names {
			if !s.force.known {
				s.force.known, s.force.floor = true, r.sample.Position
			}
			r.inSync = inSync(r.sample, s.force.floor)
		}
		r.end = s.report.end
		if m := r.sample; m != nil {
			r.end = endOf(m, r.end)
		}
		s.report = r
	})
	if differs(before.report, r) {
		wake(k.wakeConverge)
		wake(k.wakePublish)
	}
	return r, nil
}

// differs: a is not just b at another position.
func differs(a, b report) bool {
	if a.look.PID != b.look.PID || a.look.Running != b.look.Running || (a.sample == nil) != (b.sample == nil) {
		return true
	}
	return b.sample != nil && (a.sample.Primary != b.sample.Primary || a.sample.TimelineID != b.sample.TimelineID ||
		a.sample.ReceiverUp != b.sample.ReceiverUp || a.sample.PendingRestart != b.sample.PendingRestart || !slices.Equal(a.inSync, b.inSync))
}

// inSync lists the standbys that hold all that was ever acknowledged: PostgreSQL
// waits for them now, and they have flushed what was acknowledged before it did.
// "sync" alone doesn't say the latter (protocols.md K8).
func inSync(s *postgresql.Sample, floor wal.LSN) []string {
	out := []string{}
	for _, row := range s.Standbys {
		uid, ours := conf.DBUID(row.ApplicationName)
		if ours && row.SyncState == "sync" && row.State == "streaming" && row.Flush >= floor && !slices.Contains(out, uid) {
			out = append(out, uid)
		}
	}
	slices.Sort(out)
	return out
}

// sampleLoop looks at the instance every half sleepInterval, when asked to,
// and often while something is to come about.
func (k *Keeper) sampleLoop(ctx context.Context) {
	timer := time.NewTimer(fastSample) // the first look is converge's
	defer timer.Stop()
	var hurrying time.Duration // since when; 0: not
	var lost <-chan struct{}   // closed when the master is lost that streamed at the last look
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.wakeSample:
		case <-lost:
			lost = nil
		case <-timer.C:
		}
		select {
		case <-k.wakeSample:
		default:
		}
		r, err := k.examine(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			k.tellOnce("sample", err.Error(), zap.ErrorLevel, "cannot look at the instance", zap.Error(err))
		} else {
			k.tellOnce("sample", "", zap.InfoLevel, "")
		}
		if lost = nil; r.sample != nil && r.sample.ReceiverUp {
			lost = r.sample.ReceiverGone
		}
		k.suspectMaster(ctx, r)
		k.clearTheWay(ctx, r)
		wake(k.wakePublish)
		pause := k.get().settings().SleepInterval.Duration / 2
		if k.expecting(r) {
			if hurrying == 0 {
				hurrying = k.o.Clock()
			}
			if k.o.Clock()-hurrying < fastFor {
				pause = min(pause, fastSample)
			}
			if s := k.get(); s.takesOver() && s.switchover.Stops() {
				pause = min(pause, shippingSample)
			}
		} else {
			hurrying = 0
		}
		timer.Reset(pause)
	}
}

// expecting: something about the instance should change soon, and the cluster
// waits to hear of it.
func (k *Keeper) expecting(r report) bool {
	s := k.get()
	if s.data == nil {
		return false
	}
	if routeCut(s.data) || s.takesOver() {
		return true
	}
	db := s.db()
	if db == nil || r.sample == nil || db.UID != r.dbUID {
		return db != nil
	}
	if r.sample.Primary {
		return db.Spec.SynchronousReplication && !cluster.SameSet(cluster.Intersect(r.inSync, db.Spec.SynchronousStandbys), db.Spec.SynchronousStandbys)
	}
	return !r.sample.ReceiverUp
}

// publishLoop publishes when there is news, and every sleepInterval anyway.
func (k *Keeper) publishLoop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last cluster.KeeperInfo
	var next, sent time.Duration
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.wakePublish:
		case <-timer.C:
		}
		select {
		case <-k.wakePublish:
		default:
		}
		s := k.get()
		now := k.o.Clock()
		info := k.info(s)
		if sent != 0 {
			// A shorter interval counts at once: others judge silence by it.
			next = min(next, sent+s.settings().SleepInterval.Duration)
		}
		// What an election waits for counts as news even when it is none.
		asked := s.cutAt > sent && s.report.began >= s.cutAt
		if now >= next || asked || news(last, info, s.data != nil && routeCut(s.data) || s.takesOver()) {
			sent = now
			err := k.publish(ctx)
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				last = info
				next = now + s.settings().SleepInterval.Duration
				k.tellOnce("publish", "", zap.InfoLevel, "publishing again")
			} else {
				sent, next = 0, k.o.Clock()+time.Second
				k.tellOnce("publish", "down", zap.ErrorLevel, "cannot publish keeper info", zap.Error(err))
			}
		}
		timer.Reset(max(0, next-k.o.Clock()))
	}
}

// news tells a change that others wait for from one that can wait: positions
// move all the time.
// But while the route is cut an election may compare them.
func news(a, b cluster.KeeperInfo, positions bool) bool {
	strip := func(i cluster.KeeperInfo) string {
		i.InfoUID = ""
		if i.PostgresState != nil {
			st := *i.PostgresState
			st.OlderWalFile = ""
			if !positions {
				st.XLogPos, st.ReplayPos = 0, 0
			}
			i.PostgresState = &st
		}
		return string(store.Encode(i))
	}
	return strip(a) != strip(b)
}

// info is what there is to publish.
func (k *Keeper) info(s shared) cluster.KeeperInfo {
	ctx, cancel := context.WithTimeout(context.Background(), k.o.StoreTimeout)
	defer cancel()
	major, minor, err := k.o.Instance.Version(ctx)
	if err != nil {
		major, minor = 0, 0
	}
	canMaster, canSync := k.o.CanBeMaster, k.o.CanBeSynchronousReplica
	var handover *cluster.Handover
	if s.handover.ID != "" {
		handover = &s.handover
	}
	return cluster.KeeperInfo{
		UID: k.uid, ClusterUID: s.local.keeper.ClusterUID, BootUUID: k.o.BootUUID,
		PostgresBinaryVersion: cluster.BinaryVersion{Maj: major, Min: minor},
		PostgresState:         k.state(s),
		CanBeMaster:           &canMaster, CanBeSynchronousReplica: &canSync,
		Features: []cluster.Feature{cluster.FailClosedPromotion, cluster.Ping, cluster.HandOver},
		Stopping: s.stopping, Downtime: s.downtime, Refuses: s.refuses, Foreign: s.foreign(),
		Suspect: s.suspect, Handover: handover,
	}
}

// state is what is published of the instance. An answer that is too old, since
// the instance hangs, is not passed off as one of now.
func (k *Keeper) state(s shared) *cluster.PostgresState {
	r := s.report
	st := &cluster.PostgresState{
		UID: s.local.db.UID, Generation: s.local.db.Generation,
		ListenAddress: k.o.AdvertiseAddress, Port: k.o.AdvertisePort,
		FailedStart: s.failedStarts, Forked: s.forked,
	}
	tooOld := k.o.Clock()-r.at > 2*s.settings().SleepInterval.Duration
	if r.sample == nil || tooOld || r.dbUID != s.local.db.UID || s.local.db.Initializing {
		return st
	}
	m := r.sample
	st.Generation = r.generation
	st.Healthy = true
	st.SystemID, st.TimelineID, st.XLogPos, st.ReplayPos = m.SystemID, m.TimelineID, uint64(m.Position), uint64(m.Replayed)
	st.TimelinesHistory, st.OlderWalFile = m.History, m.OldestWAL
	st.Primary, st.ReceiverUp = m.Primary, m.ReceiverUp
	if m.SegmentSize != cluster.DefaultSegmentSize {
		st.WALSegmentSize = m.SegmentSize
	}
	var asked map[string]string
	if db := s.db(); db != nil {
		asked = db.Spec.PGParameters
	}
	st.PGParameters = conf.Reported(m.FileParameters, asked)
	st.SynchronousStandbys, st.SyncGeneration = r.inSync, r.generation
	if st.SynchronousStandbys == nil {
		st.SynchronousStandbys = []string{}
	}
	return st
}

// publish writes the info if the cluster data is still the one that this
// keeper knows; else it reads that first. So every heartbeat makes up for an
// event that the watch lost, without a read of its own.
func (k *Keeper) publish(ctx context.Context) error {
	select {
	case k.publishing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-k.publishing }()
	for range 10 {
		s := k.get()
		if s.local.keeper.ClusterUID == "" {
			// Nobody to tell yet.
			if err := k.read(ctx); err != nil || k.get().local.keeper.ClusterUID == "" {
				return err
			}
			continue
		}
		err := k.writes.Ask(ctx, s.settings().SleepInterval.Duration, k.put)
		if errors.Is(err, store.ErrLeaseLost) {
			continue // with a new one
		}
		if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrOutcome) {
			return err
		}
		if err := k.read(ctx); err != nil {
			return err
		}
		kv, err := k.getKey(ctx, k.o.Store.KeeperKey(k.uid))
		if err != nil {
			return err
		}
		k.set(func(s *shared) {
			if s.infoRevision = 0; kv != nil {
				s.infoRevision = kv.Revision
			}
		})
	}
	return errors.New("cluster data changes faster than it can be read")
}

// put publishes what there is to tell now. The write is conditional on the info
// key, too, being the known one: of a write that was abandoned nobody knows
// when it arrives, and then it must not take the place of a later report
// (protocols.md C7).
func (k *Keeper) put(ctx context.Context) error {
	s := k.get()
	lease, err := k.lease.Alive(ctx, k.o.Store, max(s.settings().SleepInterval.Duration, store.MinTTL), k.o.Clock())
	if err != nil {
		return fmt.Errorf("keep the lease of the keeper info: %w", err)
	}
	info := k.info(s)
	info.InfoUID = k.o.NewUID()
	revision, err := k.o.Store.Commit(ctx,
		[]store.Condition{{Key: k.o.Store.ClusterDataKey(), Revision: s.revision}, {Key: k.o.Store.KeeperKey(k.uid), Revision: s.infoRevision}},
		[]store.Op{{Key: k.o.Store.KeeperKey(k.uid), Value: store.Encode(info), Lease: lease}})
	if errors.Is(err, store.ErrLeaseLost) {
		k.lease.Forget()
	}
	if err != nil {
		return fmt.Errorf("publish keeper info: %w", err)
	}
	k.set(func(s *shared) {
		s.published, s.infoRevision = published{info: info, revision: revision, lease: lease}, revision
	})
	return nil
}
