//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stolon/tests/harness"
)

// "stolonctl init" on a cluster that lives, by which an operator asks for
// another one: clients are cut off, all keepers take the new cluster, and the
// old data is set aside or, with initMode existing, goes on being served.
func TestInitOnALivingCluster(t *testing.T) {
	t.Parallel()
	for name, keeps := range map[string]bool{"new": false, "existing": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := harness.Start(t, harness.Options{Keepers: 3, Sentinels: 2, Proxies: 2})
			master, _ := c.Roles()
			w := harness.StartWriter(c.Proxies[0].SQL())
			w.AwaitRows(t, soon, 20)
			old := c.Data()

			spec := harness.Spec{"initMode": name, "maxStandbys": 5}
			if keeps {
				spec["existingConfig"] = harness.Spec{"keeperUID": master.UID}
			}
			file := c.WriteSpec(harness.Quick(spec))
			if out, _, code := c.RunCtl("no\n", "init", "-f", file); code != 0 || !strings.Contains(out, "exiting") || c.Data().Cluster.UID != old.Cluster.UID {
				t.Fatalf("init that is answered by no: status %d, cluster %s: %s", code, c.Data().Cluster.UID, out)
			}
			out, _, code := c.RunCtl("yes\n", "init", "-f", file)
			if code != 0 || !strings.Contains(out, "WARNING: The current cluster data will be removed\nWARNING: The databases managed by the keepers will be overwritten") {
				t.Fatalf("init: status %d: %s", code, out)
			}
			awaitNormal(c, old.Cluster.UID)
			c.AwaitHealthy(2*soon, 3)
			harness.Await(t, soon, "the clients of before are cut off", func() (string, bool) { return "", w.Connections() > 0 })
			w.Stop()

			cd := c.Data()
			if *cd.Cluster.Spec.MaxStandbys != 5 {
				t.Error("the new cluster has another spec")
			}
			same := cd.Master().Status.SystemID == old.Master().Status.SystemID
			if same != keeps {
				t.Errorf("the system identifier was %s and is %s", old.Master().Status.SystemID, cd.Master().Status.SystemID)
			}
			for uid := range old.DBs {
				if cd.DBs[uid] != nil {
					t.Errorf("db %s is of both clusters", uid)
				}
			}
			if keeps {
				unheard := w.Lost(c.Proxies[1].SQL())
				if now, _ := c.Roles(); now != master || len(unheard) > 0 {
					t.Errorf("%s is master instead of %s, rows %v are lost", now.UID, master.UID, unheard)
				}
				return
			}
			c.Proxies[1].SQL().AwaitQuery(soon, "select to_regclass('written') is null", "true")
			for _, k := range c.Keepers {
				if _, err := os.Stat(filepath.Join(k.PGDir()+".aside", "PG_VERSION")); err != nil {
					t.Errorf("the old data is not kept: %v", err)
				}
			}
		})
	}
}
