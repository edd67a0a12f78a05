//go:build integration

package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"stolon/internal/store"
	"stolon/internal/store/open"
	"stolon/internal/store/storetest"
	"stolon/tests/certs"
	"stolon/tests/harness"
	"stolon/tests/servers"
)

// shortSessions lets a test wait for the end of a session: the least TTL that
// Consul grants is 10 s otherwise, and it ends a session after twice its TTL.
var shortSessions = map[string]any{"session_ttl_min": "1s"}

func openConsul(t *testing.T, conf open.Config) store.Backend {
	t.Helper()
	conf.Backend, conf.Timeout = "consul", 10*time.Second
	b, err := open.Backend(conf)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestConsulConformance(t *testing.T) {
	t.Parallel()
	consul := servers.StartConsul(t, shortSessions)
	storetest.Run(t, func(t *testing.T) store.Backend {
		return within{openConsul(t, open.Config{Endpoints: consul.Endpoint}), t.Name() + ": "}
	})
}

// libraryOf is a client of Consul that isn't ours.
func libraryOf(t *testing.T, consul *servers.Store, token string) *api.Client {
	t.Helper()
	c, err := api.NewClient(&api.Config{Address: consul.Endpoint, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// closing closes the backend with the test.
func closing(t *testing.T, b store.Backend) store.Backend {
	t.Helper()
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	return b
}

// The election excludes a sentinel of 0.17, which uses the lock of Consul's
// library, and hands over to it.
func TestConsulElectionTogetherWithTheLibrarysLock(t *testing.T) {
	t.Parallel()
	const key = "c/sentinel-leader"
	consul := servers.StartConsul(t, nil)
	b := closing(t, openConsul(t, open.Config{Endpoints: consul.Endpoint}))
	theirs, err := libraryOf(t, consul, "").LockOpts(&api.LockOptions{
		Key: key, Value: []byte("old"), SessionTTL: "10s", LockDelay: time.Millisecond, LockWaitTime: 15 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := theirs.Lock(nil); err != nil {
		t.Fatal(err)
	}
	ours, err := b.Campaign(t.Context(), key, "new", 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if leader, err := b.Leader(t.Context(), key); leader != "old" || err != nil {
		t.Errorf("Leader() = %q, %v, want old", leader, err)
	}
	select {
	case <-ours.Elected():
		t.Fatal("elected beside a leader of 0.17")
	case <-time.After(300 * time.Millisecond):
	}
	if err := theirs.Unlock(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ours.Elected():
	case <-time.After(5 * time.Second):
		t.Fatal("not elected after the leader of 0.17 resigned")
	}
	elected := make(chan error, 1)
	go func() { _, err := theirs.Lock(nil); elected <- err }()
	select {
	case err := <-elected:
		t.Fatalf("0.17 was elected beside us: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	if leader, err := b.Leader(t.Context(), key); leader != "new" || err != nil {
		t.Errorf("Leader() = %q, %v, want new", leader, err)
	}
	if err := ours.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-elected:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("0.17 is not elected after we resigned")
	}
}

// A process of 0.17 and one of ours take turns at one info key: 0.17 writes
// over the value and leaves the key with the session that it finds.
func TestConsulKeysOf017(t *testing.T) {
	t.Parallel()
	consul := servers.StartConsul(t, shortSessions)
	b, raw := closing(t, openConsul(t, open.Config{Endpoints: consul.Endpoint})), libraryOf(t, consul, "")
	write017 := func(value string) {
		t.Helper()
		pair, _, err := raw.KV().Get("c/keepers/info/k", nil)
		if err != nil {
			t.Fatal(err)
		}
		if pair == nil || pair.Session == "" {
			id, _, err := raw.Session().Create(&api.SessionEntry{Behavior: api.SessionBehaviorDelete, TTL: "2s", LockDelay: time.Millisecond}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if ok, _, err := raw.KV().Acquire(&api.KVPair{Key: "c/keepers/info/k", Session: id}, nil); err != nil || !ok {
				t.Fatalf("0.17 can't take the key: %t, %v", ok, err)
			}
		} else if entry, _, err := raw.Session().Renew(pair.Session, nil); err != nil || entry == nil {
			t.Fatalf("0.17 can't renew our session: %v, %v", entry, err)
		}
		if _, err := raw.KV().Put(&api.KVPair{Key: "c/keepers/info/k", Flags: api.LockFlagValue, Value: []byte(value)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	holds := func(want string) {
		t.Helper()
		kv, err := b.Get(t.Context(), "c/keepers/info/k")
		if err != nil || kv == nil || string(kv.Value) != want {
			t.Fatalf("the key is %v, %v, want %s", kv, err, want)
		}
	}
	write017("old")
	holds("old")
	l, err := b.Grant(t.Context(), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Commit(t.Context(), nil, []store.Op{{Key: "c/keepers/info/k", Value: []byte("new"), Lease: l}}); err != nil {
		t.Fatal(err)
	}
	holds("new")
	if pair, _, err := raw.KV().Get("c/keepers/info/k", nil); err != nil || pair.Flags != api.LockFlagValue || pair.Session == "" {
		t.Errorf("0.17 sees %+v, %v, want a key with a session and the lock's flag", pair, err)
	}
	write017("old again")
	holds("old again")
	if err := l.Revoke(t.Context()); err != nil {
		t.Fatal(err)
	}
	if kv, err := b.Get(t.Context(), "c/keepers/info/k"); kv != nil || err != nil {
		t.Errorf("after the end of our lease the key is %v, %v; want it gone", kv, err)
	}
	// A compare-and-swap by 0.17 of what we wrote, and the other way round.
	rev := mustPut(t, b, "c/clusterdata", "ours")
	pair := &api.KVPair{Key: "c/clusterdata", Flags: api.LockFlagValue, Value: []byte("theirs"), ModifyIndex: uint64(rev)}
	if ok, _, err := raw.KV().CAS(pair, nil); !ok || err != nil {
		t.Errorf("0.17's compare-and-swap of our revision = %t, %v", ok, err)
	}
	if _, err := b.Commit(t.Context(), []store.Condition{{Key: "c/clusterdata", Revision: rev}}, []store.Op{{Key: "c/clusterdata", Value: []byte("lost")}}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("Commit over what 0.17 wrote = %v, want a conflict", err)
	}
}

// A watch goes on after a restart of Consul, also a frozen one.
func TestConsulWatchSurvives(t *testing.T) {
	t.Parallel()
	consul := servers.StartConsul(t, nil)
	b := closing(t, openConsul(t, open.Config{Endpoints: consul.Endpoint}))
	var m store.Mirror
	w := b.Watch(t.Context(), "p/")
	mustPut(t, b, "p/a", "1")
	awaitKey(t, w, &m, "p/a", "1")
	consul.Restart()
	putSoon(t, b, "p/a", "2")
	awaitKey(t, w, &m, "p/a", "2")
	consul.Freeze()
	if _, err := b.Get(t.Context(), "p/a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Get from a frozen Consul = %v, want a deadline exceeded", err)
	}
	consul.Resume()
	putSoon(t, b, "p/a", "3")
	awaitKey(t, w, &m, "p/a", "3")
}

// putSoon puts as soon as the store takes it.
func putSoon(t *testing.T, b store.Backend, key, value string) {
	t.Helper()
	harness.Await(t, soon, "the store takes a write", func() (string, bool) {
		_, err := b.Commit(t.Context(), nil, []store.Op{{Key: key, Value: []byte(value)}})
		return fmt.Sprint(err), err == nil
	})
}

func TestConsulNoCallHangs(t *testing.T) {
	t.Parallel()
	consul := servers.StartConsul(t, nil)
	nobody := fmt.Sprintf("http://127.0.0.1:%d", servers.Port(t))
	backend := func(endpoint string) store.Backend {
		b, err := open.Backend(open.Config{Backend: "consul", Endpoints: endpoint, Timeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		return closing(t, b)
	}
	frozen := backend(consul.Endpoint)
	l, err := frozen.Grant(t.Context(), 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, frozen, "k", "v")
	consul.Freeze()
	noCallHangs(t, map[string]unanswered{
		"frozen":         {b: frozen, lease: l, names: consul.Endpoint},
		"nobody listens": {b: backend(nobody), names: nobody, why: "connection refused"},
	})
	consul.Resume()
	eventuallyGet(t, frozen)
}

func TestConsulDemandsAToken(t *testing.T) {
	t.Parallel()
	const root = "c9a1d2ab-1111-4222-8333-444455556666"
	consul := servers.StartConsul(t, map[string]any{
		"acl": map[string]any{"enabled": true, "default_policy": "deny", "tokens": map[string]any{"master": root, "agent": root}},
	})
	harness.Await(t, soon, "Consul knows its token", func() (string, bool) {
		_, err := libraryOf(t, consul, root).KV().Put(&api.KVPair{Key: "x", Value: []byte("v")}, nil)
		return fmt.Sprint(err), err == nil
	})
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, conf := range map[string]open.Config{"none": {}, "a wrong one": {TokenFile: file}} {
		write("dead0000-1111-4222-8333-444455556666")
		conf.Endpoints = consul.Endpoint
		b := closing(t, openConsul(t, conf))
		start := time.Now()
		_, err := b.Commit(t.Context(), nil, []store.Op{{Key: "k", Value: []byte("v")}})
		if err == nil || !strings.Contains(err.Error(), "--store-token-file") || strings.Contains(err.Error(), "dead0000-") {
			t.Errorf("%s: a write = %v, want an error that names --store-token-file and no token", name, err)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("%s: the refusal took %s", name, d)
		}
	}
	// What doc/store.md says that it needs, and no more.
	acl := libraryOf(t, consul, root).ACL()
	policy, _, err := acl.PolicyCreate(&api.ACLPolicy{
		Name: "stolon", Rules: `key_prefix "stolon/cluster/c" { policy = "write" } session_prefix "" { policy = "write" }`,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := acl.TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: policy.ID}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := closing(t, openConsul(t, open.Config{Endpoints: consul.Endpoint, TokenFile: file}))
	write(token.SecretID) // a renewed token is used without a restart
	l, err := b.Grant(t.Context(), 20*time.Second)
	if err != nil {
		t.Fatalf("Grant = %v", err)
	}
	if _, err := b.Commit(t.Context(), nil, []store.Op{{Key: "stolon/cluster/c/k", Value: []byte("v"), Lease: l}}); err != nil {
		t.Errorf("Commit = %v", err)
	}
	leader, err := b.Campaign(t.Context(), "stolon/cluster/c/sentinel-leader", "uid", 10*time.Second)
	if err != nil {
		t.Fatalf("Campaign = %v", err)
	}
	if _, err := b.Commit(t.Context(), []store.Condition{leader.Leading()}, []store.Op{{Key: "stolon/cluster/c/k", Value: []byte("2")}}); err != nil {
		t.Errorf("a leader's Commit = %v", err)
	}
	if snap, err := b.List(t.Context(), "stolon/cluster/c/"); err != nil || len(snap.KVs) != 2 {
		t.Errorf("List = %v, %v, want the key and the lead", snap, err)
	}
	if _, err := b.Commit(t.Context(), nil, []store.Op{{Key: "other", Value: []byte("v")}}); err == nil {
		t.Error("the token may write elsewhere: the test's policy is not in force")
	}
}

func TestConsulThatDemandsCertificates(t *testing.T) {
	t.Parallel()
	ours := certs.New(t, t.TempDir(), "ours")
	cert, key := ours.Sign("server")
	consul := servers.StartConsulTLS(t, cert, key, ours.File)
	demandsCertificates(t, consul, ours)
}
