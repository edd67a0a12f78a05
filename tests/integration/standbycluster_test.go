//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"stolon/internal/cluster"
	"stolon/internal/postgresql/wal"
	"stolon/tests/harness"
	"stolon/tests/servers"
)

const allRows = "select string_agg(n::text, ',' order by n) from rows"

// outside is a primary of a cluster of its own, with one row.
func outside(t *testing.T, parameters map[string]string) *harness.Keeper {
	c := harness.Start(t, harness.Options{Keepers: 1, Spec: harness.Quick(harness.Spec{"pgParameters": harness.Parameters(parameters)})})
	k := c.Keepers[0]
	k.SQL().Query("create table rows (n int)")
	k.SQL().Query("insert into rows values (1)")
	return k
}

// standbyCluster is a cluster that was restored from the primary and follows it
// as config says.
func standbyCluster(t *testing.T, primary *harness.Keeper, keepers int, config harness.Spec, more harness.Spec) *harness.Cluster {
	spec := harness.Quick(harness.Spec{
		"initMode": "pitr", "role": "standby", "standbyConfig": config,
		"pitrConfig": harness.Spec{"dataRestoreCommand": fmt.Sprintf("PGPASSWORD=%s %s -D %%d -c fast -h 127.0.0.1 -p %s -U %s",
			harness.ReplicationPassword, filepath.Join(harness.PGBin(), "pg_basebackup"), primary.Port, harness.Replication)},
	})
	for name, v := range more {
		spec[name] = v
	}
	return harness.Start(t, harness.Options{Keepers: keepers, Proxies: 1, Spec: spec})
}

func streaming(primary *harness.Keeper) harness.Spec {
	return harness.Spec{"standbySettings": harness.Spec{"primaryConninfo": fmt.Sprintf("host=127.0.0.1 port=%s user=%s password=%s sslmode=disable",
		primary.Port, harness.Replication, harness.ReplicationPassword)}}
}

// awaitLead waits until the keeper's instance is the one that follows the
// primary outside, and proxies lead to it.
func awaitLead(c *harness.Cluster, k *harness.Keeper) {
	c.AwaitData(60*time.Second, k.UID+" leads the standby cluster", func(cd *cluster.ClusterData) bool {
		db := cd.DBOf(k.UID)
		return db != nil && cd.Cluster.Status.Master == db.UID && cd.Proxy.Spec.MasterDBUID == db.UID && db.Status.CurrentGeneration == db.Generation
	})
	c.Proxies[0].SQL().AwaitQuery(30*time.Second, "show port", k.Port)
}

// promoted promotes the standby cluster and waits until its master takes writes.
func promoted(t *testing.T, c *harness.Cluster) {
	t.Helper()
	// Without a standby the first write waits for one.
	c.AwaitHealthy(60*time.Second, len(c.Keepers))
	master, _ := c.Roles()
	c.Ctl("promote", "-y")
	master.SQL().AwaitQuery(30*time.Second, "select pg_is_in_recovery()", "false")
	master.SQL().Query("insert into rows values (100)")
	c.AwaitRoute(30*time.Second, master)
}

// STBY-1, STBY-2: rows reach a standby cluster and its cascade; promoted, it is a
// cluster like any other, with the synchronous replication that its spec asks for.
func TestAStandbyClusterFollowsAndIsPromoted(t *testing.T) {
	t.Parallel()
	primary := outside(t, nil)
	c := standbyCluster(t, primary, 2, streaming(primary), harness.Spec{"synchronousReplication": true})
	master, standbys := c.Roles()
	primary.SQL().Query("insert into rows values (2)")
	for _, k := range c.Keepers {
		k.SQL().AwaitQuery(30*time.Second, allRows, "1,2")
	}
	if n := primary.SQL().Query("select count(*) from pg_stat_replication"); n != "1" {
		t.Errorf("%s standbys stream from the primary outside, want the master alone", n)
	}
	promoted(t, c)
	c.AwaitSynchronous(30 * time.Second)
	standbys[0].SQL().AwaitQuery(30*time.Second, allRows, "1,2,100")
	if master.Logged(0, "restarting postgres") {
		t.Error("the master was restarted")
	}
	// An ordinary failover afterwards loses nothing.
	master.Stop()
	c.AwaitMaster(60*time.Second, standbys[0])
	standbys[0].SQL().AwaitQuery(30*time.Second, allRows, "1,2,100")
}

