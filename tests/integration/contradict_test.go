//go:build integration

package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stolon/internal/cluster"
	"stolon/internal/store"
	"stolon/tests/harness"
)

// contradicted is a cluster with a row, whose store is about to be tampered with.
func contradicted(t *testing.T) (c *harness.Cluster, master *harness.Keeper) {
	c = harness.Start(t, harness.Options{Keepers: 2, Proxies: 1})
	master, _ = c.Roles()
	master.SQL().Query("create table rows (n int)")
	master.SQL().Query(insert(1))
	return c, master
}

// awaitProblem waits until "stolonctl status" tells of it.
func awaitProblem(t *testing.T, c *harness.Cluster, texts ...string) {
	t.Helper()
	harness.Await(t, soon, "status tells: "+strings.Join(texts, ", "), func() (string, bool) {
		out, stderr, _ := c.RunCtl("", "status")
		_, problems, _ := strings.Cut(out, "=== Problems ===")
		for _, text := range texts {
			if !strings.Contains(problems, text) {
				return out + stderr, false
			}
		}
		return out, true
	})
}

// write writes cluster data over what the store holds.
func write(t *testing.T, c *harness.Cluster, data string) {
	t.Helper()
	if _, stderr, code := c.RunCtl(data, "clusterdata", "write", "--yes"); code != 0 {
		t.Fatal(stderr)
	}
}

// untouched fails the test if a keeper's data was set aside or is gone.
func untouched(t *testing.T, c *harness.Cluster) {
	t.Helper()
	for _, k := range c.Keepers {
		if _, err := os.Stat(filepath.Join(k.PGDir(), "PG_VERSION")); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(k.PGDir() + ".aside"); err == nil {
			t.Errorf("the data of %s was set aside", k.UID)
		}
	}
}

// whole waits until the cluster serves the rows, without a complaint.
func whole(t *testing.T, c *harness.Cluster, rows string) {
	t.Helper()
	c.AwaitHealthy(2*soon, 2)
	c.Proxies[0].SQL().AwaitQuery(soon, "select string_agg(n::text, ',' order by n) from rows", rows)
	harness.Await(t, soon, "status tells of no problem", func() (string, bool) {
		out := c.Ctl("status")
		return out, !strings.Contains(out, "Problems")
	})
}

// Cluster data of before a failover is written back: the master that was
// elected since is left alone, nobody is led anywhere else, and the newest
// cluster data makes all well again; so does a new cluster of that master's data.
func TestClusterDataOfBeforeAFailover(t *testing.T) {
	t.Parallel()
	for name, goOn := range map[string]func(c *harness.Cluster, newest string, master *harness.Keeper){
		"restored": func(c *harness.Cluster, newest string, _ *harness.Keeper) { write(t, c, newest) },
		"adopted": func(c *harness.Cluster, _ string, master *harness.Keeper) {
			c.Ctl("init", "-y", "-f", c.WriteSpec(harness.Quick(harness.Spec{"initMode": "existing", "existingConfig": map[string]string{"keeperUID": master.UID}})))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			beforeAFailover(t, goOn)
		})
	}
}

func beforeAFailover(t *testing.T, goOn func(c *harness.Cluster, newest string, master *harness.Keeper)) {
	c, first := contradicted(t)
	old := c.Ctl("clusterdata", "read")
	first.Stop()
	second := c.Keepers[0]
	if second == first {
		second = c.Keepers[1]
	}
	c.AwaitMaster(soon, second)
	second.SQL().AwaitQuery(soon, "select count(*) from rows", "1")
	second.SQL().Query(insert(2))
	first.Start()
	c.AwaitHealthy(2*soon, 2)
	newest := c.Ctl("clusterdata", "read")
	pid := second.Postmaster()

	write(t, c, old)
	awaitProblem(t, c, "store and data contradict each other", `"stolonctl clusterdata write"`, "stolonctl init '"+cluster.AdoptSpec(second.UID)+"'",
		"keeper "+second.UID+": the primary here, on timeline 2, is newer", "keeper "+first.UID+": another keeper process runs with our uid: every keeper needs its own; or the store was restored")
	c.Sentinels[0].WantLog("store and data contradict each other")
	harness.Holds(t, 12*time.Second, "the newer master runs untouched and nobody else is elected", func() (string, bool) {
		cd := c.Data()
		return harness.Summary(cd), second.Postmaster() == pid && cd.Proxy.Spec.MasterDBUID == "" && cd.DBOf(first.UID).UID == cd.Cluster.Status.Master
	})
	second.SQL().AwaitQuery(soon, "select pg_is_in_recovery(), count(*) from rows", "false|2")
	untouched(t, c)

	goOn(c, newest, second)
	whole(t, c, "1,2")
}

