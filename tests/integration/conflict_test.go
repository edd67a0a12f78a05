//go:build integration

package integration

import (
	"strings"
	"sync"
	"testing"
	"time"

	"stolon/tests/harness"
)

// A conflict is a transaction on a standby that replay waits for.
type conflict struct {
	read  string // on the standby, from table old
	idle  bool   // when that is done; else it takes long
	deed  string // on the master, once,
	again string // and until replay waits
	wait  string // what PostgreSQL's recovery says that it waits for
}

// vacuumed: a vacuum removes nothing while any transaction on the master is in
// the way.
var vacuumed = conflict{read: "select count(*), pg_sleep(600) from old", deed: "delete from old", again: "vacuum old", wait: "RecoveryConflictSnapshot"}

// conflicting starts a cluster of two whose standby's replay waits for a
// transaction, for as long as that takes.
func conflicting(t *testing.T, x conflict) (c *harness.Cluster, w *harness.Writer, master, standby *harness.Keeper) {
	t.Helper()
	var reading sync.WaitGroup
	t.Cleanup(reading.Wait) // at the latest when the instance ends, which is before
	c = harness.Start(t, harness.Options{Keepers: 2, Proxies: 1, Spec: harness.Quick(harness.Spec{
		"pgParameters": harness.Parameters(map[string]string{"max_standby_streaming_delay": "-1", "max_standby_archive_delay": "-1"}),
	})})
	master, standbys := c.Roles()
	standby = standbys[0]
	master.SQL().Query("create table old (n int)")
	master.SQL().Query("insert into old select generate_series(1, 1000)")
	c.AwaitCaughtUp(soon, master, standby)
	if x.idle {
		standby.SQL().Hold(x.read)
	} else {
		reading.Go(func() { _, _ = standby.SQL().Try(5*time.Minute, x.read) }) // it is ended
		standby.SQL().AwaitQuery(soon, "select count(*) from pg_stat_activity where wait_event = 'PgSleep'", "1")
	}
	master.SQL().Query(x.deed)
	harness.Await(t, soon, "replay waits for "+x.wait, func() (string, bool) {
		master.SQL().Query(x.again)
		saw := standby.SQL().Query("select wait_event from pg_stat_activity where backend_type = 'startup'")
		return saw, saw == x.wait
	})
	w = harness.StartWriter(c.Proxies[0].SQL())
	w.AwaitRows(t, soon, 20)
	return c, w, master, standby
}

// The target of a switchover whose replay waits for a transaction ends that.
func TestASwitchoverEndsWhatHoldsUpReplay(t *testing.T) {
	for name, x := range map[string]conflict{
		"a query of removed rows": vacuumed,
		"an idle transaction": {
			read: "begin isolation level repeatable read; select count(*) from old", idle: true,
			deed: vacuumed.deed, again: vacuumed.again, wait: vacuumed.wait,
		},
		"a lock": {read: "begin; select count(*) from old; select pg_sleep(600)", deed: "alter table old add m int", again: "select 1", wait: "relation"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, w, master, standby := conflicting(t, x)
			at := time.Now()
			told := c.Ctl("switchover", "--yes", "--to="+standby.UID)
			if !strings.Contains(told, "switched over from keeper "+master.UID+" to keeper "+standby.UID) {
				t.Errorf("stolonctl says %q", told)
			}
			w.AwaitRowsSince(t, soon, time.Now(), 20)
			t.Logf("%s without an acknowledgement", w.Gap(at).Round(time.Millisecond))
			c.AwaitHealthy(2*soon, 2)
			w.WantAll(t, c.Proxies[0].SQL())
		})
	}
}

// So does a standby that is promoted because the master is dead.
func TestAPromotionEndsWhatHoldsUpReplay(t *testing.T) {
	t.Parallel()
	c, w, master, standby := conflicting(t, vacuumed)
	at := time.Now()
	master.KillBoth()
	c.AwaitMaster(2*soon, standby)
	w.AwaitRowsSince(t, soon, at, 20)
	t.Logf("%s without an acknowledgement", w.Gap(at).Round(time.Millisecond))
}

// A delayed standby would take its delay to become the master.
func TestASwitchoverToADelayedStandbyIsRefused(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 2, Proxies: 1})
	_, standbys := c.Roles()
	target := standbys[0]
	delay := func(value, shown string) {
		t.Helper()
		c.Patch(`{"pgParameters":{"recovery_min_apply_delay":` + value + `}}`)
		target.SQL().AwaitQuery(soon, "show recovery_min_apply_delay", shown)
		c.AwaitHealthy(soon, 2)
	}
	delay(`"30s"`, "30s")
	for _, args := range [][]string{{}, {"--to=" + target.UID}} {
		_, stderr, code := c.RunCtl("", append([]string{"switchover", "--yes"}, args...)...)
		if code != 1 || !strings.Contains(stderr, "recovery_min_apply_delay (30s)") {
			t.Errorf("switchover %v: exit status %d, %q, want the parameter named", args, code, stderr)
		}
	}
	harness.SameMaster(t, c, time.Second)
	delay("null", "0")
	c.Ctl("switchover", "--yes", "--to="+target.UID)
	c.AwaitHealthy(2*soon, 2)
}
