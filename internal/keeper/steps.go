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
		if step.Short {
			level = k.log.Error
			k.applied.short = step.DB.UID
		}
		level("stopping postgres", zap.String("why", step.Why))
		return errors.Join(k.stop(ctx), k.forgotten())
	case decide.InitNew:
		return k.long(ctx, step, func(ctx context.Context) error { return k.initNew(ctx, step) })
	case decide.Resync:
		return k.long(ctx, step, func(ctx context.Context) error { return k.resync(ctx, in, step) })
	case decide.Start:
		return k.start(ctx, step)
	case decide.Promote:
		return k.long(ctx, step, func(ctx context.Context) error { return k.promote(ctx, in, step) })
	case decide.Reload:
		return k.reload(ctx, in.Seen.Answers, step)
	case decide.ChangeSlots:
		k.changeSlots(ctx, step)
		return nil
	case decide.Note:
		return k.note(ctx, in)
	case decide.Restart:
		return k.restart(ctx, step)
	case decide.Record:
		return k.saveDB(func(s *decide.DBState) { s.Generation, s.Initializing = step.Generation, false })
	}
	panic("keeper: unknown step " + step.Kind)
}

func (k *Keeper) forgotten() error { k.forget(); return nil }

// errNoLongerWanted reports that a step was given up.
var errNoLongerWanted = errors.New("the cluster data no longer asks for this step")

