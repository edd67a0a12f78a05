//go:build integration

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"stolon/internal/cluster"
	"stolon/tests/harness"
)

// awaitNormal waits for a cluster with another uid than old in phase normal
// with a healthy master.
func awaitNormal(c *harness.Cluster, old string) {
	c.AwaitData(120*time.Second, "the new cluster is initialised", func(cd *cluster.ClusterData) bool {
		m := cd.Master()
		return cd.Cluster.UID != old && cd.Cluster.Status.Phase == cluster.Normal && m != nil && m.Status.Healthy && m.Status.CurrentGeneration == m.Generation
	})
}

// INIT-3: a cluster is made of a keeper's data; its parameters are merged, or aren't.
func TestAClusterIsMadeOfExistingData(t *testing.T) {
	t.Parallel()
	for name, merge := range map[string]bool{"merge": true, "no merge": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := harness.Start(t, harness.Options{Keepers: 1, Proxies: 1, Spec: harness.Quick(harness.Spec{
				"pgParameters": harness.Parameters(map[string]string{"archive_mode": "on", "archive_command": "/bin/true"})})})
			k := c.Keepers[0]
			k.SQL().Query("create table rows (n int)")
			k.SQL().Query("insert into rows values (1)")
			old := c.Data().Cluster.UID
			c.Ctl("init", "-y", "-f", c.WriteSpec(harness.Quick(harness.Spec{
				"initMode": "existing", "existingConfig": harness.Spec{"keeperUID": k.UID}, "mergePgParameters": merge})))
			awaitNormal(c, old)
			k.SQL().AwaitQuery(30*time.Second, "select n from rows", "1")
			want := "off"
			if merge {
				want = "on"
			}
			if got := k.SQL().Query("show archive_mode"); got != want {
				t.Errorf("archive_mode is %s, want %s", got, want)
			}
			if got, stored := c.Data().Cluster.Spec.PGParameters["archive_mode"]; stored != merge || merge && got != "on" {
				t.Errorf("stored archive_mode %q, %t; want it there: %t", got, stored, merge)
			}
			c.AwaitRoute(30*time.Second, k)
		})
	}
}

// archived is a cluster of one keeper with a row in its backup, which was made
// without WAL, and more rows in the archive.
func archived(t *testing.T) (c *harness.Cluster, backup, archive string) {
	c = harness.New(t)
	archive, backup = filepath.Join(c.Dir, "archive"), filepath.Join(c.Dir, "backup")
	for _, dir := range []string{archive, backup} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s := c.AddSentinel(c.WriteSpec(harness.Quick(harness.Spec{"pgParameters": harness.Parameters(map[string]string{
		"archive_mode": "on", "archive_command": "cp %p " + archive + "/%f"})})))
	s.Start()
	k := c.AddKeeper()
	k.Start()
	c.AwaitHealthy(60*time.Second, 1)
	k.SQL().Query("create table rows (n int)")
	k.SQL().Query("insert into rows values (1)")
	out, err := exec.Command(filepath.Join(harness.PGBin(), "pg_basebackup"), "-X", "none", "-F", "tar", "-c", "fast", "-D", backup, "-d",
		"host=127.0.0.1 port="+k.Port+" user="+harness.Replication+" password="+harness.ReplicationPassword).CombinedOutput()
	if err != nil {
		t.Fatalf("pg_basebackup: %v: %s", err, out)
	}
	k.SQL().Query("insert into rows values (2)")
	return c, backup, archive
}

// restoreInto deletes the cluster data and has it made anew with a restore.
func restoreInto(t *testing.T, c *harness.Cluster, backup, archive string, more harness.Spec) {
	old := c.Data().Cluster.UID
	c.Sentinels[0].Stop()
	wipe(t, c)
	pitr := harness.Spec{
		"dataRestoreCommand":      fmt.Sprintf("tar -C %%d -xf %s/base.tar && echo 100%%%% restored", backup),
		"archiveRecoverySettings": harness.Spec{"restoreCommand": "cp " + archive + "/%f %p"},
	}
	for name, v := range more {
		pitr[name] = v
	}
	s := c.AddSentinel(c.WriteSpec(harness.Quick(harness.Spec{"initMode": "pitr", "pitrConfig": pitr,
		"pgParameters": harness.Parameters(map[string]string{"max_prepared_transactions": "100"})})))
	s.Start()
	awaitNormal(c, old)
}

