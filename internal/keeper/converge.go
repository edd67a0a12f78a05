package keeper

import (
	"context"
	"errors"
	"strconv"
	"time"

	"go.uber.org/zap"

	"stolon/internal/cluster"
	"stolon/internal/keeper/decide"
	"stolon/internal/postgresql/conf"
)

const (
	// waitPause is how soon to look again at what has to come about.
	waitPause = 100 * time.Millisecond
	// First and longest pause after a step that failed.
	firstPause, longestPause = 200 * time.Millisecond, 5 * time.Second
	// restorePause is longer: a backup may be fetched from far away.
	restorePause = 30 * time.Second
	// maxSteps bounds one run; more than that is a step that never takes.
	maxSteps = 50
	// reapLimit is how long the parent of a postmaster that has ended has to
	// notice that. What init does takes milliseconds, but a busy one has been
	// seen to take seconds.
	reapLimit = 10 * time.Second
)

// appliedState is what converge remembers of the instance that runs.
type appliedState struct {
	config       *conf.Config // nil: not known
	internalOnly bool
	endChecked   bool
	passwords    int    // version of the secrets that the roles have
	short        string // db that ends before what it had reported
	noted        uint64 // timeline that the cluster knows the db to have created
	copied       string // db whose copy is complete but not recorded so
	endless      string // db for which the end of the data could not be found
	unfit        string // db as which the data did not stream
	starting     bool   // it has not been seen to answer since it was started
	tellNoChange bool   // say once that nothing more changed
	asideDone    bool
	restarted    bool          // for the configuration in force
	slotsFailed  time.Duration // when a slot could last not be made or dropped; 0: none
	shutsDown    bool          // it was told to for a switchover, and not started since
	refused      string        // why nothing may be done, at the last look
	pause        time.Duration
	lingering    int           // process that PostgreSQL takes for its postmaster; 0: none
	lingersUntil time.Duration // how long that is waited for
}

// gone is closed.
var gone = func() <-chan struct{} { c := make(chan struct{}); close(c); return c }()

// convergeLoop takes step after step until none is left, then waits for a
// reason to look again.
func (k *Keeper) convergeLoop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		// Ends at once when the instance dies under us.
		var exited <-chan struct{}
		if k.get().report.look.Running {
			if exited = k.o.Instance.Exited(); exited == nil {
				exited = gone // between the look and now
			}
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
	took := false
	defer func() {
		if took {
			wake(k.wakeSample) // how often it looks depends on what is expected now
		}
	}()
	for range maxSteps {
		in, err := k.look(ctx)
		if ctx.Err() != nil {
			return 0
		}
		if err != nil {
			k.tellOnce("look", err.Error(), zap.ErrorLevel, "cannot look at the instance", zap.Error(err))
			k.noteUnreadable()
			return k.nextPause()
		}
		k.tellOnce("look", "", zap.InfoLevel, "")
		step := decide.Next(in)
		if idle(step) {
			return k.rest(ctx, in, step)
		}
		// Only what the store says itself leads to an act (protocols.md C6, K2).
		if err := k.confirm(ctx, &in); errors.Is(err, errNotPromoted) {
			return k.rest(ctx, in, decide.Step{Kind: decide.Wait, Why: err.Error()})
		} else if err != nil {
			if ctx.Err() == nil {
				k.tellOnce("store", "down", zap.ErrorLevel, "store does not answer, leaving the instance as it is", zap.Error(err))
			}
			return k.nextPause()
		}
		k.tellOnce("store", "", zap.InfoLevel, "store answers again")
		if step = decide.Next(in); idle(step) || step.Kind == decide.Refuse {
			return k.rest(ctx, in, step)
		}
		k.metrics.step(step.Kind)
		took = true
		if err := k.carryOut(ctx, in, step); err != nil {
			if ctx.Err() != nil {
				return 0
			}
			if errors.Is(err, errNoLongerWanted) {
				k.log.Info("step given up, the cluster data no longer asks for it", zap.String("step", string(step.Kind)))
				continue
			}
			k.tellOnce("step", string(step.Kind)+err.Error(), zap.ErrorLevel, failure(step.Kind),
				zap.String("step", string(step.Kind)), zap.String("why", step.Why), zap.Error(err))
			if step.Kind == decide.Restore {
				return restorePause
			}
			return k.nextPause()
		}
		k.tellOnce("step", "", zap.InfoLevel, "")
		k.applied.pause = 0
	}
	k.log.Warn("the instance does not become what it should be, pausing")
	return longestPause
}

