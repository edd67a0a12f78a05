package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"go.uber.org/zap"

	"stolon/internal/cluster"
	"stolon/internal/keeper/decide"
	"stolon/internal/postgresql"
	"stolon/internal/postgresql/conf"
	"stolon/internal/postgresql/wal"
	"stolon/internal/store"
)

// readyPause is how long a start waits for connections before it goes on
// looking at the cluster data meanwhile.
const readyPause = 2 * time.Second

const syncNames = "synchronous_standby_names"

// carryOut carries out one step.
func (k *Keeper) carryOut(ctx context.Context, in decide.In, step decide.Step) error {
	switch step.Kind {
	case decide.Stop:
		level := k.log.Info
		if step.Alarm {
			level = k.log.Error
		}
		level("stopping postgres", zap.String("why", step.Why))
		return errors.Join(k.stop(ctx), k.forgotten())
	case decide.InitNew:
		return k.long(ctx, step, func(ctx context.Context) error { return k.initNew(ctx, step) })
	case decide.Resync:
		return k.long(ctx, step, func(ctx context.Context) error { return k.resync(ctx, in, step) })
	case decide.Start:
		return k.start(ctx, in, step)
	case decide.Promote:
		return k.promote(ctx, in, step)
	case decide.Reload:
		return k.reload(ctx, in, step)
	case decide.ChangeSlots:
		k.changeSlots(ctx, step)
		return nil
	case decide.Restart:
		return k.restart(ctx, step)
	case decide.Record:
		return k.saveDB(func(s *decide.DBState) { s.Generation, s.Initializing = step.Generation, false })
	}
	panic("keeper: unknown step " + step.Kind)
}

func (k *Keeper) forgotten() error { k.forget(); return nil }

// long runs a step that may take hours. It ends early when the cluster data no
// longer wants it.
func (k *Keeper) long(ctx context.Context, step decide.Step, do func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	k.set(func(s *shared) { s.cancelStep, s.stepDB = cancel, step.DB.UID })
	defer k.set(func(s *shared) { s.cancelStep, s.stepDB = nil, "" })
	return do(ctx)
}

// saveDB changes dbstate, on disk first.
func (k *Keeper) saveDB(edit func(*decide.DBState)) error {
	st := k.get().local.db
	edit(&st)
	if err := save(k.o.Files, dbStateFile, st); err != nil {
		return err
	}
	k.set(func(s *shared) { s.local.db = st })
	wake(k.wakeSample)
	return nil
}

func (k *Keeper) within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if d == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, d)
}

// initNew makes a new data directory. What is there already is set aside.
func (k *Keeper) initNew(ctx context.Context, step decide.Step) error {
	k.log.Info("initializing db", zap.String("db", step.DB.UID))
	if err := k.saveDB(func(s *decide.DBState) { *s = decide.DBState{UID: step.DB.UID, Initializing: true} }); err != nil {
		return err
	}
	if err := errors.Join(k.stop(ctx), k.forgotten()); err != nil {
		return err
	}
	if err := k.o.Instance.SetAside(ctx); err != nil {
		return err
	}
	initdb := postgresql.InitDB{Superuser: k.o.Superuser.User, Password: k.o.Superuser.Password}
	if c := step.DB.Spec.NewConfig; c != nil {
		initdb.Config = *c
	}
	if err := k.o.Instance.InitDB(ctx, initdb); err != nil {
		return err
	}
	if err := k.o.Instance.Start(ctx, step.Config, true); err != nil {
		return fmt.Errorf("first start: %w", err)
	}
	defer k.forget()
	if err := k.ready(ctx); err != nil {
		return err
	}
	var params map[string]string
	if step.DB.Spec.IncludePreviousConfig {
		s, err := k.o.Instance.Sample(ctx)
		if err != nil {
			return err
		}
		params = s.FileParameters
	}
	if err := k.o.Instance.SetRoles(ctx, postgresql.Roles{
		Superuser: k.o.Superuser.User, SuperuserPassword: k.o.Superuser.Password,
		Replication: k.o.Replication.User, ReplicationPassword: k.o.Replication.Password,
	}); err != nil {
		return err
	}
	if err := k.stop(ctx); err != nil {
		return err
	}
	return k.saveDB(func(s *decide.DBState) { s.Initializing, s.InitPGParameters = false, params })
}