// archiveAll waits until all that was written is in the archive.
func archiveAll(k *harness.Keeper) {
	last := k.SQL().Query("select pg_walfile_name(pg_current_wal_lsn())")
	k.SQL().Query("select pg_switch_wal()")
	k.SQL().AwaitQuery(30*time.Second, "select failed_count = 0 and coalesce(last_archived_wal >= '"+last+"', false) from pg_stat_archiver", "true")
}

// PITR-1: a backup is restored and recovers all that the archive has.
func TestABackupIsRestored(t *testing.T) {
	t.Parallel()
	c, backup, archive := archived(t)
	k := c.Keepers[0]
	archiveAll(k)
	restoreInto(t, c, backup, archive, nil)
	c.AwaitMaster(30*time.Second, k)
	k.SQL().AwaitQuery(30*time.Second, "select string_agg(n::text, ',' order by n) from rows", "1,2")
	if got := k.SQL().Query("show max_prepared_transactions"); got != "100" {
		t.Errorf("max_prepared_transactions is %s", got)
	}
	if _, err := os.Stat(k.PGDir() + ".aside"); err != nil {
		t.Errorf("the data of before was not kept: %v", err)
	}
	k.SQL().Query("insert into rows values (3)")
}

// PITR-2: recovery ends at the given time.
func TestABackupIsRestoredAsOfATime(t *testing.T) {
	t.Parallel()
	c, backup, archive := archived(t)
	k := c.Keepers[0]
	then := k.SQL().Query("select (clock_timestamp() + interval '100 ms')::text")
	k.SQL().AwaitQuery(10*time.Second, "select clock_timestamp() > '"+then+"'::timestamptz", "true")
	k.SQL().Query("insert into rows values (3)")
	archiveAll(k)
	restoreInto(t, c, backup, archive, harness.Spec{"recoveryTargetSettings": harness.Spec{"recoveryTargetTime": then}})
	k.SQL().AwaitQuery(30*time.Second, "select string_agg(n::text, ',' order by n) from rows", "1,2")
	k.SQL().Query("insert into rows values (4)")
}

// A restore command that fails is tried again after a pause, and what was there
// is kept; other cluster data ends one that hangs.
func TestAFailingRestoreKeepsTheDataAside(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 1})
	k := c.Keepers[0]
	k.SQL().Query("create table rows as select 1 as n")
	c.Ctl("init", "-y", "-f", c.WriteSpec(harness.Quick(harness.Spec{"initMode": "pitr", "pitrConfig": harness.Spec{
		"dataRestoreCommand": "echo no such backup; exit 3"}})))
	k.AwaitLog(30*time.Second, 0, "no such backup")
	if _, err := os.Stat(filepath.Join(k.PGDir()+".aside", "PG_VERSION")); err != nil {
		t.Errorf("the data of before was not kept: %v", err)
	}
	mark := k.Mark()
	c.Ctl("init", "-y", "-f", c.WriteSpec(harness.Quick(harness.Spec{"initMode": "pitr", "pitrConfig": harness.Spec{
		"dataRestoreCommand": "sleep 600"}})))
	k.AwaitLog(30*time.Second, mark, "restoring db from a backup")
	if _, err := os.Stat(filepath.Join(k.PGDir()+".aside", "PG_VERSION")); err != nil {
		t.Errorf("a second restore lost the data of before: %v", err)
	}
	old := c.Data().Cluster.UID
	c.Ctl("init", "-y", "-f", c.WriteSpec(harness.Quick(harness.Spec{"initMode": "pitr", "pitrConfig": harness.Spec{
		"dataRestoreCommand": "rmdir %d && cp -a %d.aside %d"}})))
	awaitNormal(c, old)
	k.SQL().AwaitQuery(30*time.Second, "select n from rows", "1")
}

// The spec's locale, encoding and checksums reach initdb.
func TestNewConfigReachesInitdb(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 1, Spec: harness.Quick(harness.Spec{
		"newConfig": harness.Spec{"locale": "C", "encoding": "LATIN1", "dataChecksums": true}})})
	got := c.Keepers[0].SQL().Query("select current_setting('data_checksums'), current_setting('server_encoding'), datcollate from pg_database where datname = 'template1'")
	if got != "on|LATIN1|C" {
		t.Errorf("checksums, encoding, locale = %s", got)
	}
}
