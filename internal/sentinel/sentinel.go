// Package sentinel is the loop around sentinel/decide: it campaigns for
// leadership, keeps a memory of everybody's signs of life, and while leading
// writes what decide makes of them.
//
// One goroutine does everything, so that nothing goes on when a step hangs:
// the session is renewed by the same loop that decides, and a leader that is
// stuck for longer than its session loses it (protocols.md S1).
package sentinel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"stolon/internal/cluster"
	"stolon/internal/lifeline"
	"stolon/internal/sentinel/decide"
	"stolon/internal/store"
)

const (
	// sessionTTL is how long a dead leader keeps others from leading.
	sessionTTL = 5 * time.Second
	// coalesce is how long changes are gathered before they are looked at.
	coalesce = 5 * time.Millisecond
	// retryAfter is the pause after a store error.
	retryAfter = time.Second
	// goodbye bounds the leave-taking at the end of Run.
	goodbye = 2 * time.Second
)

// Sentinel is one sentinel process.
type Sentinel struct {
	o   Options
	log *zap.Logger

	mirror  store.Mirror
	changes <-chan store.Change
	mem     decide.Memory

	// What a write takes says nothing of reads, nor of renewals.
	reads, writes store.Patience

	candidacy store.Candidacy
	leading   bool
	info      store.Held
	published published
	lifelines *lifeline.Holder // to the proxies and the other sentinels

	set   cluster.Settings // of setOf
	setOf []byte           // cluster data as stored; nil: none decoded yet

	// When the next of each is due, by o.Clock.
	renewAt, heartbeatAt, passAt time.Duration

	told    map[string]bool // what the last pass was waiting for
	problem []string        // of that, what an operator must end
	storeOK bool
	badData string
	metrics metrics
}

// New checks the options.
func New(o Options) (*Sentinel, error) {
	switch {
	case o.UID == "":
		return nil, errors.New("sentinel: no UID")
	case o.Store == nil || o.Clock == nil || o.Wall == nil || o.NewUID == nil || o.Pick == nil || o.Log == nil:
		return nil, errors.New("sentinel: Store, Clock, Wall, NewUID, Pick and Log are required")
	case o.StoreTimeout <= 0:
		return nil, errors.New("sentinel: StoreTimeout must be positive")
	}
	if o.Dial == nil {
		o.Dial = lifeline.Dial
	}
	s := &Sentinel{o: o, log: o.Log, told: map[string]bool{}, storeOK: true, lifelines: lifeline.NewHolder(o.Dial)}
	s.reads.Timeout, s.writes.Timeout = o.StoreTimeout, o.StoreTimeout
	if err := s.metrics.register(o.Metrics, s); err != nil {
		return nil, fmt.Errorf("sentinel: metrics: %w", err)
	}
	return s, nil
}

// Run campaigns and, while leading, moves the cluster towards its spec. It
// returns nil once ctx has ended, after giving up the lead.
func (s *Sentinel) Run(ctx context.Context) error {
	s.log.Info("sentinel uid", zap.String("uid", s.o.UID))
	s.changes = s.o.Store.Watch(ctx, s.o.Store.Base())
	defer s.lifelines.Close()
	defer s.leave()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var elected <-chan struct{}
		if s.candidacy != nil && !s.leading {
			elected = s.candidacy.Elected()
		}
		select {
		case <-ctx.Done():
			return nil
		case ch, ok := <-s.changes:
			if !ok {
				return nil
			}
			s.take(ch)
		case <-elected:
		case uid := <-s.lifelines.Exited():
			s.exited(ctx, uid)
		case <-timer.C:
		}
		s.drain()
		s.step(ctx)
		timer.Reset(max(0, min(s.renewAt, s.heartbeatAt, s.passAt)-s.o.Clock()))
	}
}

// drain takes in what else has come, so that it doesn't matter which of
// several wake-ups was taken first.
func (s *Sentinel) drain() {
	for {
		select {
		case ch, ok := <-s.changes:
			if !ok {
				return
			}
			s.take(ch)
		default:
			return
		}
	}
}

func (s *Sentinel) take(ch store.Change) {
	s.mirror.Apply(ch)
	s.passAt = min(s.passAt, s.o.Clock()+coalesce)
}

