package keeper

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"stolon/internal/keeper/decide"
	"stolon/internal/postgresql/conf"
)

const (
	// waitPause is how soon to look again at what has to come about.
	waitPause = 50 * time.Millisecond
	// First and longest pause after a step that failed.
	firstPause, longestPause = 200 * time.Millisecond, 5 * time.Second
	// maxSteps bounds one run; more than that is a step that never takes.
	maxSteps = 50
)

// appliedState is what converge remembers of the instance that runs.
type appliedState struct {
	config       *conf.Config // nil: not known
	internalOnly bool
	endChecked   bool
	followed     string // db that a standby was last pointed at
	started      time.Duration
	startedHere  bool // since then it has not been seen to answer
	tellNoChange bool // say once that nothing more changed
	asideDone    bool
	pause        time.Duration
}

// convergeLoop takes step after step until none is left, then waits for a
// reason to look again.
func (k *Keeper) convergeLoop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		// Ends at once when the instance dies under us.
		var exited <-chan struct{}
		if k.get().report.look.Running {
			exited = k.o.Instance.Exited()
		}
		select {
		case <-ctx.Done():
			return
		case <-k.wakeConverge:
		case <-exited:
		case <-timer.C:
		}
		select {
		case <-k.wakeConverge:
		default:
		}
		timer.Reset(k.converge(ctx))
	}
}

// converge takes steps and returns when to look again.
func (k *Keeper) converge(ctx context.Context) time.Duration {
	k.metrics.loop(k.get())
	for range maxSteps {
		in, err := k.look(ctx)
		if ctx.Err() != nil {
			return 0
		}
		if err != nil {
			k.tellOnce("look", err.Error(), zap.ErrorLevel, "cannot look at the instance", zap.Error(err))
			return k.nextPause()
		}
		k.tellOnce("look", "", zap.InfoLevel, "")
		step := decide.Next(in)
		if idle(step) {
			return k.rest(ctx, in, step)
		}
		// Only what the store says itself leads to an act (protocols.md C6, K2).
		if err := k.read(ctx); err != nil {
			k.tellOnce("store", "down", zap.ErrorLevel, "store does not answer, leaving the instance as it is", zap.Error(err))
			return k.nextPause()
		}
		k.tellOnce("store", "", zap.InfoLevel, "store answers again")
		in = k.with(in)
		if in.Followed, err = k.followedReport(ctx, in); err != nil {
			return k.nextPause()
		}
		if step = decide.Next(in); idle(step) {
			return k.rest(ctx, in, step)
		}
		k.set(func(s *shared) { s.busy = true })
		k.metrics.step(step.Kind)
		if err := k.carryOut(ctx, in, step); err != nil {
			if ctx.Err() != nil {
				return 0
			}
			k.tellOnce("step", string(step.Kind)+err.Error(), zap.ErrorLevel, failure(step.Kind),
				zap.String("step", string(step.Kind)), zap.String("why", step.Why), zap.Error(err))
			wake(k.wakeSample)
			return k.nextPause()
		}
		k.tellOnce("step", "", zap.InfoLevel, "")
		k.applied.pause = 0
		wake(k.wakeSample)
	}
	k.log.Warn("the instance does not become what it should be, pausing")
	return longestPause
}

// failure is the message of a step that failed; some are what people alert on.
func failure(kind decide.Kind) string {
	switch kind {
	case decide.Start:
		return "failed to start postgres"
	case decide.Reload:
		return "failed to reload postgres"
	}
	return "step failed, trying again"
}

func idle(s decide.Step) bool { return s.Kind == decide.None || s.Kind == decide.Wait }

func (k *Keeper) nextPause() time.Duration {
	k.applied.pause = min(max(2*k.applied.pause, firstPause), longestPause)
	return k.applied.pause
}

// look looks at the instance and puts together what a step is decided from.
func (k *Keeper) look(ctx context.Context) (decide.In, error) {
	r, err := k.examine(ctx)
	if err != nil {
		return decide.In{}, err
	}
	if !r.look.Running && k.applied.config != nil {
		k.noteGone()
	}
	seen := decide.Seen{
		Initialized: r.look.Initialized, SystemID: r.look.SystemID, Running: r.look.Running, StandbySignal: r.look.StandbySignal,
		Checkpoint: r.look.Checkpoint, CheckpointTimeline: r.look.CheckpointTimeline,
	}
	if s := r.sample; s != nil {
		seen.Answers, seen.Primary, seen.Position = true, s.Primary, s.Position
		seen.ReceiverUp, seen.PendingRestart, seen.InSync = s.ReceiverUp, s.PendingRestart, r.inSync
		slots, err := k.o.Instance.Slots(ctx)
		if err != nil {
			// Not worth an outage: what is needed of slots is tried again.
			k.log.Debug("cannot list the replication slots", zap.Error(err))
		} else {
			seen.Slots = []decide.Slot{}
			for _, s := range slots {
				if s.Physical {
					seen.Slots = append(seen.Slots, decide.Slot{Name: s.Name, Active: s.Active})
				}
			}
		}
		if k.applied.startedHere {
			k.applied.startedHere = false
			k.set(func(s *shared) { s.failedStarts = 0 })
		}
	}
	return k.with(decide.In{Seen: seen}), nil
}

// with returns in with the cluster data and the local state of now.
func (k *Keeper) with(in decide.In) decide.In {
	s := k.get()
	in.Data = s.data
	in.Own = decide.Own{
		KeeperUID: k.uid, BootUUID: k.o.BootUUID, BootSeen: s.bootSeen, State: s.local.db,
		Applied: k.applied.config, InternalOnly: k.applied.internalOnly, EndChecked: k.applied.endChecked,
		OwnFork: s.local.promotion.DB != "" && s.local.promotion.Timeline+1 == in.Seen.CheckpointTimeline,
		Setup:   k.setup(),
	}
	return in
}

// noteGone: the instance that converge knew has ended.
func (k *Keeper) noteGone() {
	k.log.Warn("postgres is not running any more", zap.String("db", k.get().local.db.UID))
	if k.applied.startedHere && k.o.Clock()-k.applied.started < longestPause*2 {
		// It came up and went down again without ever taking a connection.
		k.set(func(s *shared) { s.failedStarts++ })
		k.nextPause()
	}
	k.forget()
}

// forget what was known of the instance that ran.
func (k *Keeper) forget() {
	k.applied.config, k.applied.internalOnly, k.applied.endChecked, k.applied.startedHere = nil, false, false, false
	k.set(func(s *shared) { s.force = force{epoch: s.force.epoch + 1} })
}

// rest is what is left to do when no step is: to tell why, and to clean up.
func (k *Keeper) rest(ctx context.Context, in decide.In, step decide.Step) time.Duration {
	level := zap.DebugLevel
	if step.Alarm {
		level = zap.ErrorLevel
	}
	k.tellOnce("rest", step.Why, level, step.Why)
	if step.Kind == decide.Wait {
		k.set(func(s *shared) { s.busy = true })
		wake(k.wakeSample)
		return waitPause
	}
	if k.get().busy {
		k.set(func(s *shared) { s.busy = false })
		wake(k.wakeSample)
	}
	if step.Why == "" {
		k.metrics.synced(k.get())
		if k.applied.tellNoChange {
			k.applied.tellNoChange = false
			k.log.Info("postgres parameters not changed")
		}
		if err := k.tidyAside(ctx, in); err != nil && !errors.Is(err, context.Canceled) {
			k.tellOnce("aside", err.Error(), zap.WarnLevel, "cannot remove the old data directory", zap.Error(err))
		}
	}
	return k.get().settings().SleepInterval.Duration
}