// long runs a step that may take hours. It ends early when the cluster data no
// longer wants it.
func (k *Keeper) long(ctx context.Context, step decide.Step, do func(context.Context) error) error {
	stepCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	k.set(func(s *shared) { s.cancelStep, s.stepFor = cancel, s.aim() })
	defer k.set(func(s *shared) { s.cancelStep, s.stepFor = nil, aim{} })
	err := do(stepCtx)
	if err != nil && stepCtx.Err() != nil && ctx.Err() == nil {
		return errNoLongerWanted
	}
	return err
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
	if err := errors.Join(k.savePromotion(promotion{}), k.saveFollowed(followed{})); err != nil {
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
		params = conf.Reported(s.FileParameters, step.DB.Spec.PGParameters)
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
	if step.Copied {
		return k.copied(step)
	}
	followed := in.Data.DBs[step.FollowedDB]
	k.log.Info("syncing from followed db", zap.String("db", step.DB.UID), zap.String("followed", step.FollowedDB), zap.String("keeper", followed.Spec.KeeperUID))
	if err := k.saveDB(func(s *decide.DBState) { *s = decide.DBState{UID: step.DB.UID, Initializing: true} }); err != nil {
		return err
	}
	from := postgresql.Source{
		Host: followed.Status.ListenAddress, Port: followed.Status.Port,
		User: k.o.Replication.User, Password: k.o.Replication.Password,
		ApplicationName: conf.ApplicationName(step.DB.UID), Slot: conf.SlotName(step.DB.UID),
	}
	if step.Rewind {
		done, err := k.rewind(ctx, step, from)
		if done || ctx.Err() != nil {
			return err
		}
	}
	swapped, err := k.noteAside(ctx, step.DB.UID)
	if err != nil {
		return err
	}
	if !swapped {
		if err := k.o.Instance.BaseBackup(ctx, from, func(line string) {
			k.log.Info("pg_basebackup", zap.String("progress", line))
		}); err != nil {
			return fmt.Errorf("base backup from %s:%s: %w", from.Host, from.Port, err)
		}
	}
	k.applied.copied = step.DB.UID
	return k.copied(step)
}

// copied records that the data directory is a complete copy, made for the db.
func (k *Keeper) copied(step decide.Step) error {
	k.applied.asideDone = false
	err := errors.Join(k.savePromotion(promotion{}), k.saveFollowed(followedBy(step)))
	if err == nil {
		err = k.saveDB(func(s *decide.DBState) { s.Initializing = false })
	}
	if err != nil {
		return err
	}
	k.applied.copied = ""
	k.log.Info("sync succeeded", zap.String("db", step.DB.UID))
	return nil
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
		return false, errors.Join(k.stop(ctx), k.forgotten())
	}
	// The WAL between the fork and now may be gone from the source.
	if err := k.awaitStreaming(ctx); err != nil {
		k.log.Warn("the rewound instance does not stream, copying everything", zap.Error(err))
		return false, errors.Join(k.stop(ctx), k.forgotten())
	}
	k.log.Info("pg_rewind succeeded", zap.String("db", step.DB.UID))
	return true, k.copied(step)
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
func (k *Keeper) start(ctx context.Context, step decide.Step) error {
	k.log.Info("starting postgres", zap.String("db", step.DB.UID), zap.String("as", string(step.Mode)))
	err := k.launch(ctx, step)
	if err != nil && ctx.Err() == nil {
		k.set(func(s *shared) { s.failedStarts++ })
	}
	return err
}

// launch starts the instance with the step's configuration and gives it a
// moment to take connections.
func (k *Keeper) launch(ctx context.Context, step decide.Step) error {
	k.forget()
	k.set(func(s *shared) { s.report.end.exact = false })
	closed := door{}
	if step.InternalOnly && step.DB.Spec.SynchronousReplication {
		closed.ClosedFor = step.DB.UID
	}
	if err := errors.Join(k.saveDoor(closed), k.saveFollowed(followedBy(step))); err != nil {
		return err
	}
	if err := k.o.Instance.Start(ctx, step.Config, false); err != nil {
		return err
	}
	config := step.Config
	k.applied.config, k.applied.internalOnly, k.applied.starting = &config, step.InternalOnly, true
	// A primary has had its list since before its first connection.
	k.set(func(s *shared) {
		s.force = force{epoch: s.force.epoch + 1, names: config.Parameters[syncNames], valid: step.Mode == decide.Primary}
	})
	k.warnIgnored(step)
	rctx, cancel := context.WithTimeout(ctx, readyPause)
	defer cancel()
	if err := k.o.Instance.Ready(rctx); err != nil {
		look, lookErr := k.o.Instance.Look(ctx)
		if lookErr == nil && !look.Running {
			k.forget()
			return err
		}
		k.log.Debug("postgres does not take connections yet", zap.Error(err))
	}
	return nil
}

func (k *Keeper) saveDoor(d door) error {
	if k.get().local.door == d {
		return nil
	}
	if err := save(k.o.Files, doorFile, d); err != nil {
		return err
	}
	k.set(func(s *shared) { s.local.door = d })
	return nil
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
	p.Created = p.Timeline + 1
	if err := k.savePromotion(p); err != nil {
		return err
	}
	// Best told before, but never a reason to wait: it is told again before
	// anybody is made to follow.
	nctx, cancel := context.WithTimeout(ctx, min(k.o.StoreTimeout, time.Second))
	err := k.noteCreator(nctx, in.Data.Cluster.UID, p.Created, step.DB.UID)
	cancel()
	if err != nil {
		k.log.Warn("could not note who creates the timeline, trying again after the promotion", zap.Uint64("timeline", p.Created), zap.Error(err))
	} else {
		k.applied.noted = p.Created
	}
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
// An instance that takes no connections is only told.
func (k *Keeper) reload(ctx context.Context, answers bool, step decide.Step) error {
	k.tellReload(step)
	if a := k.applied.config; a == nil || len(conf.Changed(a.Parameters, step.Config.Parameters)) > 0 {
		k.applied.restarted = false
	}
	if err := k.saveFollowed(followedBy(step)); err != nil {
		return err
	}
	names := step.Config.Parameters[syncNames]
	changes := k.applied.config == nil || k.applied.config.Parameters[syncNames] != names || step.Mode == decide.Primary && !k.get().force.valid
	if changes {
		k.set(func(s *shared) { s.force = force{epoch: s.force.epoch + 1} })
	}
	if err := k.o.Instance.Reload(ctx, step.Config); err != nil {
		return err
	}
	if !answers {
		config := decide.Unshown(step.Config)
		k.applied.config = &config
		return nil
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
		k.applied.endChecked = true
		if err := k.saveDoor(door{}); err != nil {
			return err
		}
	}
	k.applied.config, k.applied.internalOnly = &config, step.InternalOnly
	if changes && step.Mode == decide.Primary {
		k.set(func(s *shared) { s.force = force{epoch: s.force.epoch + 1, names: names, valid: true} })
	}
	k.warnIgnored(step)
	return nil
}

func (k *Keeper) tellReload(step decide.Step) {
	switch {
	case k.applied.internalOnly && !step.InternalOnly:
		k.log.Info("letting users in")
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
	k.applied.slotsFailed = 0
	for _, name := range step.Drop {
		if err := k.o.Instance.DropSlot(ctx, name); err != nil {
			k.tellOnce("slot "+name, err.Error(), zap.WarnLevel, "cannot drop replication slot", zap.String("slot", name), zap.Error(err))
			k.applied.slotsFailed = k.o.Clock()
			continue
		}
		k.log.Info("replication slot dropped", zap.String("slot", name))
	}
	for _, name := range step.Create {
		if err := k.o.Instance.CreateSlot(ctx, name); err != nil {
			k.tellOnce("slot "+name, err.Error(), zap.ErrorLevel, "cannot create replication slot", zap.String("slot", name), zap.Error(err))
			k.applied.slotsFailed = k.o.Clock()
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
	k.applied.restarted = true
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

// noteAside notes how far the data reaches that is about to be set aside for
// the db's copy. It reports true when that has happened already: the data
// directory is no longer the one that was noted, so it is the complete copy.
func (k *Keeper) noteAside(ctx context.Context, dbUID string) (swapped bool, err error) {
	look, err := k.o.Instance.Look(ctx)
	if err != nil {
		return false, err
	}
	s := k.get()
	was := s.local.aside
	if was.DB == dbUID && look.Initialized && (was.SystemID != look.SystemID || was.Timeline != look.CheckpointTimeline || was.Checkpoint != look.Checkpoint) {
		return true, nil
	}
	a := aside{DB: dbUID}
	if look.Initialized {
		a.Promotion = s.local.promotion
		a.SystemID, a.Timeline, a.Checkpoint = look.SystemID, look.CheckpointTimeline, look.Checkpoint
		a.Position, a.Exact = look.Checkpoint, look.State == postgresql.ShutDown
		if e := s.report.end; e.timeline == a.Timeline && e.position > a.Position {
			a.Position, a.Exact = e.position, e.exact
		}
	}
	if a == was {
		return false, nil
	}
	if err := save(k.o.Files, asideFile, a); err != nil {
		return false, err
	}
	k.set(func(s *shared) { s.local.aside = a })
	return false, nil
}

// tidyAside removes the old data directory once the new copy streams, if
// nothing in it can be missing from the cluster's history (protocols.md K9).
func (k *Keeper) tidyAside(ctx context.Context, in decide.In) error {
	s := k.get()
	r := s.report
	if k.applied.asideDone || !r.look.Aside || r.sample == nil || !r.sample.ReceiverUp {
		return nil
	}
	a := s.local.aside
	left := leftAt(r.sample, a.Timeline)
	known := a.SystemID == r.sample.SystemID && a.Exact && a.Position <= left
	if known {
		// A timeline that two may have created tells nothing by its number.
		apart, err := k.ambiguous(ctx, in.Data.Cluster.UID, a.Timeline, a.Timeline, a.Promotion)
		if err != nil {
			return err
		}
		known = !apart
	}
	if known {
		if err := k.o.Instance.DropAside(ctx); err != nil {
			return err
		}
		k.log.Info("old data directory removed", zap.String("why", "it holds nothing that the cluster has not"))
	} else {
		k.log.Warn("keeping the old data directory: it may hold transactions that the cluster has not. Remove it when nobody needs them",
			zap.String("directory", k.o.DataDir+"/postgres.aside"), zap.Uint64("timeline", a.Timeline), zap.Stringer("lsn", a.Position),
			zap.Stringer("fork", left), zap.Uint64("bytes", uint64(a.Position-min(left, a.Position))))
	}
	k.applied.asideDone = true
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

// note tells the cluster which timeline the running primary created, if that
// was not told before its promotion or turned out to be another.
func (k *Keeper) note(ctx context.Context, in decide.In) error {
	ctx, cancel := context.WithTimeout(ctx, k.o.StoreTimeout)
	defer cancel()
	if p := k.get().local.promotion; p.Created != in.Seen.Timeline {
		p.Created = in.Seen.Timeline
		if err := k.savePromotion(p); err != nil {
			return err
		}
	}
	if err := k.noteCreator(ctx, in.Data.Cluster.UID, in.Seen.Timeline, in.Own.Promoted); err != nil {
		return fmt.Errorf("note who created timeline %d: %w", in.Seen.Timeline, err)
	}
	k.applied.noted = in.Seen.Timeline
	return nil
}

// noteCreator adds the db to those that may have created the timeline.
func (k *Keeper) noteCreator(ctx context.Context, clusterUID string, timeline uint64, dbUID string) error {
	key := k.creators(clusterUID, timeline)
	for {
		kv, err := k.o.Store.Get(ctx, key)
		if err != nil {
			return err
		}
		list, revision := []string{}, int64(0)
		if kv != nil {
			list, revision = decodeCreators(kv.Value), kv.Revision
		}
		if slices.Contains(list, dbUID) {
			return nil
		}
		_, err = k.o.Store.Commit(ctx, []store.Condition{{Key: key, Revision: revision}}, []store.Op{{Key: key, Value: store.Encode(append(list, dbUID))}})
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// decodeCreators reads a list of creators; what can't be read stands for some
// unknown one.
func decodeCreators(value []byte) []string {
	var list []string
	if err := json.Unmarshal(value, &list); err != nil {
		return []string{"unknown"}
	}
	return list
}

// apart tells whether the data here and the followed db's may be different
// histories under one timeline number (protocols.md K7).
//
// The rule: a db that is promoted adds itself to the timeline's list before its
// keeper records the generation, and the sentinel makes nobody follow a master
// before that. So whoever is told to follow finds both names on the list, or
// the timeline has one creator.
func (k *Keeper) apart(ctx context.Context, in decide.In) (bool, error) {
	if in.Data == nil || !in.Seen.Initialized {
		return false, nil
	}
	db := in.Data.DBOf(k.uid)
	if db == nil || db.Spec.FollowConfig == nil {
		return false, nil
	}
	followed := in.Data.DBs[db.Spec.FollowConfig.DBUID]
	copying := db.UID != in.Own.State.UID || in.Own.State.Initializing
	if followed == nil || !copying && (in.Own.Followed == "" || in.Own.Followed == followed.UID) {
		return false, nil
	}
	from, to := in.Seen.Timeline, in.Seen.Timeline
	if !in.Seen.Answers {
		// Its last timeline may be a later one, and only those matter that the
		// followed db has too.
		theirs := followed.Status.TimelineID
		if in.Followed != nil && in.Followed.UID == followed.UID && in.Followed.Healthy {
			theirs = in.Followed.TimelineID
		}
		from, to = min(from, theirs), max(to, theirs)
	}
	return k.ambiguous(ctx, in.Data.Cluster.UID, from, to, k.get().local.promotion)
}

// ambiguous reports whether one of the timelines may have been created by more
// than one db, or by another than the one that this data directory was when it
// created it.
func (k *Keeper) ambiguous(ctx context.Context, clusterUID string, from, to uint64, own promotion) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, k.o.StoreTimeout)
	defer cancel()
	for timeline := max(from, 2); timeline <= to; timeline++ {
		kv, err := k.o.Store.Get(ctx, k.creators(clusterUID, timeline))
		if err != nil {
			return false, fmt.Errorf("read who created timeline %d: %w", timeline, err)
		}
		var list []string
		if kv != nil {
			list = decodeCreators(kv.Value)
		}
		if len(list) > 1 || own.DB != "" && own.Created == timeline && !slices.Equal(list, []string{own.DB}) {
			return true, nil
		}
	}
	return false, nil
}

// followedBy is whom the step's configuration makes the instance follow.
func followedBy(step decide.Step) followed {
	if step.Mode == decide.Standby && step.DB.Spec.FollowConfig != nil {
		return followed{DB: step.DB.Spec.FollowConfig.DBUID}
	}
	return followed{}
}

// saveFollowed remembers whom the standby is pointed at, before it is.
func (k *Keeper) saveFollowed(f followed) error {
	if k.get().local.followed == f {
		return nil
	}
	if err := save(k.o.Files, followedFile, f); err != nil {
		return err
	}
	k.set(func(s *shared) { s.local.followed = f })
	return nil
}
