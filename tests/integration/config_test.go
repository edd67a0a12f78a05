//go:build integration

package integration

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"stolon/internal/cluster"
	"stolon/tests/harness"
	"stolon/tests/servers"
)

// soon is how long a change may take that the scenarios give 20 or 30 s.
const soon = 30 * time.Second

// CFG-1: an unknown parameter stops PostgreSQL from starting and nothing else;
// without it PostgreSQL starts.
func TestAWrongParameterCanBeTakenBack(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 1})
	k := c.Keepers[0]
	mark := k.Mark()
	c.Patch(`{"pgParameters":{"no_such_parameter":"1"}}`)
	k.AwaitLog(soon, mark, "postgres parameters changed, reloading postgres instance")
	k.AwaitLog(soon, mark, "postgres parameters not changed")
	k.SQL().Query("select 1")
	mark = k.Mark()
	k.Restart()
	k.AwaitLog(soon, mark, "failed to start postgres")
	c.Patch(`{"pgParameters":null}`)
	k.SQL().AwaitQuery(soon, "select 1", "1")
}

// CFG-2: of the values for wal_level only logical counts.
func TestWalLevelIsReplicaOrLogical(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 1, Spec: harness.Quick(harness.Spec{"failInterval": "20s"})})
	k := c.Keepers[0]
	mark := k.Mark()
	c.Patch(`{"pgParameters":{"wal_level":"archive"}}`)
	c.AwaitData(soon, "the change is applied", func(cd *cluster.ClusterData) bool {
		db := cd.Master()
		return db.Spec.PGParameters["wal_level"] == "archive" && db.Status.CurrentGeneration == db.Generation
	})
	if k.Logged(mark, "postgres parameters changed") {
		t.Error("wal_level archive counts as a change")
	}
	k.Restart()
	k.SQL().AwaitQuery(soon, "show wal_level", "replica")
	c.Patch(`{"pgParameters":{"wal_level":"logical"}}`)
	k.SQL().AwaitQuery(soon, "select setting, pending_restart from pg_settings where name = 'wal_level'", "replica|true")
	k.Restart()
	k.SQL().AwaitQuery(soon, "show wal_level", "logical")
}

// CFG-4: ALTER SYSTEM fails and has no effect.
func TestAlterSystemFails(t *testing.T) {
	t.Parallel()
	spec := harness.Quick(harness.Spec{"failInterval": "20s", "pgParameters": harness.Parameters(map[string]string{"fsync": "on"})})
	c := harness.Start(t, harness.Options{Keepers: 1, Spec: spec})
	k := c.Keepers[0]
	before := k.SQL().Query("show work_mem")
	_, err := k.SQL().Try(soon, "alter system set work_mem = '123MB'")
	const want = `could not fsync file "postgresql.auto.conf": Invalid argument`
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("alter system: %v, want %s", err, want)
	}
	k.Restart()
	k.SQL().AwaitQuery(soon, "show work_mem", before)
}

// CFG-5: the master has the additional replication slots; slots that nobody
// asked for go if their name is one of ours.
func TestAdditionalReplicationSlots(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 2})
	master, standby := pair(c)
	wantSlots := func(k *harness.Keeper, names ...string) {
		t.Helper()
		slices.Sort(names)
		k.SQL().AwaitQuery(soon, "select slot_name from pg_replication_slots order by slot_name collate \"C\"", strings.Join(names, "\n"))
	}
	own := "stolon_" + c.DB(standby).UID
	wantSlots(master, own)
	c.Patch(`{"additionalMasterReplicationSlots":["replslot01","replslot02"]}`)
	wantSlots(master, own, "stolon_replslot01", "stolon_replslot02")
	wantSlots(standby)
	c.Patch(`{"additionalMasterReplicationSlots":["replslot01"]}`)
	wantSlots(master, own, "stolon_replslot01")
	master.SQL().Query("select pg_create_physical_replication_slot('manualreplslot')")
	master.SQL().Query("select pg_create_physical_replication_slot('stolon_manualreplslot')")
	wantSlots(master, own, "stolon_replslot01", "manualreplslot")
	c.Patch(`{"additionalMasterReplicationSlots":null}`)
	wantSlots(master, own, "manualreplslot")
	c.Patch(`{"additionalMasterReplicationSlots":["replslot01","replslot02"]}`)
	wantSlots(master, own, "stolon_replslot01", "stolon_replslot02", "manualreplslot")
	c.AwaitCaughtUp(soon, master, standby)
	master.Stop()
	c.AwaitMaster(soon, standby)
	// The old master's db is given up only once it returns.
	wantSlots(standby, "stolon_replslot01", "stolon_replslot02")
}

// pair is the master and the standby of a cluster of two.
func pair(c *harness.Cluster) (master, standby *harness.Keeper) {
	master, standbys := c.Roles()
	return master, standbys[0]
}

