//go:build integration

package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"

	"stolon/internal/store"
	"stolon/internal/store/open"
	"stolon/internal/store/storetest"
	"stolon/tests/servers"
)

func openStore(t *testing.T, endpoints string, timeout time.Duration) store.Backend {
	t.Helper()
	b, err := open.Backend(open.Config{Backend: "etcdv3", Endpoints: endpoints, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// openOwn is openStore with a Close at the end of the test.
func openOwn(t *testing.T, endpoints string, timeout time.Duration) store.Backend {
	t.Helper()
	b := openStore(t, endpoints, timeout)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	return b
}

// rawEtcd is a client of etcd that isn't ours.
func rawEtcd(t *testing.T, endpoint string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// within places every key of a backend below a prefix of its own, so that the
// tests of the suite share a server.
type within struct {
	store.Backend
	prefix string
}

func (w within) Get(ctx context.Context, key string) (*store.KV, error) {
	kv, err := w.Backend.Get(ctx, w.prefix+key)
	if kv != nil {
		kv.Key = strings.TrimPrefix(kv.Key, w.prefix)
	}
	return kv, err
}

func (w within) List(ctx context.Context, prefix string) (store.Snapshot, error) {
	snap, err := w.Backend.List(ctx, w.prefix+prefix)
	w.strip(snap.KVs)
	return snap, err
}

func (w within) Commit(ctx context.Context, conds []store.Condition, ops []store.Op) (int64, error) {
	var cs []store.Condition
	for _, c := range conds {
		if !strings.HasPrefix(c.Key, w.prefix) { // that of a candidacy has it
			c.Key = w.prefix + c.Key
		}
		cs = append(cs, c)
	}
	var os []store.Op
	for _, o := range ops {
		o.Key = w.prefix + o.Key
		os = append(os, o)
	}
	return w.Backend.Commit(ctx, cs, os)
}

func (w within) Watch(ctx context.Context, prefix string) <-chan store.Change {
	out := make(chan store.Change, 1)
	in := w.Backend.Watch(ctx, w.prefix+prefix)
	go func() {
		defer close(out)
		for ch := range in {
			w.strip(ch.Puts)
			for i := range ch.Deletes {
				ch.Deletes[i] = strings.TrimPrefix(ch.Deletes[i], w.prefix)
			}
			store.Offer(out, ch)
		}
	}()
	return out
}

func (w within) Campaign(ctx context.Context, prefix, uid string, ttl time.Duration) (store.Candidacy, error) {
	return w.Backend.Campaign(ctx, w.prefix+prefix, uid, ttl)
}

func (w within) Depose(ctx context.Context, prefix, uid string) error {
	return w.Backend.Depose(ctx, w.prefix+prefix, uid)
}

func (w within) Leader(ctx context.Context, prefix string) (string, error) {
	return w.Backend.Leader(ctx, w.prefix+prefix)
}

func (w within) strip(kvs []store.KV) {
	for i := range kvs {
		kvs[i].Key = strings.TrimPrefix(kvs[i].Key, w.prefix)
	}
}

func TestEtcdConformance(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d members", n), func(t *testing.T) {
			endpoints := servers.Endpoints(servers.StartEtcdCluster(t, n))
			storetest.Run(t, func(t *testing.T) store.Backend {
				return within{openStore(t, endpoints, 10*time.Second), t.Name() + ": "}
			})
		})
	}
}

func mustPut(t *testing.T, b store.Backend, key, value string) int64 {
	t.Helper()
	rev, err := b.Commit(t.Context(), nil, []store.Op{{Key: key, Value: []byte(value)}})
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// awaitKey applies changes until key has value.
func awaitKey(t *testing.T, w <-chan store.Change, m *store.Mirror, key, value string) (resets int) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		for _, kv := range m.Snapshot().KVs {
			if kv.Key == key && string(kv.Value) == value {
				return resets
			}
		}
		select {
		case ch := <-w:
			m.Apply(ch)
			if ch.Reset {
				resets++
			}
		case <-deadline:
			t.Fatalf("the watch never showed %s=%s", key, value)
		}
	}
}

func TestEtcdWatchSurvivesARestart(t *testing.T) {
	t.Parallel()
	e := servers.StartEtcd(t)
	b := openOwn(t, e.Endpoint, 5*time.Second)
	var m store.Mirror
	w := b.Watch(t.Context(), "p/")
	mustPut(t, b, "p/a", "1")
	awaitKey(t, w, &m, "p/a", "1")
	e.Restart()
	start := time.Now()
	mustPut(t, b, "p/a", "2")
	if resets := awaitKey(t, w, &m, "p/a", "2"); resets == 0 {
		t.Error("no reset after the break")
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("the watch was back after %s", d)
	}
}