// step does what is due.
func (s *Sentinel) step(ctx context.Context) {
	if s.o.Clock() >= s.renewAt {
		s.renew(ctx)
	}
	s.noteElected()
	fresh := false
	if s.o.Clock() >= s.heartbeatAt {
		fresh = true
		s.heartbeat(ctx)
	}
	if now := s.o.Clock(); fresh || now >= s.passAt {
		// Whatever the pass asks for, look again when the next interval is over.
		interval := s.settings().SleepInterval.Duration
		s.passAt = now + interval
		// A shorter interval counts from now, or the pause would pass for one in
		// which the store was away.
		s.heartbeatAt = min(s.heartbeatAt, now+interval)
		s.pass(ctx, fresh)
	}
}

// write makes a write that was decided on what was read. One that hangs is
// abandoned; whether it has happened shows the next read (protocols.md C7).
func (s *Sentinel) write(ctx context.Context, do func(context.Context) error) error {
	return s.writes.Once(ctx, s.interval(), do)
}

// interval within which the loop must get on: when a store call hangs, neither
// the session nor a heartbeat is late.
func (s *Sentinel) interval() time.Duration {
	return min(s.settings().SleepInterval.Duration, sessionTTL/3)
}

// renew enters the election or keeps the session alive.
func (s *Sentinel) renew(ctx context.Context) {
	s.renewAt = s.o.Clock() + sessionTTL/3
	if s.candidacy == nil {
		// The waiting goes on for as long as Run does; only the entry is bounded.
		c, err := s.campaign(ctx)
		if err != nil {
			s.storeError("campaign for leadership", err)
			s.renewAt = s.o.Clock() + retryAfter
			return
		}
		s.log.Debug("Trying to acquire sentinels leadership")
		s.candidacy = c
		return
	}
	sent := s.o.Clock()
	err := s.reads.Ask(ctx, s.interval(), s.candidacy.Lease().Renew)
	s.called(sent)
	switch {
	case errors.Is(err, store.ErrLeaseLost):
		if s.leading {
			s.log.Warn("sentinel leadership lost")
			s.metrics.lost()
		}
		s.candidacy, s.leading, s.problem = nil, false, nil
		s.renewAt = s.o.Clock()
	case err != nil:
		s.storeError("renew the session", err)
		s.renewAt = s.o.Clock() + retryAfter
	}
}

func (s *Sentinel) campaign(ctx context.Context) (store.Candidacy, error) {
	return s.o.Store.Campaign(ctx, s.o.Store.ElectionKey(), s.o.UID, sessionTTL)
}

func (s *Sentinel) noteElected() {
	if s.candidacy == nil || s.leading {
		return
	}
	select {
	case <-s.candidacy.Elected():
		s.leading = true
		s.metrics.elected()
		s.log.Info("sentinel leadership acquired")
		s.passAt = s.o.Clock()
	default:
	}
}

// heartbeat publishes that this sentinel is there. It is a quorum request, so
// its success also tells that the store is. A leader, whose passes read, does
// without as long as what it published stands.
func (s *Sentinel) heartbeat(ctx context.Context) {
	set := s.settings()
	s.heartbeatAt = s.o.Clock() + set.SleepInterval.Duration
	sent := s.o.Clock()
	written := false
	err := s.writes.Ask(ctx, s.interval(), func(ctx context.Context) (err error) {
		written, err = s.publish(ctx)
		return err
	})
	s.called(sent)
	if err != nil {
		s.storeError("publish sentinel info", err)
		s.heartbeatAt = min(s.heartbeatAt, s.o.Clock()+retryAfter)
		return
	}
	if written {
		s.storeAnswers()
		s.mem = decide.Contact(s.mem, set, sent)
	}
}

func (s *Sentinel) publish(ctx context.Context) (written bool, err error) {
	ttl := max(2*s.settings().SleepInterval.Duration, store.MinTTL)
	lease, err := s.info.Alive(ctx, s.o.Store, ttl, s.o.Clock())
	if err != nil {
		return false, err
	}
	key := s.o.Store.SentinelKey(s.o.UID)
	kv, there := s.mirror.Get(key)
	if s.leading && there && kv.Revision == s.published.revision && lease == s.published.lease && slices.Equal(s.problem, s.published.problem) {
		return false, nil
	}
	info := cluster.SentinelInfo{UID: s.o.UID, InfoUID: s.o.NewUID(), Problems: s.problem, Lifeline: s.o.Lifeline}
	revision, err := s.o.Store.Commit(ctx, nil, []store.Op{{Key: key, Value: store.Encode(info), Lease: lease}})
	if errors.Is(err, store.ErrLeaseLost) {
		s.info.Forget()
	}
	if err != nil {
		return false, err
	}
	s.published = published{revision: revision, lease: lease, problem: s.problem}
	return true, nil
}

// published is what a sentinel's info key was last written with.
type published struct {
	revision int64
	lease    store.Lease
	problem  []string
}