// confirm reads what an act is decided on.
func (k *Keeper) confirm(ctx context.Context, in *decide.In) error {
	st, err := k.readSwitchover(ctx)
	if err != nil {
		return err
	}
	if err := k.read(ctx); err != nil {
		return err
	}
	*in = k.with(*in)
	in.Switchover = st
	if in.Followed, err = k.followedReport(ctx, *in); err != nil {
		return err
	}
	if in.Apart, err = k.apart(ctx, *in); err != nil {
		return err
	}
	in.Asked, err = k.asked(ctx, *in)
	return err
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

// idle: nothing to do that the store would have to be asked about.
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
		Checkpoint: r.look.Checkpoint, Timeline: r.look.CheckpointTimeline, Lingers: k.lingers(r.look.Lingering),
	}
	if s := r.sample; s != nil {
		seen.Answers, seen.Primary, seen.Position, seen.Timeline = true, s.Primary, s.Position, s.TimelineID
		seen.ReceiverUp, seen.PendingRestart, seen.InSync = s.ReceiverUp, s.PendingRestart, r.inSync
		seen.Replayed = s.Replayed
		if s.PendingRestart && s.Primary {
			seen.InForce = k.limits(ctx)
		}
		seen.TargetTimeline = s.FileParameters["recovery_target_timeline"]
		seen.Slots = k.slots(ctx)
		k.applied.starting = false
		k.set(func(s *shared) { s.failedStarts = 0 })
	}
	in := k.with(decide.In{Seen: seen})
	if in.Lowers() {
		in.Seen.Needed = k.needed(ctx)
	}
	return in, nil
}

// lingers: there is a process that PostgreSQL takes for its postmaster, and it
// will be gone in a moment. That of a parent that never looks is not waited for.
func (k *Keeper) lingers(pid int) bool {
	if pid != k.applied.lingering {
		k.applied.lingering, k.applied.lingersUntil = pid, k.o.Clock()+reapLimit
		if pid != 0 {
			k.log.Info("waiting until the end of the postmaster is noticed by its parent process", zap.Int("pid", pid))
		}
	}
	return pid != 0 && k.o.Clock() < k.applied.lingersUntil
}

// limits asks a primary for its settings that a standby must not have lower.
// One that can't be told is left out.
func (k *Keeper) limits(ctx context.Context) map[string]int {
	sctx, cancel := k.within(ctx, k.get().settings().RequestTimeout.Duration)
	defer cancel()
	out := map[string]int{}
	for _, name := range cluster.SortedKeys(decide.Limits) {
		text, err := k.o.Instance.Show(sctx, name)
		if n, convErr := strconv.Atoi(text); err == nil && convErr == nil {
			out[name] = n
		}
	}
	return out
}

// needed is what a standby must have of the limits to start; nil when that
// can't be told.
func (k *Keeper) needed(ctx context.Context) map[string]int {
	sctx, cancel := k.within(ctx, k.get().settings().RequestTimeout.Duration)
	defer cancel()
	out, err := k.o.Instance.Needed(sctx)
	if err != nil {
		k.log.Debug("cannot tell what a restart needs", zap.Error(err))
		return nil
	}
	return out
}

// slots lists the replication slots, nil when they aren't worth an outage:
// what is wanted of them is tried again later.
func (k *Keeper) slots(ctx context.Context) []decide.Slot {
	if since := k.applied.slotsFailed; since != 0 && k.o.Clock()-since < k.get().settings().SleepInterval.Duration {
		return nil
	}
	sctx, cancel := k.within(ctx, k.get().settings().RequestTimeout.Duration)
	defer cancel()
	slots, err := k.o.Instance.Slots(sctx)
	if err != nil {
		k.log.Debug("cannot list the replication slots", zap.Error(err))
		return nil
	}
	out := []decide.Slot{}
	for _, s := range slots {
		leftover := s.Failover && !s.Copied
		if s.Physical || leftover {
			out = append(out, decide.Slot{Name: s.Name, Active: s.Active, Leftover: leftover})
		}
	}
	return out
}