func TestEtcdWatchSurvivesCompaction(t *testing.T) {
	t.Parallel()
	e := servers.StartEtcd(t)
	b, raw := openOwn(t, e.Endpoint, 5*time.Second), rawEtcd(t, e.Endpoint)
	var m store.Mirror
	w := b.Watch(t.Context(), "p/")
	mustPut(t, b, "p/a", "1")
	mustPut(t, b, "p/gone", "1")
	awaitKey(t, w, &m, "p/gone", "1")
	// Cut the connection for long enough that what is missed is compacted.
	e.Freeze()
	time.Sleep(100 * time.Millisecond)
	e.Kill()
	e.Restart()
	if _, err := raw.Delete(t.Context(), "p/gone"); err != nil {
		t.Fatal(err)
	}
	var last int64
	for i := range 20 {
		resp, err := raw.Put(t.Context(), "p/a", fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		last = resp.Header.Revision
	}
	if _, err := raw.Compact(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	mustPut(t, b, "p/end", "1")
	awaitKey(t, w, &m, "p/end", "1")
	if n := len(m.Snapshot().KVs); n != 2 {
		t.Errorf("the mirror holds %+v, want p/a and p/end", m.Snapshot().KVs)
	}
}

func TestEtcdAFrozenMemberCostsOneAttempt(t *testing.T) {
	t.Parallel()
	members := servers.StartEtcdCluster(t, 3)
	aFrozenMemberCostsOneAttempt(t, members, openOwn(t, servers.Endpoints(members), 5*time.Second))
}

// A user's token of one member is not the others'.
func TestEtcdAFrozenMemberCostsAUserOneAttempt(t *testing.T) {
	t.Parallel()
	members := servers.StartEtcdCluster(t, 3)
	admitUsersOnly(t, members[0].Endpoint, "p/")
	aFrozenMemberCostsOneAttempt(t, members, closing(t, asUser(t, servers.Endpoints(members), secretFile(t, etcdPassword), 5*time.Second)))
}

func aFrozenMemberCostsOneAttempt(t *testing.T, members []*servers.Store, b store.Backend) {
	t.Helper()
	var m store.Mirror
	w := b.Watch(t.Context(), "p/")
	rev := mustPut(t, b, "p/a", "1")
	l, err := b.Grant(t.Context(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	awaitKey(t, w, &m, "p/a", "1")
	members[0].Freeze() // the endpoint in use, and perhaps the leader
	defer members[0].Resume()
	start := time.Now()
	if err := l.Renew(t.Context()); err != nil {
		t.Errorf("Renew = %v", err)
	}
	if d := time.Since(start); d > 4*time.Second {
		t.Errorf("Renew took %s", d)
	}
	start = time.Now()
	for range 20 {
		if _, err := b.Get(t.Context(), "p/a"); err != nil {
			t.Fatal(err)
		}
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("20 reads took %s: the frozen member is still asked", d)
	}
	if _, err := b.Commit(t.Context(), []store.Condition{{Key: "p/a", Revision: rev}}, []store.Op{{Key: "p/a", Value: []byte("2")}}); err != nil {
		t.Errorf("Commit = %v", err)
	}
	awaitKey(t, w, &m, "p/a", "2")
	if d := time.Since(start); d > 8*time.Second {
		t.Errorf("the watch moved after %s", d)
	}
}

func TestEtcdAWriteToAFrozenMemberHappensOnce(t *testing.T) {
	t.Parallel()
	members := servers.StartEtcdCluster(t, 3)
	b := openOwn(t, servers.Endpoints(members), 6*time.Second)
	rev := mustPut(t, b, "p/a", "1")
	members[0].Freeze()
	next, err := b.Commit(t.Context(), []store.Condition{{Key: "p/a", Revision: rev}}, []store.Op{{Key: "p/a", Value: []byte("2")}})
	if err != nil {
		t.Fatalf("Commit = %v", err)
	}
	members[0].Resume()
	// What still lies in the frozen member's socket must change nothing.
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		kv, err := b.Get(t.Context(), "p/a")
		if err != nil {
			t.Fatal(err)
		}
		if kv.Revision != next {
			t.Fatalf("p/a was written again at %d, after %d", kv.Revision, next)
		}
	}
}

func TestEtcdNoCallHangs(t *testing.T) {
	t.Parallel()
	e := servers.StartEtcd(t)
	nobody := fmt.Sprintf("127.0.0.1:%d", servers.Port(t))
	frozen := openOwn(t, e.Endpoint, time.Second)
	mustPut(t, frozen, "k", "v")
	l, err := frozen.Grant(t.Context(), 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	e.Freeze()
	noCallHangs(t, map[string]unanswered{
		"frozen":                {b: frozen, lease: l, names: e.Endpoint},
		"frozen, not connected": {b: openOwn(t, e.Endpoint, time.Second), names: e.Endpoint},
		"nobody listens":        {b: openOwn(t, nobody, time.Second), names: "http://" + nobody, why: "connection refused"},
		"two dead ones":         {b: openOwn(t, nobody+","+e.Endpoint, time.Second), names: "http://" + nobody + "," + e.Endpoint},
	})
	e.Resume()
	eventuallyGet(t, frozen)
}

// An unanswered backend, of a timeout of 1 s, is one whose store doesn't answer.
type unanswered struct {
	b     store.Backend
	lease store.Lease // nil, or one to renew and revoke
	names string      // what the error must name
	why   string
}

// noCallHangs calls everything and wants each call to end at its timeout.
func noCallHangs(t *testing.T, backends map[string]unanswered) {
	t.Helper()
	var wg sync.WaitGroup
	for name, tt := range backends {
		calls := map[string]func() error{
			"Get":      func() error { _, err := tt.b.Get(t.Context(), "k"); return err },
			"List":     func() error { _, err := tt.b.List(t.Context(), "k"); return err },
			"Commit":   func() error { _, err := tt.b.Commit(t.Context(), nil, []store.Op{{Key: "k"}}); return err },
			"Grant":    func() error { _, err := tt.b.Grant(t.Context(), time.Minute); return err },
			"Leader":   func() error { _, err := tt.b.Leader(t.Context(), "e"); return err },
			"Campaign": func() error { _, err := tt.b.Campaign(t.Context(), "e", "uid", time.Minute); return err },
		}
		if tt.lease != nil {
			calls["Renew"] = func() error { return tt.lease.Renew(t.Context()) }
			calls["Revoke"] = func() error { return tt.lease.Revoke(t.Context()) }
		}
		for call, f := range calls {
			wg.Go(func() {
				start := time.Now()
				err := f()
				if d := time.Since(start); d > 1500*time.Millisecond {
					t.Errorf("%s: %s took %s, want about 1s", name, call, d)
				}
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s: %s = %v, want a deadline exceeded", name, call, err)
					return
				}
				for _, want := range []string{tt.names, "does not answer within 1", "--store-endpoints", tt.why} {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%s: %s = %q, want %q in it", name, call, err, want)
					}
				}
			})
		}
	}
	wg.Wait()
}

func eventuallyGet(t *testing.T, b store.Backend) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if _, err = b.Get(t.Context(), "k"); err == nil {
			return
		}
	}
	t.Errorf("Get after the outage = %v", err)
}