// pass looks at the cluster and, while leading, takes the next step. What the
// mirror shows is only a reason to look: whatever is written is decided on a
// linearizable read.
func (s *Sentinel) pass(ctx context.Context, fresh bool) {
	if !s.mirror.Synced() {
		return
	}
	st := s.o.Store.Decode(s.mirror.Snapshot())
	s.hold(st)
	if !s.leading {
		s.follow(ctx, st)
		return
	}
	if !fresh {
		now := s.o.Clock()
		view, ok := s.view(st)
		if ok {
			s.mem = decide.Observe(s.mem, view, now, false)
			d := s.next(view, now, 0)
			if d.Data == nil {
				s.quiet(d)
				s.find(ctx, d.Ask, st.DataRevision)
				return
			}
		}
	}
	if err := s.act(ctx); err != nil {
		s.passAt = s.o.Clock() + retryAfter
		if errors.Is(err, store.ErrConflict) {
			// Somebody else wrote, or this sentinel leads no more: find out.
			s.renewAt, s.passAt = s.o.Clock(), s.o.Clock()
			return
		}
		s.storeError("check the cluster", err)
	}
}

// follow keeps the memory of a sentinel that doesn't lead.
func (s *Sentinel) follow(ctx context.Context, st *store.State) {
	if st.Data == nil && st.DataErr == nil && s.o.InitialSpec != nil {
		if err := s.act(ctx); err != nil && !errors.Is(err, store.ErrConflict) {
			s.storeError("create the cluster data", err)
		}
		return
	}
	if view, ok := s.view(st); ok {
		s.mem = decide.Observe(s.mem, view, s.o.Clock(), false)
	}
}

// act reads everything, decides, and writes.
func (s *Sentinel) act(ctx context.Context) error {
	// What is judged is judged at the time the question was sent; what is seen
	// is seen when the answer came. Each errs on the safe side.
	sent := s.o.Clock()
	var st *store.State
	err := s.reads.Ask(ctx, s.interval(), func(ctx context.Context) (err error) {
		st, err = s.o.Store.State(ctx)
		return err
	})
	took := s.called(sent)
	if err != nil {
		return err
	}
	s.storeAnswers()
	if st.Data == nil && st.DataErr == nil {
		return s.create(ctx, st)
	}
	view, ok := s.view(st)
	if !ok {
		return nil
	}
	s.mem = decide.Observe(s.mem, view, s.o.Clock(), true)
	if !s.leading {
		return nil
	}
	d := s.next(view, sent, took)
	if d.Data == nil {
		s.quiet(d)
		s.metrics.checked(s.o.Wall())
		s.find(ctx, d.Ask, st.DataRevision)
		return nil
	}
	err = s.write(ctx, func(ctx context.Context) error {
		_, err := s.o.Store.PutClusterData(ctx, d.Data, st.DataRevision, []store.Condition{s.candidacy.Leading()}, s.extOps(d.Ext)...)
		return err
	})
	if err != nil {
		return err
	}
	if d.Death {
		s.mem = decide.Confirmed(s.mem)
	}
	s.tell(d.Events)
	s.quiet(d)
	s.metrics.checked(s.o.Wall())
	s.passAt = s.o.Clock() // the next step may be possible at once
	return nil
}

// create writes the cluster data that the initial spec asks for.
func (s *Sentinel) create(ctx context.Context, st *store.State) error {
	if s.o.InitialSpec == nil {
		s.waiting([]decide.Event{{Level: decide.Info, Kind: "no cluster data", Why: `run "stolonctl init" to make a cluster`}})
		return nil
	}
	cd := cluster.New(s.o.NewUID(), s.o.InitialSpec, s.o.Wall())
	err := s.write(ctx, func(ctx context.Context) error {
		_, err := s.o.Store.PutClusterData(ctx, cd, st.DataRevision, nil)
		return err
	})
	if err != nil {
		return err
	}
	s.log.Info("cluster data created from the initial cluster spec", zap.String("cluster", cd.Cluster.UID))
	return nil
}

func (s *Sentinel) extOps(writes []decide.ExtWrite) []store.Op {
	var ops []store.Op
	for _, w := range writes {
		op := store.Op{Key: s.o.Store.ExtKey(w.Name), Delete: w.Value == nil}
		if w.Value != nil {
			op.Value = store.Encode(w.Value)
			if w.Name == cluster.ExtSwitchover {
				op.Lease = s.candidacy.Lease() // it must not outlive this leader
			}
		}
		ops = append(ops, op)
	}
	return ops
}

