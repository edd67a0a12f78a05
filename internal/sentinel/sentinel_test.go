package sentinel

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"stolon/internal/cluster"
	"stolon/internal/store"
	"stolon/internal/store/memory"
)

// room is a store with sentinels around it, on virtual time.
type room struct {
	t     *testing.T
	srv   *memory.Server
	start time.Time
	logs  *observer.ObservedLogs
	log   *zap.Logger

	mu     sync.Mutex
	writes map[string]int // commits by client and key
	cut    map[string]bool
	hangs  func(memory.Request) bool // nil, or whether a request shall hang

	storeTimeout time.Duration
}

func newRoom(t *testing.T) *room {
	core, logs := observer.New(zapcore.InfoLevel)
	return &room{t: t, srv: memory.New(), start: time.Now(), logs: logs, log: zap.New(core), writes: map[string]int{}, cut: map[string]bool{}, storeTimeout: time.Second}
}

// hook counts writes and lets nothing of a cut off client through.
func (r *room) hook(ctx context.Context, q memory.Request) error {
	r.mu.Lock()
	if r.hangs != nil && r.hangs(q) {
		r.mu.Unlock()
		<-ctx.Done()
		return ctx.Err()
	}
	defer r.mu.Unlock()
	if r.cut[q.Client] {
		return fmt.Errorf("%s is cut off", q.Client)
	}
	if q.Stage == memory.After && q.Err == nil {
		for _, op := range q.Ops {
			r.writes[q.Client+" "+op.Key]++
		}
	}
	return nil
}

// written counts a client's writes of the cluster data.
func (r *room) written(uid string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.writes[uid+" "+r.client().ClusterDataKey()]
}

// beats counts a sentinel's heartbeats.
func (r *room) beats(uid string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.writes[uid+" "+r.client().SentinelKey(uid)]
}

func (r *room) cutOff(uid string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut[uid] = true
}

func (r *room) client() *store.Client {
	return store.NewClient(r.srv.Client("test", nil), "stolon/cluster", "test")
}

// sentinel runs one until the returned function is called, which waits for its
// end.
func (r *room) sentinel(uid string) (stop func()) {
	r.t.Helper()
	mode := cluster.InitNew
	n := 0
	s, err := New(Options{
		UID: uid, InitialSpec: &cluster.Spec{InitMode: &mode},
		Store: store.NewClient(r.srv.Client(uid, r.hook), "stolon/cluster", "test"),
		Clock: func() time.Duration { return time.Since(r.start) }, Wall: time.Now,
		NewUID: func() string { n++; return fmt.Sprintf("%s-%d", uid, n) }, Pick: func(int) int { return 0 },
		Log: r.log, StoreTimeout: r.storeTimeout,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("Run = %v", err)
		}
	}
}

func (r *room) leader() string {
	r.t.Helper()
	uid, err := r.client().Leader(context.Background(), r.client().ElectionKey())
	if err != nil {
		r.t.Fatal(err)
	}
	return uid
}

func TestSentinelCreatesTheClusterOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		stop1, stop2 := r.sentinel("s1"), r.sentinel("s2")
		time.Sleep(10 * time.Second)
		cd, _, err := r.client().ClusterData(context.Background())
		if err != nil || cd == nil || cd.Cluster.Status.Phase != cluster.Initializing {
			t.Fatalf("cluster data %+v, %v; want a cluster that is initializing", cd, err)
		}
		if got := r.written("s1") + r.written("s2"); got != 1 {
			t.Errorf("the cluster data was written %d times, want once", got)
		}
		stop1()
		stop2()
	})
}

func TestLeaderHandsOverAtOnceWhenItStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		stop1 := r.sentinel("s1")
		time.Sleep(time.Second)
		stop2 := r.sentinel("s2")
		time.Sleep(time.Second)
		if got := r.leader(); got != "s1" {
			t.Fatalf("leader %q, want s1", got)
		}
		stop1()
		time.Sleep(100 * time.Millisecond)
		if got := r.leader(); got != "s2" {
			t.Errorf("leader %q 100 ms after s1 stopped, want s2", got)
		}
		stop2()
	})
}

