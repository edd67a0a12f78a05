//go:build integration

package integration

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"stolon/internal/cluster"
	"stolon/tests/harness"
	"stolon/tests/servers"
)

// storeFaults are what may befall a member of the store, and how it ends.
var storeFaults = map[string]storeFault{
	"killed":  {(*servers.Store).Kill, (*servers.Store).Restart},
	"stopped": {(*servers.Store).Freeze, (*servers.Store).Resume},
}

type storeFault struct{ do, undo func(*servers.Store) }

// leadingMember is the member of the store that leads it.
func leadingMember(t *testing.T, c *harness.Cluster) *servers.Store {
	t.Helper()
	for _, m := range c.Members {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		st, err := rawEtcd(t, m.Endpoint).Status(ctx, m.Endpoint)
		cancel()
		if err == nil && st.Leader == st.Header.MemberId {
			return m
		}
	}
	t.Fatal("no member leads the store")
	return nil
}

// unmoved checks that what happened since cost no failover and no row.
func unmoved(t *testing.T, c *harness.Cluster, before *cluster.ClusterData, w *harness.Writer) {
	t.Helper()
	cd := c.Data()
	if cd.Cluster.Status.Master != before.Cluster.Status.Master {
		t.Errorf("the master was %s and is %s", before.Cluster.Status.Master, cd.Cluster.Status.Master)
	}
	w.Stop()
	if lost := w.Lost(c.Proxies[0].SQL()); len(lost) > 0 {
		t.Errorf("of %d acknowledged rows %d are lost: %v", w.Acked(), len(lost), lost)
	}
}

// A member of a store of three that is killed, stopped or cut off from the
// others but not from its clients, also the one that leads, costs no
// connection, no failover and no route: with the default --store-timeout,
// which is as long as failInterval and proxyTimeout here.
func TestALostStoreMemberCostsNoConnection(t *testing.T) {
	t.Parallel()
	faults := maps.Clone(storeFaults)
	faults["cut off"] = storeFault{(*servers.Store).CutOff, (*servers.Store).Rejoin}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := harness.Start(t, harness.Options{Members: 3, Keepers: 2, Sentinels: 2, Proxies: 2, Flags: []string{"--store-timeout=5s"}})
			c.AwaitData(soon, "two proxies are enabled", func(cd *cluster.ClusterData) bool { return len(cd.Proxy.Spec.EnabledProxies) == 2 })
			before := c.Data()
			w := harness.StartWriter(c.Proxies[0].SQL())
			other := harness.StartWriterFrom(1_000_000, c.Proxies[1].SQL())
			w.AwaitRows(t, soon, 20)
			other.AwaitRows(t, soon, 20)
			// The endpoint in use, then whoever leads.
			led := ""
			for _, pick := range []func() *servers.Store{
				func() *servers.Store { return c.Members[0] },
				func() *servers.Store { return leadingMember(t, c) },
			} {
				at, m := time.Now(), pick()
				led = m.Endpoint
				fault.do(m)
				harness.Holds(t, 12*time.Second, "the master and the route stay", func() (string, bool) {
					cd, err := c.TryData()
					if err != nil {
						return err.Error(), true // the store elects
					}
					return harness.Summary(cd), cd.Cluster.Status.Master == before.Cluster.Status.Master &&
						cd.Proxy.Spec.MasterDBUID == before.Proxy.Spec.MasterDBUID &&
						slices.Equal(cd.Proxy.Spec.EnabledProxies, before.Proxy.Spec.EnabledProxies)
				})
				fault.undo(m)
				gap := max(w.Gap(at), other.Gap(at))
				t.Logf("%s %s: %s without an acknowledgement", m.Endpoint, name, gap)
				if gap > 2*time.Second { // alone on the machine it is below 0.2 s
					t.Errorf("%s without an acknowledgement", gap)
				}
			}
			if leads := leadingMember(t, c).Endpoint; leads == led {
				t.Errorf("%s leads on: it was not %s", leads, name)
			}
			if n, m := w.Connections(), other.Connections(); n+m > 0 {
				t.Errorf("%d and %d connections have ended", n, m)
			}
			other.Stop()
			unmoved(t, c, before, w)
		})
	}
}

// The whole store is away for longer than proxyTimeout, killed or stopped:
// proxies cut, PostgreSQL goes on as it was, nobody is promoted. When the store
// is back so is the traffic, and nothing is lost.
func TestAStoreOutageEndsWithTheStore(t *testing.T) {
	t.Parallel()
	for name, fault := range storeFaults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := harness.Start(t, harness.Options{Keepers: 2, Sentinels: 2, Proxies: 1})
			before := c.Data()
			master, standbys := c.Roles()
			var pids []int
			for _, k := range c.Keepers {
				pids = append(pids, k.Postmaster())
			}
			w := harness.StartWriter(c.Proxies[0].SQL())
			w.AwaitRows(t, soon, 20)
			fault.do(c.Server)
			harness.Await(t, soon, "the proxy has cut", func() (string, bool) { return "", w.Connections() > 0 })
			harness.Holds(t, 10*time.Second, "PostgreSQL goes on in its roles", func() (string, bool) {
				for i, k := range c.Keepers {
					if k.Postmaster() != pids[i] {
						return k.UID + " restarted or ended PostgreSQL", false
					}
				}
				for k, want := range map[*harness.Keeper]string{master: "f", standbys[0]: "t"} {
					got, err := k.SQL().Try(5*time.Second, "select pg_is_in_recovery()")
					if err != nil || got[:1] != want {
						return k.UID + ": pg_is_in_recovery is " + got, false
					}
				}
				return "", true
			})
			fault.undo(c.Server)
			harness.Await(t, soon, "the store answers", func() (string, bool) {
				_, err := c.TryData()
				return "", err == nil
			})
			back := time.Now()
			w.AwaitRowsSince(t, soon, back, 1)
			traffic := time.Since(back)
			t.Logf("traffic %s after the store was read", traffic)
			if traffic > 3*time.Second { // alone on the machine it is below 1 s
				t.Errorf("traffic came back %s after the store", traffic)
			}
			harness.Holds(t, 12*time.Second, "the master stays", func() (string, bool) {
				cd := c.Data()
				return harness.Summary(cd), cd.Cluster.Status.Master == before.Cluster.Status.Master && cd.Proxy.Spec.MasterDBUID == before.Proxy.Spec.MasterDBUID
			})
			unmoved(t, c, before, w)
		})
	}
}