func (k *Keeper) ready(ctx context.Context) error {
	ctx, cancel := k.within(ctx, k.get().settings().DBWaitReadyTimeout.Duration)
	defer cancel()
	return k.o.Instance.Ready(ctx)
}

// resync makes the data directory a copy of the followed db's. The old one is
// touched only once the new one is complete, but for a rewind.
func (k *Keeper) resync(ctx context.Context, in decide.In, step decide.Step) error {
	followed := in.Data.DBs[step.FollowedDB]
	k.log.Info("syncing from followed db", zap.String("db", step.DB.UID), zap.String("followed", step.FollowedDB), zap.String("keeper", followed.Spec.KeeperUID))
	old := k.get()
	if err := k.saveDB(func(s *decide.DBState) { *s = decide.DBState{UID: step.DB.UID, Initializing: true} }); err != nil {
		return err
	}
	from := postgresql.Source{
		Host: followed.Status.ListenAddress, Port: followed.Status.Port,
		User: k.o.Replication.User, Password: k.o.Replication.Password,
		ApplicationName: conf.ApplicationName(step.DB.UID), Slot: conf.SlotName(step.DB.UID),
	}
	if step.Rewind && k.onlyCreator(ctx, in.Data.Cluster.UID, in.Seen.CheckpointTimeline) {
		done, err := k.rewind(ctx, step, from)
		if done || ctx.Err() != nil {
			return err
		}
	}
	if !old.local.db.Initializing {
		if err := k.noteAside(old); err != nil {
			return err
		}
	}
	if err := k.o.Instance.BaseBackup(ctx, from, func(line string) {
		k.log.Info("pg_basebackup", zap.String("progress", line))
	}); err != nil {
		return fmt.Errorf("base backup from %s:%s: %w", from.Host, from.Port, err)
	}
	return k.copied(ctx, step)
}

// copied starts the new copy for the first time and notes that it is complete.
func (k *Keeper) copied(ctx context.Context, step decide.Step) error {
	if err := k.savePromotion(promotion{}); err != nil {
		return err
	}
	k.applied.asideDone = false
	if err := k.launch(ctx, step); err != nil {
		return err
	}
	k.log.Info("sync succeeded", zap.String("db", step.DB.UID))
	return k.saveDB(func(s *decide.DBState) { s.Initializing = false })
}

// rewind tries to rewind instead of copying. It reports false when a copy is
// needed after all.
func (k *Keeper) rewind(ctx context.Context, step decide.Step, from postgresql.Source) (bool, error) {
	from.User, from.Password, from.Slot = k.o.Superuser.User, k.o.Superuser.Password, ""
	if err := k.o.Instance.Rewind(ctx, from); err != nil {
		k.log.Warn("pg_rewind failed, copying everything", zap.Error(err))
		return false, nil
	}
	if err := k.launch(ctx, step); err != nil {
		k.log.Warn("postgres does not start after pg_rewind, copying everything", zap.Error(err))
		return false, nil
	}
	// The WAL between the fork and now may be gone from the source.
	if err := k.awaitStreaming(ctx); err != nil {
		k.log.Warn("the rewound instance does not stream, copying everything", zap.Error(err))
		return false, errors.Join(k.stop(ctx), k.forgotten())
	}
	k.log.Info("pg_rewind succeeded", zap.String("db", step.DB.UID))
	if err := k.savePromotion(promotion{}); err != nil {
		return true, err
	}
	return true, k.saveDB(func(s *decide.DBState) { s.Initializing = false })
}

