//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"stolon/internal/cluster"
	"stolon/tests/harness"
)

// INIT-1: a sentinel with an initial spec and one keeper make a database.
func TestOneKeeperMakesADatabase(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 1})
	if got := c.Keepers[0].SQL().Query("select 1"); got != "1" {
		t.Errorf("select 1 = %q", got)
	}
}

// INIT-2: what initdb chose is merged into the stored parameters, or isn't.
func TestInitdbsParametersAreMerged(t *testing.T) {
	t.Parallel()
	for name, merge := range map[string]bool{"merge": true, "no merge": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := harness.Start(t, harness.Options{Keepers: 1, Spec: harness.Quick(harness.Spec{"mergePgParameters": merge})})
			params := c.Data().Cluster.Spec.PGParameters
			if _, merged := params["max_connections"]; merged != merge {
				t.Errorf("max_connections in the stored parameters: %t, want %t", merged, merge)
			}
			if params["shared_buffers"] != "16MB" {
				t.Errorf("shared_buffers in the stored parameters = %q, want what the spec says", params["shared_buffers"])
			}
		})
	}
}

// rolesSet starts one keeper with the flags and waits for a working database.
func rolesSet(t *testing.T, flags ...string) *harness.Keeper {
	t.Helper()
	c := harness.New(t)
	c.AddSentinel(c.WriteSpec(harness.Quick(nil))).Start()
	k := c.AddKeeper()
	k.Flags = flags
	k.Start()
	c.AwaitData(60*time.Second, "the first db is healthy", func(cd *cluster.ClusterData) bool {
		return cd.Cluster.Status.Phase == cluster.Normal && cd.Master().Status.Healthy
	})
	return k
}

// INIT-4a: superuser and replication user are one, with two passwords.
func TestOneUserWithTwoPasswordsIsRefused(t *testing.T) {
	t.Parallel()
	c := harness.New(t)
	k := c.AddKeeper()
	k.Flags = []string{"--pg-repl-username=" + harness.Superuser}
	k.Start()
	if code := k.AwaitExit(20 * time.Second); code != 1 {
		t.Errorf("exit status %d, want 1", code)
	}
	k.WantLog("provided superuser name and replication user name are the same but provided passwords are different")
}

// INIT-4b: superuser and replication user are one.
func TestOneUserIsSuperuserAndReplicates(t *testing.T) {
	t.Parallel()
	k := rolesSet(t, "--pg-repl-username="+harness.Superuser, "--pg-repl-passwordfile", "--pg-repl-password="+harness.SuperuserPassword)
	k.WantLog("replication role added to superuser")
	if got := k.SQL().Query("select rolreplication, rolsuper from pg_roles where rolname = '" + harness.Superuser + "'"); got != "true|true" {
		t.Errorf("replicates, superuser = %s", got)
	}
}

// INIT-4c: superuser and replication user are two.
func TestReplicationUserIsMade(t *testing.T) {
	t.Parallel()
	k := rolesSet(t, "--pg-repl-username=user02")
	k.WantLog("superuser password set")
	k.WantLog("replication role created\t" + `{"role": "user02"}`)
	if got := k.SQL().Query("select rolreplication, rolsuper from pg_roles where rolname = 'user02'"); got != "true|false" {
		t.Errorf("replicates, superuser = %s", got)
	}
}

// INIT-5: a sentinel alone makes the cluster data of its initial spec.
func TestASentinelAloneMakesTheClusterData(t *testing.T) {
	t.Parallel()
	c := harness.New(t)
	c.AddSentinel(c.WriteSpec(harness.Quick(harness.Spec{"synchronousReplication": true, "maxStandbys": 7}))).Start()
	c.AwaitData(20*time.Second, "there is cluster data", func(cd *cluster.ClusterData) bool { return true })
	cl := c.Data().Cluster
	set := cl.Spec.Settings()
	if cl.Status.Phase != cluster.Initializing || *cl.Spec.InitMode != cluster.InitNew || !set.SynchronousReplication || set.MaxStandbys != 7 || set.SleepInterval.Duration != 2*time.Second {
		t.Errorf("phase %s, spec %s", cl.Status.Phase, asJSON(cl.Spec))
	}
}

// INIT-6: the data directory of a keeper is its own.
func TestASecondKeeperOnADataDirIsRefused(t *testing.T) {
	t.Parallel()
	c := harness.New(t)
	first, second := c.AddKeeper(), c.AddKeeper()
	first.Start()
	first.AwaitLog(20*time.Second, 0, "exclusive lock on data dir taken")
	second.Flags = []string{"--data-dir=" + first.DataDir, "--uid=" + first.UID}
	second.Start()
	if code := second.AwaitExit(20 * time.Second); code != 1 {
		t.Errorf("exit status %d, want 1", code)
	}
	second.WantLog("cannot take exclusive lock on data dir")
	if !first.Running() {
		t.Error("the first keeper has ended")
	}
}

// INIT-7: a newline at the end of a password file isn't part of the password.
func TestANewlineAfterAPasswordIsRemoved(t *testing.T) {
	t.Parallel()
	su, repl := passwordFile(t, harness.SuperuserPassword+"\n"), passwordFile(t, harness.ReplicationPassword+"\r\n")
	k := rolesSet(t, "--pg-su-passwordfile="+su, "--pg-repl-passwordfile="+repl)
	k.WantLog("superuser password contain trailing new line, removing")
	k.WantLog("replication user password contain trailing new line, removing")
	k.SQL().Query("select 1")
}

// INIT-7: a password of nothing but a newline is none.
func TestAPasswordOfANewlineIsRefused(t *testing.T) {
	t.Parallel()
	for flag, want := range map[string]string{
		"--pg-su-passwordfile":   "superuser password is empty after removing trailing new line",
		"--pg-repl-passwordfile": "replication user password is empty after removing trailing new line",
	} {
		t.Run(flag, func(t *testing.T) {
			t.Parallel()
			c := harness.New(t)
			k := c.AddKeeper()
			k.Flags = []string{flag + "=" + passwordFile(t, "\n")}
			k.Start()
			if code := k.AwaitExit(20 * time.Second); code != 1 {
				t.Errorf("exit status %d, want 1", code)
			}
			k.WantLog(want)
		})
	}
}

func passwordFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// INIT-8: three keepers and two sentinels at once make one master.
func TestManyAtOnceMakeOneMaster(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 3, Sentinels: 2, Proxies: 1})
	primaries := 0
	for _, k := range c.Keepers {
		if k.SQL().Query("select pg_is_in_recovery()") == "false" {
			primaries++
		}
	}
	if primaries != 1 {
		t.Errorf("%d primaries", primaries)
	}
}