func TestLeaderThatIsCutOffLosesTheLead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		stop1 := r.sentinel("s1")
		time.Sleep(time.Second)
		stop2 := r.sentinel("s2")
		time.Sleep(time.Second)
		r.cutOff("s1")
		time.Sleep(sessionTTL + time.Second)
		if got := r.leader(); got != "s2" {
			t.Errorf("leader %q %s after s1 was cut off, want s2", got, sessionTTL+time.Second)
		}
		stop1()
		stop2()
	})
}

func TestQuietClusterWritesHeartbeatsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		stop := r.sentinel("s1")
		time.Sleep(time.Second)
		stop2 := r.sentinel("s2")
		time.Sleep(22 * time.Second) // between two heartbeats
		before := r.logs.Len()
		writes, leads, follows := r.written("s1"), r.beats("s1"), r.beats("s2")
		time.Sleep(10 * time.Minute)
		if got := r.written("s1"); got != writes {
			t.Errorf("%d more writes of the cluster data in ten quiet minutes", got-writes)
		}
		if leads, follows = r.beats("s1")-leads, r.beats("s2")-follows; leads != 0 || follows != 120 {
			t.Errorf("the leader wrote %d heartbeats in ten quiet minutes and the follower %d, want none, as it reads, and 120", leads, follows)
		}
		if kv, err := r.client().Get(t.Context(), r.client().SentinelKey("s1")); err != nil || kv == nil {
			t.Errorf("the leader's info is %v, %v", kv, err)
		}
		for _, e := range r.logs.All()[before:] {
			if e.Level >= zapcore.InfoLevel {
				t.Errorf("a quiet sentinel logged %q", e.Message)
			}
		}
		stop()
		stop2()
	})
}

func TestShorterSleepIntervalCountsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		stop := r.sentinel("s1")
		time.Sleep(time.Second)
		stop2 := r.sentinel("s2")          // it follows
		time.Sleep(100 * time.Millisecond) // by the default of 5 s it is quiet until 5 s
		err := r.client().Update(t.Context(), func(cd *cluster.ClusterData) error {
			cd.Cluster.Spec.SleepInterval = &cluster.Duration{Duration: time.Second}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * time.Second)
		if got := r.beats("s2"); got < 4 {
			t.Errorf("%d heartbeats in 4 s of which each should have one", got)
		}
		stop()
		stop2()
	})
}

func TestSentinelTellsOnceThatTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		stop := r.sentinel("s1")
		time.Sleep(time.Second)
		r.cutOff("s1")
		time.Sleep(5 * time.Minute)
		told := 0
		for _, e := range r.logs.All() {
			if strings.Contains(e.Message, "store does not answer") {
				told++
			}
		}
		if told != 1 {
			t.Errorf("told %d times in five minutes, want once", told)
		}
		stop()
	})
}

// The info of a leader stays although it writes it no more: it is there again
// when somebody deleted it or its lease was lost.
func TestALeadersInfoIsPutBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		stop := r.sentinel("s1")
		key := r.client().SentinelKey("s1")
		for name, lose := range map[string]func(){
			"deleted": func() {
				if _, err := r.client().Commit(t.Context(), nil, []store.Op{{Key: key, Delete: true}}); err != nil {
					t.Fatal(err)
				}
			},
			"its lease ended": r.srv.ExpireAll,
		} {
			time.Sleep(20 * time.Second)
			lose()
			time.Sleep(16 * time.Second)
			if kv, err := r.client().Get(t.Context(), key); err != nil || kv == nil {
				t.Errorf("%s: the info is %v, %v", name, kv, err)
			}
		}
		stop()
	})
}