// CFG-6: automaticPgRestart decides whether a parameter that needs a restart gets one.
func TestAutomaticRestart(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 1, Spec: harness.Quick(harness.Spec{
		"automaticPgRestart": true, "pgParameters": harness.Parameters(map[string]string{"max_connections": "100"})})})
	k := c.Keepers[0]
	k.SQL().AwaitQuery(soon, "show max_connections", "100")
	c.Patch(`{"pgParameters":{"max_connections":"150"}}`)
	k.SQL().AwaitQuery(20*time.Second, "show max_connections", "150")
	c.Patch(`{"automaticPgRestart":false}`)
	c.Patch(`{"pgParameters":{"max_connections":"200"}}`)
	k.SQL().AwaitQuery(soon, "select pending_restart from pg_settings where name = 'max_connections'", "true")
	harness.Holds(t, 10*time.Second, "max_connections is 150", func() (string, bool) {
		got, err := k.SQL().Try(5*time.Second, "show max_connections")
		return fmt.Sprint(got, err), got == "150"
	})
}

// CFG-6, defect 94: a standby refuses to go on with fewer connections than its
// master has. So a higher value is in force on standbys first, a lower one on
// the master, without any of them ever stopping for it.
func TestRestartsKeepAnOrder(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 3, Proxies: 1, Spec: harness.Quick(harness.Spec{
		"automaticPgRestart": true, "failInterval": "20s", "pgParameters": harness.Parameters(map[string]string{"max_connections": "100"})})})
	master, _ := c.Roles()
	started := func(k *harness.Keeper) string {
		return k.SQL().Query("select extract(epoch from pg_postmaster_start_time())::numeric(20,3)")
	}
	for _, step := range []struct {
		connections, workers string
		masterFirst          bool
	}{{"150", "8", false}, {"120", "8", true}, {"100", "12", true}} {
		c.Patch(fmt.Sprintf(`{"pgParameters":{"max_connections":%q,"max_worker_processes":%q}}`, step.connections, step.workers))
		for _, k := range c.Keepers {
			k.SQL().AwaitQuery(soon, "select current_setting('max_connections'), current_setting('max_worker_processes')", step.connections+"|"+step.workers)
		}
		c.AwaitHealthy(soon, 3)
		for _, k := range c.Keepers {
			if k != master && (started(master) < started(k)) != step.masterFirst {
				t.Errorf("max_connections %s: master started at %s, %s at %s", step.connections, started(master), k.UID, started(k))
			}
		}
	}
	for _, k := range c.Keepers {
		if k.Logged(0, "failed to start postgres") {
			t.Errorf("%s was kept from starting by its settings", k.UID)
		}
	}
	c.AwaitMaster(soon, master)
}

// CFG-7: what is advertised is published; what is listened on is another thing.
func TestAdvertisedAddress(t *testing.T) {
	t.Parallel()
	c := harness.New(t)
	c.AddSentinel(c.WriteSpec(harness.Quick(nil))).Start()
	k := c.AddKeeper()
	k.Flags = []string{"--pg-advertise-address=6.6.6.6", "--pg-advertise-port=6666"}
	k.Start()
	c.AwaitData(60*time.Second, "the advertised address is recorded", func(cd *cluster.ClusterData) bool {
		m := cd.Master()
		return m != nil && m.Status.ListenAddress == "6.6.6.6" && m.Status.Port == "6666"
	})
	k.SQL().AwaitQuery(soon, "select inet_server_addr(), inet_server_port()", "127.0.0.1|"+k.Port)
}

// Parameters and pg_hba lines reach standby and master, also after they have
// changed roles.
func TestParametersReachEveryInstance(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 2, Proxies: 1})
	master, standby := pair(c)
	c.Patch(`{"pgParameters":{"work_mem":"5MB"},"pgHBA":["host all all 127.0.0.1/32 md5"]}`)
	for _, k := range c.Keepers {
		k.SQL().AwaitQuery(soon, "show work_mem", "5MB")
		k.SQL().AwaitQuery(soon, "select count(*) from pg_hba_file_rules where address = '127.0.0.1' and user_name = '{all}'", "1")
	}
	c.AwaitHealthy(soon, 2) // who has not applied everything can't be elected
	c.AwaitCaughtUp(soon, master, standby)
	c.Ctl("failkeeper", master.UID)
	c.AwaitMaster(soon, standby)
	c.Patch(`{"pgParameters":{"work_mem":"6MB"}}`)
	for _, k := range c.Keepers {
		k.SQL().AwaitQuery(2*soon, "show work_mem", "6MB")
	}
}

// HA-8 for a proxy's client: the route moves with the master's address.
func TestTheRouteFollowsAChangedPort(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 1, Proxies: 1, Spec: harness.Quick(harness.Spec{"failInterval": "20s"})})
	k := c.Keepers[0]
	k.Stop()
	k.Port = strconv.Itoa(servers.Port(t))
	k.Start()
	c.AwaitRoute(soon, k)
}
