//go:build integration

package integration

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"stolon/tests/harness"
)

// With syncLogicalSlots a consumer of a logical slot for failover goes on at the
// new master where it was, without a gap, also while no standby lives, and the
// old master copies the slot in its turn. PostgreSQL before 17 can't, which is
// said and changes nothing.
func TestLogicalSlotsSurviveAFailover(t *testing.T) {
	each(t, both, testLogicalSlots)
}

func testLogicalSlots(t *testing.T, v variant) {
	t.Parallel()
	keepers := 2
	if v.sync() {
		keepers = 3 // one to wait for after the failover
	}
	spec := harness.Quick(harness.Spec{"syncLogicalSlots": true, "synchronousReplication": v.sync(),
		"pgParameters": harness.Parameters(map[string]string{"wal_level": "logical"}),
		// Others are kept out: the replication user's own line has to do.
		"pgHBA": []string{}})
	c := harness.Start(t, harness.Options{Keepers: keepers, Proxies: 1, Spec: spec})
	master, standbys := c.Roles()
	major, err := strconv.Atoi(master.SQL().Query("select current_setting('server_version_num')::int / 10000"))
	if err != nil {
		t.Fatal(err)
	}
	if major < 17 {
		for _, k := range c.Keepers {
			k.AwaitLog(soon, 0, `"parameter": "syncLogicalSlots"`)
		}
		return
	}
	if v.sync() {
		c.AwaitSynchronous(soon)
	}
	master.SQL().Query("create table t (n int)")
	master.SQL().Query("select pg_create_logical_replication_slot('app', 'test_decoding', false, false, true)")
	// consume returns the inserted numbers that the consumer had not got yet.
	consume := func(k *harness.Keeper) string {
		t.Helper()
		return k.SQL().Query(`select coalesce(string_agg(substring(data from 'n\[integer\]:(\d+)'), ',' order by lsn), '')
			from pg_logical_slot_get_changes('app', null, null) where data like '%INSERT%'`)
	}
	want := func(k *harness.Keeper, numbers string) {
		t.Helper()
		if got := consume(k); got != numbers {
			t.Errorf("%s gives %q, want %q", k.UID, got, numbers)
		}
	}
	// copied waits until k has a copy that survives. For that the consumer has to
	// get on, past a snapshot of the running transactions.
	copied := func(k, from *harness.Keeper) {
		t.Helper()
		harness.Await(t, time.Minute, k.UID+" has copied the slot", func() (string, bool) {
			from.SQL().Query("select pg_log_standby_snapshot()")
			from.SQL().Query("select count(*) from pg_logical_slot_get_changes('app', null, null)")
			got := k.SQL().Query("select synced, temporary from pg_replication_slots where slot_name = 'app'")
			return got, got == "true|false"
		})
	}
	master.SQL().Query("insert into t values (1)")
	want(master, "1")
	for _, k := range standbys {
		copied(k, master)
	}
	waited := master.SQL().Query("show synchronized_standby_slots")
	if n := len(strings.Split(waited, ",")); waited == "" || n != 1 {
		t.Errorf("synchronized_standby_slots is %q, want one slot", waited)
	}

	master.SQL().Query("insert into t values (2)")
	for _, k := range standbys {
		k.SQL().AwaitQuery(soon, "select count(*) from t", "2")
	}
	master.KillBoth()
	harness.Await(t, soon, "another master serves", func() (string, bool) {
		m := c.Data().Master()
		return harness.Summary(c.Data()), m != nil && c.Data().Proxy.Spec.MasterDBUID == m.UID && m.Spec.KeeperUID != master.UID
	})
	next, _ := c.Roles()
	next.SQL().Query("insert into t values (3)")
	want(next, "2,3")

	master.Start()
	c.AwaitHealthy(time.Minute, keepers)
	copied(master, next)
	next.SQL().Query("insert into t values (4)")
	want(next, "4")
}
