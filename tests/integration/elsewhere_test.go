//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"testing"

	"stolon/tests/harness"
)

// WAL on a disk of its own and tablespaces come along with a copy, beside those
// of the data that is replaced.
func TestWALAndTablespacesElsewhereAreCopied(t *testing.T) {
	t.Parallel()
	space, err := os.MkdirTemp("/tmp", "ts") // a base backup takes no link of more than 99 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(space) })
	walDir := func(k *harness.Keeper) string { return k.DataDir + ".disk" }
	prepare := func(k *harness.Keeper) {
		if err := os.Mkdir(walDir(k), 0o700); err != nil {
			t.Fatal(err)
		}
		k.Flags = []string{"--wal-dir=" + walDir(k)}
	}
	c := harness.Start(t, harness.Options{Keepers: 1, Proxies: 1, Keeper: prepare, Spec: harness.Quick(harness.Spec{"maxStandbyLag": 1 << 30})})
	old, _ := c.Roles()
	old.SQL().Query("create tablespace apart location '" + space + "'")
	old.SQL().Query("create table t (n int) tablespace apart")
	old.SQL().Query("insert into t values (1)")
	k := c.AddKeeper()
	prepare(k)
	k.Start()
	c.AwaitHealthy(2*soon, 2)
	const where = "select pg_tablespace_location(oid) from pg_tablespace where spcname = 'apart'"
	k.SQL().AwaitQuery(soon, where, filepath.Join(space, "stolon_1"))
	k.SQL().AwaitQuery(soon, "select n from t", "1")

	// The old master wrote on alone: it needs a copy.
	k.Freeze()
	old.SQL().Query("insert into t select generate_series(100, 500000)")
	old.KillBoth()
	k.Resume()
	c.AwaitAnother(2*soon, old)
	k.SQL().Query("insert into t values (2)")
	mark := old.Mark()
	old.Start()
	c.AwaitHealthy(2*soon, 2)
	old.AwaitLog(soon, mark, "pg_basebackup")
	old.SQL().AwaitQuery(soon, "select max(n) from t where n < 100", "2")
	old.SQL().AwaitQuery(soon, where, filepath.Join(space, "stolon_2"))

	// The old data holds rows that nobody else has: it is kept, with what belongs
	// to it elsewhere.
	for dir, wal := range map[string]string{old.PGDir() + ".aside": "stolon_1", old.PGDir(): "stolon_2"} {
		link, err := os.Readlink(filepath.Join(dir, "pg_wal"))
		if err != nil || link != filepath.Join(walDir(old), wal) {
			t.Errorf("WAL of %s is in %s (%v), not in %s", dir, link, err, wal)
		}
	}
	if left, err := filepath.Glob(filepath.Join(space, "PG_*")); err != nil || len(left) != 1 {
		t.Errorf("the old tablespace is %v: %v", left, err)
	}
	k.SQL().AwaitQuery(soon, "select max(n) from t where n < 100", "2")
	c.AwaitHealthy(soon, 2)
}