func (k *Keeper) awaitStreaming(ctx context.Context) error {
	ctx, cancel := k.within(ctx, k.get().settings().DBWaitReadyTimeout.Duration)
	defer cancel()
	if err := k.o.Instance.Ready(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(fastSample)
	defer tick.Stop()
	for {
		s, err := k.o.Instance.Sample(ctx)
		if err == nil && s.ReceiverUp {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// start starts the instance as what it shall be.
func (k *Keeper) start(ctx context.Context, in decide.In, step decide.Step) error {
	if step.Mode == decide.Standby && !k.mayFollow(ctx, in, step) {
		return nil
	}
	k.log.Info("starting postgres", zap.String("db", step.DB.UID), zap.String("as", string(step.Mode)))
	if err := k.launch(ctx, step); err != nil {
		k.set(func(s *shared) { s.failedStarts++ })
		return err
	}
	return nil
}

// launch starts the instance with the step's configuration and gives it a
// moment to take connections.
func (k *Keeper) launch(ctx context.Context, step decide.Step) error {
	k.forget()
	if err := k.o.Instance.Start(ctx, step.Config, false); err != nil {
		return err
	}
	config := step.Config
	k.applied.config, k.applied.internalOnly = &config, step.InternalOnly
	k.applied.started, k.applied.startedHere = k.o.Clock(), true
	// A primary has had its list since before its first connection.
	k.set(func(s *shared) {
		s.force = force{epoch: s.force.epoch + 1, names: config.Parameters[syncNames], valid: step.Mode == decide.Primary}
	})
	k.warnIgnored(step)
	rctx, cancel := context.WithTimeout(ctx, readyPause)
	defer cancel()
	if err := k.o.Instance.Ready(rctx); err != nil {
		k.log.Debug("postgres does not take connections yet", zap.Error(err))
	}
	return k.noteFollowed(step)
}

func (k *Keeper) warnIgnored(step decide.Step) {
	in := k.with(decide.In{})
	if in.Data == nil || step.DB == nil {
		return
	}
	for _, w := range in.Ignored(step.DB) {
		k.tellOnce("ignored "+w.Parameter, w.Reason, zap.WarnLevel, "parameter ignored", zap.String("parameter", w.Parameter), zap.String("why", w.Reason))
	}
}

// promote makes the standby a primary. That it may have made a timeline is
// noted before it can have.
func (k *Keeper) promote(ctx context.Context, in decide.In, step decide.Step) error {
	r := k.get().report
	p := promotion{DB: step.DB.UID}
	if r.sample != nil {
		p.Timeline, p.Position = r.sample.TimelineID, r.sample.Position
	}
	if err := k.savePromotion(p); err != nil {
		return err
	}
	k.noteCreator(ctx, in.Data.Cluster.UID, p.Timeline+1, step.DB.UID)
	k.log.Info("promoting to master", zap.String("db", step.DB.UID), zap.Stringer("lsn", p.Position), zap.Uint64("timeline", p.Timeline))
	pctx, cancel := k.within(ctx, k.get().settings().ConvergenceTimeout.Duration)
	defer cancel()
	if err := k.o.Instance.Promote(pctx); err != nil {
		return err
	}
	k.log.Info("promoted", zap.String("db", step.DB.UID))
	return nil
}

func (k *Keeper) savePromotion(p promotion) error {
	if k.get().local.promotion == p {
		return nil
	}
	if err := save(k.o.Files, promotionFile, p); err != nil {
		return err
	}
	k.set(func(s *shared) { s.local.promotion = p })
	return nil
}

// reload gives the running instance the step's configuration, and returns once
// it is in force (protocols.md K6).
func (k *Keeper) reload(ctx context.Context, in decide.In, step decide.Step) error {
	if step.Mode == decide.Standby && !k.mayFollow(ctx, in, step) {
		return nil
	}
	k.tellReload(step)
	names := step.Config.Parameters[syncNames]
	changes := k.applied.config == nil || k.applied.config.Parameters[syncNames] != names || step.Mode == decide.Primary && !k.get().force.valid
	if changes {
		k.set(func(s *shared) { s.force = force{epoch: s.force.epoch + 1} })
	}
	if err := k.o.Instance.Reload(ctx, step.Config); err != nil {
		return err
	}
	if err := k.awaitShown(ctx, syncNames, names); err != nil {
		return err
	}
	if step.Checkpoint {
		if err := k.o.Instance.Checkpoint(ctx); err != nil {
			return err
		}
	}
	config := step.Config
	if k.applied.internalOnly && !step.InternalOnly {
		k.log.Info("letting users in")
		k.applied.endChecked = true
	}
	k.applied.config, k.applied.internalOnly = &config, step.InternalOnly
	if changes && step.Mode == decide.Primary {
		k.set(func(s *shared) { s.force = force{epoch: s.force.epoch + 1, names: names, valid: true} })
	}
	k.warnIgnored(step)
	return k.noteFollowed(step)
}

func (k *Keeper) tellReload(step decide.Step) {
	switch {
	case k.applied.config == nil:
		k.log.Info("reloading postgres instance", zap.String("why", step.Why))
	case slices.Equal(k.applied.config.HBA, step.Config.HBA):
		k.log.Info("postgres parameters changed, reloading postgres instance", zap.String("changed", step.Why))
		k.applied.tellNoChange = true
	default:
		k.log.Info("postgres hba entries changed, reloading postgres instance", zap.String("changed", step.Why))
	}
}

// awaitShown waits until a new connection sees the value.
func (k *Keeper) awaitShown(ctx context.Context, name, want string) error {
	ctx, cancel := k.within(ctx, k.get().settings().RequestTimeout.Duration)
	defer cancel()
	for {
		got, err := k.o.Instance.Show(ctx, name)
		if err == nil && got == want {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s is %q after a reload, not %q", name, got, want), err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (k *Keeper) changeSlots(ctx context.Context, step decide.Step) {
	for _, name := range step.Drop {
		if err := k.o.Instance.DropSlot(ctx, name); err != nil {
			k.log.Warn("cannot drop replication slot", zap.String("slot", name), zap.Error(err))
			continue
		}
		k.log.Info("replication slot dropped", zap.String("slot", name))
	}
	for _, name := range step.Create {
		if err := k.o.Instance.CreateSlot(ctx, name); err != nil {
			k.log.Error("cannot create replication slot", zap.String("slot", name), zap.Error(err))
			continue
		}
		k.log.Info("replication slot created", zap.String("slot", name))
	}
}

// restart stops the instance; the next step starts it. The cluster is told
// before, so that nobody takes it for dead (protocols.md K11).
func (k *Keeper) restart(ctx context.Context, step decide.Step) error {
	k.set(func(s *shared) { s.downtime = step.Why })
	defer k.set(func(s *shared) { s.downtime = "" })
	if err := k.publish(ctx); err != nil {
		return fmt.Errorf("not restarting, the cluster could not be told: %w", err)
	}
	k.log.Info("restarting postgres", zap.String("why", step.Why))
	return errors.Join(k.stop(ctx), k.forgotten())
}

// followedReport reads what the db to be copied last said of itself. Only a
// resync needs it.
func (k *Keeper) followedReport(ctx context.Context, in decide.In) (*cluster.PostgresState, error) {
	if in.Data == nil {
		return nil, nil
	}
	db := in.Data.DBOf(k.uid)
	if db == nil || db.Spec.FollowConfig == nil || db.UID == in.Own.State.UID && !in.Own.State.Initializing {
		return nil, nil
	}
	followed := in.Data.DBs[db.Spec.FollowConfig.DBUID]
	if followed == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, k.o.StoreTimeout)
	defer cancel()
	kv, err := k.o.Store.Get(ctx, k.o.Store.KeeperKey(followed.Spec.KeeperUID))
	if err != nil || kv == nil {
		return nil, err
	}
	var info cluster.KeeperInfo
	if err := json.Unmarshal(kv.Value, &info); err != nil {
		return nil, nil // told by the sentinel; the recorded status serves
	}
	return info.PostgresState, nil
}

// noteAside notes how far the data reaches that is about to be set aside.
func (k *Keeper) noteAside(s shared) error {
	look := s.report.look
	a := aside{SystemID: look.SystemID, Timeline: look.CheckpointTimeline, Position: look.Checkpoint, Exact: look.State == postgresql.ShutDown}
	if !look.Initialized {
		a = aside{}
	}
	if err := save(k.o.Files, asideFile, a); err != nil {
		return err
	}
	k.set(func(s *shared) { s.local.aside = a })
	return nil
}

// tidyAside removes the old data directory once the new copy streams, if
// nothing in it can be missing from the cluster's history (protocols.md K9).
func (k *Keeper) tidyAside(ctx context.Context, in decide.In) error {
	s := k.get()
	r := s.report
	if k.applied.asideDone || !r.look.Aside || r.sample == nil || !r.sample.ReceiverUp {
		return nil
	}
	k.applied.asideDone = true
	a := s.local.aside
	if a.SystemID == r.sample.SystemID && a.Exact && (a.Position <= leftAt(r.sample, a.Timeline)) {
		k.log.Info("removing the old data directory", zap.String("why", "it holds nothing that the cluster has not"))
		return k.o.Instance.DropAside(ctx)
	}
	k.log.Warn("keeping the old data directory: it may hold transactions that the cluster has not. Remove it when nobody needs them",
		zap.String("directory", k.o.DataDir+"/postgres.aside"), zap.Uint64("timeline", a.Timeline), zap.Stringer("lsn", a.Position), zap.Stringer("fork", leftAt(r.sample, a.Timeline)))
	return nil
}

// leftAt returns where the sampled history left the timeline.
func leftAt(s *postgresql.Sample, timeline uint64) wal.LSN {
	if timeline == s.TimelineID {
		return s.Position
	}
	for _, h := range s.History {
		if h.TimelineID == timeline {
			return wal.LSN(h.SwitchPoint)
		}
	}
	return 0
}

// creators returns the key that lists who may have created the timeline.
func (k *Keeper) creators(clusterUID string, timeline uint64) string {
	return k.o.Store.ExtKey("timelines/" + clusterUID + "/" + strconv.FormatUint(timeline, 10))
}

// noteCreator adds the db to those that may have created the timeline. It is
// for others to be careful by, never a reason to wait.
func (k *Keeper) noteCreator(ctx context.Context, clusterUID string, timeline uint64, dbUID string) {
	ctx, cancel := context.WithTimeout(ctx, min(k.o.StoreTimeout, time.Second))
	defer cancel()
	key := k.creators(clusterUID, timeline)
	for {
		list, revision, err := k.readCreators(ctx, key)
		if err == nil && !slices.Contains(list, dbUID) {
			_, err = k.o.Store.Commit(ctx, []store.Condition{{Key: key, Revision: revision}}, []store.Op{{Key: key, Value: store.Encode(append(list, dbUID))}})
		}
		if !errors.Is(err, store.ErrConflict) {
			if err != nil {
				k.log.Warn("could not note who creates the timeline", zap.Uint64("timeline", timeline), zap.Error(err))
			}
			return
		}
	}
}

func (k *Keeper) readCreators(ctx context.Context, key string) (list []string, revision int64, err error) {
	kv, err := k.o.Store.Get(ctx, key)
	if err != nil || kv == nil {
		return nil, 0, err
	}
	if err := json.Unmarshal(kv.Value, &list); err != nil {
		return nil, kv.Revision, fmt.Errorf("%s: %w", key, err)
	}
	return list, kv.Revision, nil
}

// onlyCreator reports that at most one db can have created the timeline, so
// its number tells what it holds. When that can't be found out, it is not so.
func (k *Keeper) onlyCreator(ctx context.Context, clusterUID string, timeline uint64) bool {
	if timeline <= 1 {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, k.o.StoreTimeout)
	defer cancel()
	list, _, err := k.readCreators(ctx, k.creators(clusterUID, timeline))
	return err == nil && len(list) <= 1
}

// mayFollow reports whether the standby may stream from the db that it is now
// pointed at. Where two dbs may have created the timeline that it is on, its
// own and the new one's may differ though nothing shows it: a full copy is
// needed, and the sentinel is told so (protocols.md K7).
func (k *Keeper) mayFollow(ctx context.Context, in decide.In, step decide.Step) bool {
	f := step.DB.Spec.FollowConfig
	s := k.get()
	if f == nil || s.local.followed.DB == "" || s.local.followed.DB == f.DBUID {
		return true
	}
	timeline := in.Seen.CheckpointTimeline
	if s.report.sample != nil {
		timeline = s.report.sample.TimelineID
	}
	if k.onlyCreator(ctx, in.Data.Cluster.UID, timeline) {
		return true
	}
	if !s.forked {
		k.log.Error("not following: two dbs may have created our timeline, a full copy is needed", zap.String("followed", f.DBUID), zap.Uint64("timeline", timeline))
		k.set(func(s *shared) { s.forked = true })
	}
	return false
}

// noteFollowed remembers whom the standby was pointed at.
func (k *Keeper) noteFollowed(step decide.Step) error {
	f := followed{}
	if step.Mode == decide.Standby && step.DB.Spec.FollowConfig != nil {
		f.DB = step.DB.Spec.FollowConfig.DBUID
	}
	k.set(func(s *shared) { s.forked = false })
	if k.get().local.followed == f {
		return nil
	}
	if err := save(k.o.Files, followedFile, f); err != nil {
		return err
	}
	k.set(func(s *shared) { s.local.followed = f })
	return nil
}