// STBY-3: a standby cluster lives on the primary's archive alone.
func TestAStandbyClusterFollowsAnArchive(t *testing.T) {
	t.Parallel()
	archive := t.TempDir()
	if err := os.Chmod(archive, 0o755); err != nil {
		t.Fatal(err)
	}
	primary := outside(t, map[string]string{"archive_mode": "on", "archive_command": "cp %p " + archive + "/%f"})
	c := standbyCluster(t, primary, 1, harness.Spec{"archiveRecoverySettings": harness.Spec{"restoreCommand": "cp " + archive + "/%f %p"}},
		harness.Spec{"mergePgParameters": false})
	primary.SQL().Query("insert into rows values (2)")
	primary.SQL().Query("select pg_switch_wal()")
	c.Keepers[0].SQL().AwaitQuery(60*time.Second, allRows, "1,2")
	if n := primary.SQL().Query("select count(*) from pg_stat_replication"); n != "0" {
		t.Errorf("%s standbys stream", n)
	}
	promoted(t, c)
}

// HA-2, HA-5 and HA-15 in a standby cluster: another keeper follows the primary
// outside, clients are led to it, and the old one returns as its standby.
func TestAStandbyClusterFailsOver(t *testing.T) {
	t.Parallel()
	primary := outside(t, nil)
	c := standbyCluster(t, primary, 2, streaming(primary), harness.Spec{"synchronousReplication": true, "usePgrewind": true})
	old, standbys := c.Roles()
	next := standbys[0]
	next.SQL().AwaitQuery(30*time.Second, allRows, "1")
	old.Stop()
	awaitLead(c, next)
	primary.SQL().Query("insert into rows values (2)")
	next.SQL().AwaitQuery(30*time.Second, allRows, "1,2")
	old.Start()
	c.AwaitHealthy(90*time.Second, 2)
	primary.SQL().Query("insert into rows values (3)")
	for _, k := range c.Keepers {
		k.SQL().AwaitQuery(30*time.Second, allRows, "1,2,3")
	}
	c.Ctl("failkeeper", next.UID)
	awaitLead(c, old)
	primary.SQL().Query("insert into rows values (4)")
	old.SQL().AwaitQuery(30*time.Second, allRows, "1,2,3,4")
	promoted(t, c)
}

// INIT-3 with role standby: existing data goes on following the primary outside.
func TestAStandbyClusterIsMadeOfExistingData(t *testing.T) {
	t.Parallel()
	primary := outside(t, nil)
	c := standbyCluster(t, primary, 1, streaming(primary), nil)
	k, old := c.Keepers[0], c.Data().Cluster.UID
	c.Ctl("init", "-y", "-f", c.WriteSpec(harness.Quick(harness.Spec{"initMode": "existing", "role": "standby",
		"existingConfig": harness.Spec{"keeperUID": k.UID}, "standbyConfig": streaming(primary)})))
	awaitNormal(c, old)
	if role := c.Data().Master().Spec.Role; role != cluster.RoleStandby {
		t.Errorf("role %s", role)
	}
	primary.SQL().Query("insert into rows values (2)")
	k.SQL().AwaitQuery(30*time.Second, allRows, "1,2")
}