// The store loses everything and a sentinel makes a cluster anew: no database
// is made beside the data that the keepers hold.
func TestAWipedStore(t *testing.T) {
	t.Parallel()
	for name, goOn := range map[string]func(t *testing.T, c *harness.Cluster, data string){
		"restored": func(t *testing.T, c *harness.Cluster, data string) {
			write(t, c, data)
			whole(t, c, "1")
		},
		"given up": func(t *testing.T, c *harness.Cluster, _ string) {
			c.Ctl("init", "-y", "-f", c.WriteSpec(harness.Quick(nil)))
			c.AwaitHealthy(2*soon, 2)
			c.Proxies[0].SQL().AwaitQuery(soon, "select to_regclass('rows') is null", "true")
			for _, k := range c.Keepers {
				if _, err := os.Stat(filepath.Join(k.PGDir()+".aside", "PG_VERSION")); err != nil {
					t.Errorf("the old data is not kept: %v", err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, _ := contradicted(t)
			data := c.Ctl("clusterdata", "read")
			wipe(t, c)
			awaitProblem(t, c, "keepers hold data of another cluster", `run "stolonctl init"`, "stolonctl init '{", `"stolonctl clusterdata write"`)
			harness.Holds(t, 10*time.Second, "nothing is made", func() (string, bool) {
				cd := c.Data()
				return harness.Summary(cd), cd.Cluster.Status.Phase == cluster.Initializing && len(cd.DBs) == 0
			})
			untouched(t, c)
			goOn(t, c, data)
		})
	}
}

// The store loses everything and nobody makes a cluster anew: clients are cut
// off, PostgreSQL runs on as it was, and all is well once the cluster data is
// written back.
func TestAWipedStoreWithoutASpec(t *testing.T) {
	t.Parallel()
	c, master := contradicted(t)
	c.Sentinels[0].Stop()
	c.Sentinels[0].InitialSpec = ""
	c.Sentinels[0].Start()
	c.Leader()
	data := c.Ctl("clusterdata", "read")
	pids := map[*harness.Keeper]int{}
	for _, k := range c.Keepers {
		pids[k] = k.Postmaster()
	}
	wipe(t, c)
	c.Sentinels[0].AwaitLog(soon, 0, "no cluster data")
	harness.Await(t, soon, "the proxy leads nowhere", func() (string, bool) {
		got, err := c.Proxies[0].SQL().Try(time.Second, "select 1")
		return got, err != nil
	})
	_, stderr, code := c.RunCtl("", "status")
	if code == 0 || !strings.Contains(stderr, "has no cluster data in this store") {
		t.Errorf("status: %d: %s", code, stderr)
	}
	harness.Holds(t, 10*time.Second, "PostgreSQL runs on", func() (string, bool) {
		for k, pid := range pids {
			if k.Postmaster() != pid {
				return k.UID, false
			}
		}
		got, err := master.SQL().Try(5*time.Second, "select pg_is_in_recovery()")
		return got, err == nil && got == "false"
	})
	untouched(t, c)
	write(t, c, data)
	whole(t, c, "1")
}

// wipe removes everything from the store.
func wipe(t *testing.T, c *harness.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	st, err := c.Store.State(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ops := []store.Op{{Key: c.Store.ClusterDataKey(), Delete: true}}
	for uid := range st.Keepers {
		ops = append(ops, store.Op{Key: c.Store.KeeperKey(uid), Delete: true})
	}
	for name := range st.Ext {
		ops = append(ops, store.Op{Key: c.Store.ExtKey(name), Delete: true})
	}
	if _, err := c.Store.Commit(ctx, nil, ops); err != nil {
		t.Fatal(err)
	}
}

// The store of another cluster, with keepers of the same names, is put in the
// place of the own one: nothing is run, copied or removed.
func TestAStoreOfAnotherCluster(t *testing.T) {
	t.Parallel()
	c, _ := contradicted(t)
	own := c.Ctl("clusterdata", "read")
	other := strings.ReplaceAll(own, c.Data().Cluster.UID, "0ther123")
	for uid := range c.Data().DBs {
		other = strings.ReplaceAll(other, uid, "d"+uid[1:7]+"f")
	}
	for uid := range c.Data().DBs {
		other = strings.ReplaceAll(other, c.Data().DBs[uid].Status.SystemID, "7000000000000000000")
	}
	write(t, c, other)
	for _, k := range c.Keepers {
		awaitProblem(t, c, "keeper "+k.UID+": the data directory belongs to db", "was the store swapped?", "stolonctl init '"+cluster.AdoptSpec(k.UID)+"'")
	}
	harness.Holds(t, 12*time.Second, "nobody is elected or added", func() (string, bool) {
		cd := c.Data()
		return harness.Summary(cd), len(cd.DBs) == 2 && !strings.Contains(own, cd.Cluster.Status.Master)
	})
	untouched(t, c)
	write(t, c, own)
	whole(t, c, "1")
}
