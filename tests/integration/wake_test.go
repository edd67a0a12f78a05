//go:build integration

package integration

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stolon/internal/cluster"
	"stolon/internal/postgresql"
	"stolon/internal/postgresql/conf"
)

// A commit that waits for a standby that is gone is released as soon as one
// that has everything takes its place, not when that one next tells how far it
// is, up to 10 s later.
func TestAWaitingCommitIsReleasedByANewList(t *testing.T) {
	if !asPostgres(t) {
		return
	}
	ctx := short(t)
	roles := postgresql.Roles{Superuser: "su", Replication: "repl"}
	a := newNode(t, "a", roles, "trust")
	a.initialise(cluster.NewConfig{Encoding: "UTF8", Locale: "C"})
	a.must(a.CreateSlot(ctx, conf.SlotName("b")))
	a.query("create table t (i int)")
	b := newNode(t, "b", roles, "trust")
	b.must(b.BaseBackup(ctx, a.source(false, conf.SlotName("b")), func(string) {}))
	b.start(a.behind("b"))
	for range 3 {
		a.sync = conf.SyncNames([]string{"gone"}, nil)
		a.must(a.Reload(ctx, a.config(nil)))
		released := make(chan time.Time)
		go func() {
			a.query("insert into t values (1)")
			released <- time.Now()
		}()
		a.await("a commit that waits", func() bool {
			return a.query("select count(*) from pg_stat_activity where wait_event = 'SyncRep'") == "1"
		})
		b.caughtUp(a)
		a.await("told by b", func() bool {
			rows := a.sample().Standbys
			return len(rows) == 1 && rows[0].Flush == a.sample().Position
		})
		a.sync = conf.SyncNames([]string{"b"}, nil)
		a.must(a.Reload(ctx, a.config(nil)))
		began := time.Now()
		a.must(a.WakeStandbys(ctx))
		if took := (<-released).Sub(began); took > time.Second {
			t.Errorf("released %v after the list was in force", took)
		}
	}
}

// A standby that has just lost its primary is promoted at once, also when users
// have it look for that only every 5 s, PostgreSQL's default: recovery that
// takes the order just before it begins to wait would wait on.
func TestAPromotionDoesNotWaitForTheLostPrimary(t *testing.T) {
	if !asPostgres(t) {
		return
	}
	ctx := short(t)
	roles := postgresql.Roles{Superuser: "su", Replication: "repl"}
	a := newNode(t, "a", roles, "trust")
	a.initialise(cluster.NewConfig{Encoding: "UTF8", Locale: "C"})
	a.must(a.CreateSlot(ctx, conf.SlotName("b")))
	b := newNode(t, "b", roles, "trust")
	b.user = map[string]string{"wal_retrieve_retry_interval": "5s"}
	for range 8 {
		b.must(b.BaseBackup(ctx, a.source(false, conf.SlotName("b")), func(string) {}))
		b.start(a.behind("b"))
		b.await("streaming", func() bool { return b.sample().ReceiverUp })
		exited := a.Exited() // of one that has ended there is none to wait for
		a.must(unix.Kill(a.look().PID, unix.SIGKILL))
		<-exited
		began := time.Now()
		b.must(b.Promote(ctx))
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("the promotion took %v", took)
		}
		b.must(b.Stop(ctx, postgresql.Fast))
		b.must(b.SetAside(ctx))
		a.start(nil)
	}
}
