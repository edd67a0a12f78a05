package keeper

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"stolon/internal/keeper/decide"
)

// recoveryNews is how often a recovery that goes on is told of.
const recoveryNews = time.Minute

// adopt takes the data that is here as the db's. Until that is recorded the
// data belongs to whom it did: an interruption leaves nothing half done.
func (k *Keeper) adopt(ctx context.Context, step decide.Step) error {
	k.log.Info("adopting the existing data", zap.String("db", step.DB.UID))
	if err := k.o.Instance.Start(ctx, step.Config, true); err != nil {
		return fmt.Errorf("first start: %w", err)
	}
	defer k.forget()
	if err := k.ready(ctx); err != nil {
		return errors.Join(err, k.stop(ctx))
	}
	return k.own(ctx, step)
}

// own records that the data of the instance, which runs for the first time for
// this db, is the db's, and stops the instance.
func (k *Keeper) own(ctx context.Context, step decide.Step) error {
	params, err := k.previous(ctx, step)
	if err != nil {
		return errors.Join(err, k.stop(ctx))
	}
	if err := k.stop(ctx); err != nil {
		return err
	}
	k.set(func(s *shared) { s.report.end = end{} })
	if err := errors.Join(k.savePromotion(promotion{}), k.saveFollowed(followed{})); err != nil {
		return err
	}
	return k.saveDB(func(s *decide.DBState) { *s = decide.DBState{UID: step.DB.UID, InitPGParameters: params} })
}

// restore makes the db's data by the restore command and lets it recover. What
// was here before is set aside once and stays so whatever fails; a command that
// has succeeded is not run again.
func (k *Keeper) restore(ctx context.Context, step decide.Step) error {
	st := k.get().local.restored
	if st.DB != step.DB.UID {
		st = restored{DB: step.DB.UID}
	}
	k.log.Info("restoring db from a backup", zap.String("db", step.DB.UID), zap.Bool("data is there", st.Data))
	if err := k.saveRestored(st); err != nil {
		return err
	}
	if err := k.saveDB(func(s *decide.DBState) { *s = decide.DBState{UID: step.DB.UID, Initializing: true} }); err != nil {
		return err
	}
	if !st.Aside {
		if err := k.setAside(ctx); err != nil {
			return err
		}
		st.Aside = true
		if err := k.saveRestored(st); err != nil {
			return err
		}
	}
	look, err := k.o.Instance.Look(ctx)
	if err != nil {
		return err
	}
	if !st.Data || !look.Initialized {
		err := k.o.Instance.Restore(ctx, step.DB.Spec.PITRConfig.DataRestoreCommand, func(line string) {
			k.log.Info("data restore command", zap.String("output", line))
		})
		if err != nil {
			return fmt.Errorf("data restore command: %w", err)
		}
		k.log.Info("backup restored, recovering", zap.String("db", step.DB.UID))
		st.Data = true
		if err := k.saveRestored(st); err != nil {
			return err
		}
	}
	if err := k.o.Instance.Start(ctx, step.Config, true); err != nil {
		return fmt.Errorf("start of the restored data: %w", err)
	}
	defer k.forget()
	if err := k.awaitRecovery(ctx); err != nil {
		return errors.Join(fmt.Errorf("recovery of the restored data: %w", err), k.stop(ctx))
	}
	if err := k.own(ctx, step); err != nil {
		return err
	}
	k.log.Info("db restored", zap.String("db", step.DB.UID))
	return k.saveRestored(restored{})
}

// setAside sets the data aside. What was noted of data set aside for a copy goes
// first: by that the data of now would be taken for expendable.
func (k *Keeper) setAside(ctx context.Context) error {
	if err := k.forgetAside(k.get().local.aside.DB); err != nil {
		return err
	}
	return k.o.Instance.SetAside(ctx)
}

func (k *Keeper) saveRestored(r restored) error {
	if k.get().local.restored == r {
		return nil
	}
	if err := save(k.o.Files, restoreFile, r); err != nil {
		return err
	}
	k.set(func(s *shared) { s.local.restored = r })
	return nil
}

// awaitRecovery waits for the end of recovery, which is when the instance takes
// connections, for up to syncTimeout.
func (k *Keeper) awaitRecovery(ctx context.Context) error {
	ctx, cancel := k.within(ctx, k.get().settings().SyncTimeout.Duration)
	defer cancel()
	for {
		rctx, cancel := context.WithTimeout(ctx, recoveryNews)
		err := k.o.Instance.Ready(rctx)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
		look, lookErr := k.o.Instance.Look(ctx)
		if lookErr != nil || !look.Running {
			return errors.Join(err, lookErr)
		}
		k.log.Info("the restored data is still recovering, or the superuser cannot log in", zap.Error(err))
	}
}
