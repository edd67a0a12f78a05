package keeper

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"stolon/internal/keeper/decide"
	"stolon/internal/postgresql"
	"stolon/internal/postgresql/wal"
)

// followLimit is how long WAL may take to come, once the data takes
// connections; a copy is made when it takes longer.
const followLimit = 20 * time.Second

// endLimit is how long the recovery of data that is to rejoin may take; a copy
// is made when it takes longer.
const endLimit = 5 * time.Minute

// endOf is how far the sampled data reaches; before is what was known.
func endOf(m *postgresql.Sample, before end) end {
	conninfo, told := m.FileParameters["primary_conninfo"]
	alone := !m.Primary && !m.ReceiverUp && told && conninfo == "" && m.FileParameters["restore_command"] == ""
	e := end{timeline: m.TimelineID, position: m.Position, history: m.History}
	e.exact = alone && (m.AtEnd || before.exact && before.timeline == e.timeline && before.position == e.position)
	return e
}

// findEnd runs the instance by itself until it has recovered all its WAL. It
// can't be found: the data is not looked at again for this db.
func (k *Keeper) findEnd(ctx context.Context, step decide.Step) error {
	if err := k.forgetAside(step.DB.UID); err != nil {
		return err
	}
	k.log.Info("looking how far the data here goes", zap.String("db", step.DB.UID))
	err := k.recoverAlone(ctx, step)
	if stopErr := errors.Join(k.stop(ctx), k.forgotten()); stopErr != nil || ctx.Err() != nil {
		return errors.Join(stopErr, ctx.Err())
	}
	if err != nil {
		k.applied.endless = step.DB.UID
		k.log.Warn("the data here does not recover by itself, so it is not known what it holds", zap.Error(err))
		return nil
	}
	e := k.get().report.end
	k.log.Info("the data here was recovered", zap.Uint64("timeline", e.timeline), zap.Stringer("lsn", e.position))
	return nil
}

func (k *Keeper) recoverAlone(ctx context.Context, step decide.Step) error {
	ctx, cancel := context.WithTimeout(ctx, endLimit)
	defer cancel()
	if err := k.launch(ctx, step); err != nil {
		return err
	}
	if err := k.o.Instance.Ready(ctx); err != nil {
		return err
	}
	return k.awaitSample(ctx, func(r report) bool { return r.end.exact })
}

// awaitSample looks at the instance until ok.
func (k *Keeper) awaitSample(ctx context.Context, ok func(report) bool) error {
	tick := time.NewTicker(fastSample)
	defer tick.Stop()
	for {
		r, err := k.examine(ctx)
		if err == nil && r.sample != nil && ok(r) {
			return nil
		}
		if err == nil && !r.look.Running {
			return errors.New("postgres is not running any more")
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// beginRejoin notes that the data directory is to become the step's db. The
// cluster can learn of the address by that, which strict access asks for.
func (k *Keeper) beginRejoin(step decide.Step) error {
	s := k.get()
	untouched := rejoin{}
	if !s.local.db.Initializing || s.local.rejoin.DB == s.local.db.UID {
		untouched.DB = step.DB.UID
	}
	if err := k.saveRejoin(untouched); err != nil {
		return err
	}
	return k.saveDB(func(s *decide.DBState) { *s = decide.DBState{UID: step.DB.UID, Initializing: true} })
}

func (k *Keeper) saveRejoin(r rejoin) error {
	if k.get().local.rejoin == r {
		return nil
	}
	if err := save(k.o.Files, rejoinFile, r); err != nil {
		return err
	}
	k.set(func(s *shared) { s.local.rejoin = r })
	return nil
}

// forgetAside drops what was noted of the data for a copy that didn't come
// about, before something is done that changes the data: it would be taken for
// the copy.
func (k *Keeper) forgetAside(dbUID string) error {
	if k.get().local.aside.DB != dbUID {
		return nil
	}
	if err := save(k.o.Files, asideFile, aside{}); err != nil {
		return err
	}
	k.set(func(s *shared) { s.local.aside = aside{} })
	return nil
}

// follow makes the data here, which is a beginning of the followed db's, the
// new db's as it is. It reports false when it doesn't stream after all. The
// data directory is the old db's until it does: nothing is lost by an
// interruption.
func (k *Keeper) follow(ctx context.Context, step decide.Step) (bool, error) {
	if err := k.forgetAside(step.DB.UID); err != nil {
		return false, err
	}
	was := k.get().report.end
	err := k.launch(ctx, step)
	if err == nil {
		err = k.awaitFollowing(ctx, was.position)
	}
	if err == nil {
		k.log.Info("rejoined without a copy", zap.String("db", step.DB.UID), zap.Uint64("timeline", was.timeline), zap.Stringer("lsn", was.position))
		return true, k.copied(step)
	}
	if stopErr := errors.Join(k.stop(ctx), k.forgotten()); stopErr != nil || ctx.Err() != nil {
		return false, errors.Join(stopErr, ctx.Err())
	}
	k.applied.unfit = step.DB.UID
	k.set(func(s *shared) { s.report.end = was }) // what has come since is the cluster's
	k.log.Warn("the data here fits, but does not stream", zap.Error(err))
	return false, nil
}

// awaitFollowing waits until WAL has come from the followed db. A receiver that
// is up proves nothing yet: it is for a moment when the WAL is refused, too.
func (k *Keeper) awaitFollowing(ctx context.Context, from wal.LSN) error {
	ctx, cancel := k.within(ctx, k.get().settings().DBWaitReadyTimeout.Duration)
	defer cancel()
	if err := k.o.Instance.Ready(ctx); err != nil {
		return err
	}
	sctx, cancel := context.WithTimeout(ctx, followLimit)
	defer cancel()
	up := 0
	err := k.awaitSample(sctx, func(r report) bool {
		if up++; !r.sample.ReceiverUp {
			up = 0
		}
		return up > 0 && r.sample.Position > from || up > steadily
	})
	if err != nil {
		return fmt.Errorf("no WAL came: %w", err)
	}
	return nil
}

// steadily is how many samples in a row prove a receiver that has nothing to
// receive.
const steadily = 20