func TestEtcdThatIsNoneIsNamed(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
			c.Close()
		}
	}()
	b := openOwn(t, l.Addr().String(), time.Second)
	if _, err := b.Get(t.Context(), "k"); err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("Get = %v, want the endpoint named", err)
	}
}

// The election excludes a sentinel of 0.17, which uses etcd's recipe.
func TestEtcdElectionTogetherWithTheRecipe(t *testing.T) {
	t.Parallel()
	e := servers.StartEtcd(t)
	b, raw := openOwn(t, e.Endpoint, 5*time.Second), rawEtcd(t, e.Endpoint)
	session, err := concurrency.NewSession(raw, concurrency.WithTTL(20))
	if err != nil {
		t.Fatal(err)
	}
	theirs := concurrency.NewElection(session, "c/sentinel-leader")
	if err := theirs.Campaign(t.Context(), "old"); err != nil {
		t.Fatal(err)
	}
	ours, err := b.Campaign(t.Context(), "c/sentinel-leader", "new", 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if leader, err := b.Leader(t.Context(), "c/sentinel-leader"); leader != "old" || err != nil {
		t.Errorf("Leader() = %q, %v, want old", leader, err)
	}
	select {
	case <-ours.Elected():
		t.Fatal("elected beside a leader of 0.17")
	case <-time.After(300 * time.Millisecond):
	}
	if err := theirs.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ours.Elected():
	case <-time.After(5 * time.Second):
		t.Fatal("not elected after the leader of 0.17 resigned")
	}
	resp, err := theirs.Leader(t.Context())
	if err != nil || string(resp.Kvs[0].Value) != "new" {
		t.Errorf("0.17 sees leader %v, %v, want new", resp, err)
	}
	if got, want := string(resp.Kvs[0].Key), fmt.Sprintf("c/sentinel-leader/%x", resp.Kvs[0].Lease); got != want {
		t.Errorf("key = %q, want %q", got, want)
	}
	elected := make(chan error, 1)
	go func() { elected <- theirs.Campaign(t.Context(), "old") }()
	select {
	case err := <-elected:
		t.Fatalf("0.17 was elected beside us: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	if err := ours.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-elected:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("0.17 is not elected after we resigned")
	}
}
