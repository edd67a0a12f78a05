//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stolon/tests/certs"
	"stolon/tests/harness"
)

// Replication, base backups and rewinds go over TLS with certificates on both
// sides, and everybody else needs TLS too.
func TestConnectionsBetweenInstancesAreVerified(t *testing.T) {
	t.Parallel()
	ca := certs.New(t, t.TempDir(), "authority")
	cert, key := ca.Sign("server")
	suCert, suKey := ca.Sign(harness.Superuser)
	replCert, replKey := ca.Sign(harness.Replication)
	c := harness.Start(t, harness.Options{Keepers: 3, Proxies: 1,
		Spec: harness.Quick(harness.Spec{"usePgrewind": true, "maxStandbyLag": 1 << 30, "pgParameters": harness.Parameters(map[string]string{
			"ssl": "on", "ssl_cert_file": cert, "ssl_key_file": key, "ssl_ca_file": ca.File,
		})}),
		Keeper: func(k *harness.Keeper) {
			k.Flags = []string{
				"--pg-advertise-address=localhost", "--pg-sslmode=verify-full", "--pg-sslrootcert=" + ca.File,
				"--pg-su-auth-method=cert", "--pg-su-sslcert=" + suCert, "--pg-su-sslkey=" + suKey,
				"--pg-repl-auth-method=cert", "--pg-repl-sslcert=" + replCert, "--pg-repl-sslkey=" + replKey,
				"--pg-repl-passwordfile",
			}
		},
	})
	const certified = "select count(*) from pg_stat_replication r join pg_stat_ssl s using (pid) where s.ssl and s.client_dn = '/CN=" + harness.Replication + "'"
	master, standbys := c.Roles()
	master.SQL().AwaitQuery(soon, certified, "2")
	master.SQL().Query("create table t (n int)")
	master.SQL().Query("insert into t values (1)")
	c.AwaitCaughtUp(soon, master, standbys...)

	// What the old master wrote alone is undone, which needs the superuser's
	// certificate on its way to the new one.
	for _, k := range standbys {
		k.Freeze()
	}
	if _, err := master.SQL().Try(soon, "insert into t select generate_series(100, 500000)"); err != nil {
		t.Fatal(err)
	}
	master.KillBoth()
	for _, k := range standbys {
		k.Resume()
	}
	next := c.AwaitAnother(2*soon, master)
	next.SQL().Query("insert into t values (2)")
	mark := master.Mark()
	master.Start()
	c.AwaitHealthy(2*soon, 3)
	master.AwaitLog(soon, mark, "pg_rewind succeeded")
	next.SQL().AwaitQuery(soon, certified, "2")
	master.SQL().AwaitQuery(soon, "select string_agg(n::text, ',' order by n) from t", "1,2")

	next.SQL().Query("create role app login password 'app'")
	c.Patch(`{"pgHBA":["hostssl all all 127.0.0.1/32 md5"]}`)
	app := next.SQL().As("app", "app")
	harness.Await(t, soon, "nobody comes in without TLS", func() (string, bool) {
		out, err := app.Try(soon, "select 1")
		return fmt.Sprint(out, err), err != nil && strings.Contains(err.Error(), "no pg_hba.conf entry")
	})
	app.TLS().AwaitQuery(soon, "select 1", "1")
}

// A certificate of somebody else's authority is refused: nothing is copied.
func TestAForeignServerIsNotCopied(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := certs.New(t, dir, "authority").Sign("server")
	other := certs.New(t, dir, "other")
	c := harness.Start(t, harness.Options{Keepers: 1, Spec: harness.Quick(harness.Spec{
		"pgParameters": harness.Parameters(map[string]string{"ssl": "on", "ssl_cert_file": cert, "ssl_key_file": key}),
	})})
	k := c.AddKeeper()
	k.Flags = []string{"--pg-sslmode=verify-ca", "--pg-sslrootcert=" + other.File}
	k.Start()
	k.AwaitLog(soon, 0, "certificate verify failed")
	if _, err := os.Stat(filepath.Join(k.PGDir(), "PG_VERSION")); err == nil {
		t.Error("the data of a server with a foreign certificate was copied")
	}
}

// Both passwords are changed while everything runs: no instance is restarted
// and a standby that loses its connection in between comes back.
func TestPasswordsAreChangedWhileRunning(t *testing.T) {
	t.Parallel()
	const newSU, newRepl = "a new 'one", `another\ new: one`
	write := func(k *harness.Keeper, su, repl string) {
		for name, text := range map[string]string{"su": su, "repl": repl} {
			if err := os.WriteFile(filepath.Join(k.DataDir+"."+name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	c := harness.Start(t, harness.Options{Keepers: 3, Proxies: 1, Keeper: func(k *harness.Keeper) {
		write(k, harness.SuperuserPassword, harness.ReplicationPassword)
		k.Flags = []string{
			"--pg-su-auth-method=scram-sha-256", "--pg-repl-auth-method=scram-sha-256",
			"--pg-su-passwordfile=" + k.DataDir + ".su", "--pg-repl-passwordfile=" + k.DataDir + ".repl",
		}
	}})
	master, standbys := c.Roles()
	pids := map[*harness.Keeper]int{}
	for _, k := range c.Keepers {
		pids[k] = k.Postmaster()
	}
	reconnect := func(su harness.Server) {
		t.Helper()
		const sender = "select count(*) from pg_stat_replication where state = 'streaming'"
		su.AwaitQuery(soon, sender, "2")
		su.Query("select pg_terminate_backend(pid) from pg_stat_replication")
		su.AwaitQuery(soon, sender, "2")
	}
	for _, k := range standbys {
		mark := k.Mark()
		write(k, newSU, newRepl)
		k.AwaitLog(soon, mark, "passwords have changed")
	}
	reconnect(master.SQL()) // the master's are still the old ones
	mark := master.Mark()
	write(master, newSU, newRepl)
	master.AwaitLog(soon, mark, "replication role updated")
	if out, err := master.SQL().Try(soon, "select 1"); err == nil {
		t.Errorf("the old password is still taken: %s", out)
	}
	c.Password = newSU
	reconnect(master.SQL())
	for k, pid := range pids {
		if got := k.Postmaster(); got != pid {
			t.Errorf("%s: the postmaster is %d, no longer %d", k.UID, got, pid)
		}
		for _, secret := range []string{newSU, newRepl} {
			if k.Logged(0, secret) {
				t.Errorf("the log of %s shows a password", k.UID)
			}
		}
	}

	// A keeper that did not hear of it in time finds its way too.
	master.KillBoth()
	next := c.AwaitAnother(2*soon, master)
	master.Start()
	c.AwaitHealthy(2*soon, 3)
	reconnect(next.SQL())
}