func (s *Sentinel) next(v decide.View, now, took time.Duration) decide.Decision {
	return decide.Next(decide.In{
		View:         v,
		Now:          decide.Now{Boot: now, Wall: s.o.Wall()},
		StoreTimeout: s.o.StoreTimeout,
		ReadTook:     took,
		NewUID:       s.o.NewUID,
		Pick:         s.o.Pick,
	}, s.mem)
}

// view returns what decide looks at, and false when the cluster data can't be
// used, which is told once.
func (s *Sentinel) view(st *store.State) (decide.View, bool) {
	err := st.DataErr
	if err == nil && st.Data != nil {
		err = st.Data.Check()
	}
	if err != nil {
		if s.badData != err.Error() {
			s.log.Error("cluster data can't be used, doing nothing", zap.Error(err))
		}
		s.badData = err.Error()
		return decide.View{}, false
	}
	s.badData = ""
	if st.Data == nil {
		return decide.View{}, false
	}
	for _, key := range cluster.SortedKeys(st.Undecodable) {
		s.log.Debug("key can't be read, taken as absent", zap.String("key", key), zap.Error(st.Undecodable[key]))
	}
	v := decide.View{Data: st.Data, Keepers: st.Keepers, Proxies: st.Proxies}
	for _, name := range cluster.SortedKeys(st.Ext) {
		switch {
		case name == decide.ExtElection:
			var r decide.ElectionRecord
			if err := json.Unmarshal(st.Ext[name].Value, &r); err == nil {
				v.Election = &r
			}
		case name == cluster.ExtInit:
			var r cluster.InitRecord
			v.Asked = json.Unmarshal(st.Ext[name].Value, &r) == nil && r.ClusterUID == st.Data.Cluster.UID
		case name == cluster.ExtSwitchoverRequest:
			var r cluster.SwitchoverRequest
			if json.Unmarshal(st.Ext[name].Value, &r) == nil && r.ID != "" {
				v.Request = &r
			}
		case name == cluster.ExtSwitchover:
			var r cluster.Switchover
			if json.Unmarshal(st.Ext[name].Value, &r) == nil && r.ID != "" {
				v.Switchover = &r
			}
		case strings.HasPrefix(name, decide.ExtForked):
			v.Forked = append(v.Forked, strings.TrimPrefix(name, decide.ExtForked))
		}
	}
	return v, true
}

// settings of the cluster as last seen.
func (s *Sentinel) settings() cluster.Settings {
	kv, ok := s.mirror.Get(s.o.Store.ClusterDataKey())
	if ok && bytes.Equal(kv.Value, s.setOf) {
		return s.set
	}
	if ok {
		if cd, err := store.DecodeClusterData(kv.Value); err == nil && cd != nil && cd.Check() == nil {
			s.set, s.setOf = cd.Cluster.Spec.Settings(), kv.Value
			return s.set
		}
	}
	return (*cluster.Spec)(nil).Settings()
}

// leave gives up the lead and withdraws the info, so that nobody waits for
// either to expire.
func (s *Sentinel) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	if s.candidacy != nil {
		if err := s.candidacy.Resign(ctx); err != nil {
			s.log.Warn("could not give up leadership, it ends with its session", zap.Error(err))
		}
	}
	if err := s.info.Revoke(ctx); err != nil {
		s.log.Debug("could not withdraw the sentinel info, it expires", zap.Error(err))
	}
}

// metrics of compat/metrics.md.
type metrics struct {
	count     prometheus.Gauge
	lastCheck prometheus.Gauge
	isLeader  prometheus.Gauge
}

func (m *metrics) register(r prometheus.Registerer, s *Sentinel) error {
	m.count = prometheus.NewGauge(prometheus.GaugeOpts{Name: "stolon_sentinel_leader_count", Help: "Number of times this sentinel became leader."})
	m.lastCheck = prometheus.NewGauge(prometheus.GaugeOpts{Name: "stolon_sentinel_last_cluster_check_success_seconds", Help: "Unix time of the last completed check as leader."})
	m.isLeader = prometheus.NewGauge(prometheus.GaugeOpts{Name: "stolon_sentinel_is_leader", Help: "1 while this sentinel leads."})
	if r == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{m.count, m.lastCheck, m.isLeader} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *metrics) elected()              { m.count.Inc(); m.isLeader.Set(1) }
func (m *metrics) lost()                 { m.isLeader.Set(0) }
func (m *metrics) checked(now time.Time) { m.lastCheck.Set(float64(now.UnixNano()) / 1e9) }