// HA-3 in a standby cluster: it has no synchronous standbys to wait for, so the
// old master is elected again.
func TestAStandbyClusterReturnsToItsOldMaster(t *testing.T) {
	t.Parallel()
	primary := outside(t, nil)
	c := standbyCluster(t, primary, 2, streaming(primary), harness.Spec{"synchronousReplication": true})
	old, standbys := c.Roles()
	next := standbys[0]
	next.SQL().AwaitQuery(30*time.Second, allRows, "1")
	old.KillBoth()
	uid := c.DB(next).UID
	c.AwaitData(60*time.Second, "the standby is elected", func(cd *cluster.ClusterData) bool { return cd.Cluster.Status.Master == uid })
	next.KillBoth()
	old.Start()
	awaitLead(c, old)
	primary.SQL().Query("insert into rows values (2)")
	old.SQL().AwaitQuery(30*time.Second, allRows, "1,2")
}

// HA-4 in a standby cluster: whoever lags too much is not elected.
func TestALaggingStandbyOfAStandbyClusterIsNotElected(t *testing.T) {
	t.Parallel()
	primary := outside(t, nil)
	c := standbyCluster(t, primary, 2, streaming(primary), nil)
	master, standbys := c.Roles()
	next := standbys[0]
	next.SQL().AwaitQuery(30*time.Second, allRows, "1")
	next.Stop()
	primary.SQL().Query("insert into rows select 2 from generate_series(1, 2000)")
	master.SQL().AwaitQuery(30*time.Second, "select count(*) from rows", "2001")
	far, err := wal.ParseLSN(primary.SQL().Query("select pg_current_wal_lsn()::text"))
	if err != nil {
		t.Fatal(err)
	}
	c.AwaitData(30*time.Second, "the master's position is recorded", func(cd *cluster.ClusterData) bool { return wal.LSN(cd.Master().Status.XLogPos) >= far })
	master.KillBoth()
	next.Start()
	c.AwaitData(30*time.Second, "nobody is eligible", func(cd *cluster.ClusterData) bool { return c.Leader().Logged(0, "no eligible masters") })
	harness.Holds(t, 10*time.Second, "the lagging standby is not elected", func() (string, bool) {
		uid := c.Data().Cluster.Status.Master
		return uid, uid == c.DB(master).UID
	})
}

// HA-6 in a standby cluster: a frozen master is replaced, and becomes a standby
// when it thaws.
func TestAFrozenMasterOfAStandbyClusterIsReplaced(t *testing.T) {
	t.Parallel()
	primary := outside(t, nil)
	c := standbyCluster(t, primary, 2, streaming(primary), nil)
	old, standbys := c.Roles()
	next := standbys[0]
	next.SQL().AwaitQuery(30*time.Second, allRows, "1")
	old.Freeze()
	awaitLead(c, next)
	primary.SQL().Query("insert into rows values (2)")
	next.SQL().AwaitQuery(30*time.Second, allRows, "1,2")
	old.Resume()
	c.AwaitHealthy(90*time.Second, 2)
	awaitLead(c, next)
	old.SQL().AwaitQuery(60*time.Second, allRows, "1,2")
}

// HA-8 in a standby cluster: the standbys follow the master to another port.
func TestAMasterOfAStandbyClusterMayMove(t *testing.T) {
	t.Parallel()
	primary := outside(t, nil)
	c := standbyCluster(t, primary, 2, streaming(primary), harness.Spec{"failInterval": "20s"})
	master, standbys := c.Roles()
	standbys[0].SQL().AwaitQuery(30*time.Second, allRows, "1")
	master.Stop()
	master.Port = strconv.Itoa(servers.Port(t))
	master.Start()
	c.AwaitData(60*time.Second, "the new port is recorded", func(cd *cluster.ClusterData) bool {
		return cd.Master().Spec.KeeperUID == master.UID && cd.Master().Status.Port == master.Port
	})
	primary.SQL().Query("insert into rows values (2)")
	standbys[0].SQL().AwaitQuery(60*time.Second, allRows, "1,2")
	awaitLead(c, master)
}
