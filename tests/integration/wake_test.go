//go:build integration

package integration

import (
	"testing"
	"time"

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