// with returns in with the cluster data and the local state of now.
func (k *Keeper) with(in decide.In) decide.In {
	s := k.get()
	in.Data, in.Switchover = s.data, s.switchover
	in.Own = decide.Own{
		Handover: s.handover, ShutsDown: k.applied.shutsDown,
		KeeperUID: k.uid, BootUUID: k.o.BootUUID, BootSeen: s.bootSeen, State: s.local.db,
		Applied: k.applied.config, InternalOnly: k.applied.internalOnly, EndChecked: k.applied.endChecked, Short: k.applied.short,
		Promoted: s.local.promotion.DB, Noted: k.applied.noted, Followed: s.local.followed.DB,
		Restarted: k.applied.restarted, Copied: k.applied.copied != "" && k.applied.copied == s.local.db.UID,
		Major: s.report.look.MajorVersion,
		Setup: k.setup(),
	}
	if e := s.report.end; e.exact {
		in.Own.End = &decide.End{Timeline: e.timeline, Position: e.position, History: e.history}
	}
	in.Own.Origin = s.local.origin.ClusterUID
	in.Own.Untouched = s.local.rejoin.DB != "" && s.local.rejoin.DB == s.local.db.UID
	if db := s.db(); db != nil {
		in.Own.Endless, in.Own.Unfit = k.applied.endless == db.UID, k.applied.unfit == db.UID
	}
	return in
}

// noteUnreadable: what can't be read can't be started either.
func (k *Keeper) noteUnreadable() {
	if k.o.Instance.Exited() != nil {
		return // it runs
	}
	k.set(func(s *shared) {
		s.failedStarts++
		// It is known not to run, so its end is no reason to look again at once.
		s.report.sample, s.report.look.Running = nil, false
	})
	wake(k.wakePublish)
}

// noteGone: the instance that converge knew has ended.
func (k *Keeper) noteGone() {
	k.log.Warn("postgres is not running any more", zap.String("db", k.get().local.db.UID))
	if k.applied.starting {
		// It came up and went down again without ever taking a connection.
		k.set(func(s *shared) { s.failedStarts++ })
	}
	k.forget()
}

// forget what was known of the instance that ran.
func (k *Keeper) forget() {
	k.applied.config, k.applied.internalOnly, k.applied.endChecked, k.applied.starting = nil, false, false, false
	k.set(func(s *shared) { s.force = force{epoch: s.force.epoch + 1} })
}

// rest is what is left to do when no step is: to tell why, and to clean up.
func (k *Keeper) rest(ctx context.Context, in decide.In, step decide.Step) time.Duration {
	k.set(func(s *shared) {
		if s.forked, s.refuses = step.Forked, ""; step.Kind == decide.Refuse && k.applied.refused == step.Why {
			s.refuses = step.Why
		}
	})
	if step.Kind == decide.Refuse {
		if k.applied.refused != step.Why {
			// What was reported lags behind what is: worth a second look.
			k.applied.refused = step.Why
			return min(longestPause, k.get().settings().SleepInterval.Duration)
		}
		k.tellOnce("rest", step.Why, zap.ErrorLevel, step.Why)
	} else {
		k.applied.refused = ""
		k.tellOnce("rest", step.Why, zap.DebugLevel, step.Why)
	}
	wake(k.wakePublish)
	if step.Kind == decide.Wait {
		return waitPause
	}
	if step.Kind == decide.None && step.Why == "" {
		k.metrics.synced(k.get())
		k.renewRoles(ctx, in)
		if err := k.saveOrigin(); err != nil {
			k.tellOnce("origin", err.Error(), zap.WarnLevel, "cannot save local state", zap.Error(err))
		}
		k.warnIgnored(decide.Step{DB: in.Data.DBOf(k.uid)})
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
