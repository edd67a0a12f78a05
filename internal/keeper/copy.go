package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"stolon/internal/cluster"
	"stolon/internal/keeper/decide"
	"stolon/internal/postgresql"
	"stolon/internal/postgresql/conf"
	"stolon/internal/postgresql/wal"
)

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
	if err := k.setAside(ctx); err != nil {
		return err
	}
	secrets := k.get().secrets
	initdb := postgresql.InitDB{Superuser: k.o.Superuser.User, Password: secrets.superuser.now, Scram: k.o.Superuser.Method == ScramSHA256}
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
	params, err := k.previous(ctx, step)
	if err != nil {
		return err
	}
	if err := k.o.Instance.SetRoles(ctx, k.roles(secrets)); err != nil {
		return err
	}
	if err := k.stop(ctx); err != nil {
		return err
	}
	return k.saveDB(func(s *decide.DBState) { s.Initializing, s.InitPGParameters = false, params })
}

// previous returns the parameters that the data came with, if they are wanted.
func (k *Keeper) previous(ctx context.Context, step decide.Step) (map[string]string, error) {
	if !step.DB.Spec.IncludePreviousConfig {
		return nil, nil
	}
	s, err := k.o.Instance.Sample(ctx)
	if err != nil {
		return nil, err
	}
	return conf.Reported(s.FileParameters, step.DB.Spec.PGParameters), nil
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
	if err := k.beginRejoin(step); err != nil {
		return err
	}
	if step.Follow {
		if done, err := k.follow(ctx, step); done || err != nil {
			return err
		}
	}
	from := k.asReplication(postgresql.Source{
		Host: followed.Status.ListenAddress, Port: followed.Status.Port,
		ApplicationName: conf.ApplicationName(step.DB.UID), Slot: conf.SlotName(step.DB.UID),
	})
	if step.Rewind {
		done, err := k.rewind(ctx, step, from)
		if done || err != nil {
			return err
		}
	}
	k.applied.unfit = "" // if this fails, the source may have been away before
	swapped, err := k.noteAside(ctx, step.DB.UID)
	if err != nil {
		return err
	}
	if !swapped {
		from, err := k.makeRoom(ctx, from)
		if err != nil {
			return err
		}
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
	k.set(func(s *shared) { s.report.end = end{} }) // of other data
	err := errors.Join(k.savePromotion(promotion{}), k.saveFollowed(followedBy(step)))
	if err == nil {
		err = k.saveDB(func(s *decide.DBState) { s.Initializing = false })
	}
	if err == nil {
		err = k.saveRejoin(rejoin{})
	}
	if err != nil {
		return err
	}
	k.applied.copied = ""
	k.log.Info("sync succeeded", zap.String("db", step.DB.UID))
	return nil
}

// rewind tries to rewind instead of copying. It reports false when a copy is
// needed after all. A source that isn't there now is waited for: a copy would
// need it too.
func (k *Keeper) rewind(ctx context.Context, step decide.Step, from postgresql.Source) (bool, error) {
	from = k.asSuperuser(from)
	if err := k.o.Instance.PrepareRewind(ctx, from); err != nil {
		if errors.Is(err, postgresql.ErrCannotRewind) {
			k.log.Warn("pg_rewind can't be used, copying everything", zap.Error(err))
			return false, ctx.Err()
		}
		return false, err
	}
	if err := errors.Join(k.forgetAside(step.DB.UID), k.saveRejoin(rejoin{})); err != nil {
		return false, err
	}
	e := k.get().report.end
	k.set(func(s *shared) { s.report.end.exact = false })
	if err := k.o.Instance.Rewind(ctx, from); err != nil {
		k.log.Warn("pg_rewind failed, copying everything", zap.Error(err))
		return false, ctx.Err()
	}
	k.log.Warn("what this keeper had written past the fork was undone by pg_rewind", zap.String("db", step.DB.UID),
		zap.Uint64("timeline", e.timeline), zap.Stringer("lsn", e.position))
	if err := k.launch(ctx, step); err != nil {
		k.log.Warn("postgres does not start after pg_rewind, copying everything", zap.Error(err))
		return false, errors.Join(k.stop(ctx), k.forgotten(), ctx.Err())
	}
	// The WAL between the fork and now may be gone from the source.
	if err := k.awaitStreaming(ctx); err != nil {
		k.log.Warn("the rewound instance does not stream, copying everything", zap.Error(err))
		return false, errors.Join(k.stop(ctx), k.forgotten(), ctx.Err())
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
	kv, err := k.getKey(ctx, k.o.Store.KeeperKey(followed.Spec.KeeperUID))
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
