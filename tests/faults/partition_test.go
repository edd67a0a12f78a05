//go:build integration

package faults

import (
	"testing"
	"time"

	"stolon/internal/cluster"
	"stolon/tests/harness"
	"stolon/tests/network"
)

// start starts a cluster of which each process has a machine of its own. A
// keeper and its PostgreSQL share one.
func start(t *testing.T, o harness.Options) (*harness.Cluster, *network.Network) {
	t.Helper()
	net := network.New(t)
	o.Place = net.Place
	return harness.Start(t, o), net
}

// noneConfirmed fails the test if a sentinel took the master for dead before
// failInterval was over.
func noneConfirmed(t *testing.T, c *harness.Cluster) {
	t.Helper()
	for _, s := range c.Sentinels {
		if s.Logged(0, "master's death confirmed") {
			t.Errorf("%s took the master for dead", s.Name)
		}
	}
}

// No pair of processes that cannot reach each other costs a healthy master its
// place, for however long, but the master's keeper and the store.
func TestACutBetweenTwoMachinesIsNoFailover(t *testing.T) {
	t.Parallel()
	c, net := start(t, harness.Options{Keepers: 3, Sentinels: 2, Proxies: 2})
	master, standbys := c.Roles()
	host := net.Host(master.UID)
	reached, cut := c.Proxies[0], c.Proxies[1]
	w := harness.StartWriter(reached.SQL())
	w.AwaitRows(t, soon, 20)
	long := 2 * 5 * time.Second // failInterval is 5 s

	t.Run("a proxy and the master", func(t *testing.T) {
		net.Cut(host, net.Host(cut.Name))
		if _, err := cut.SQL().Try(3*time.Second, "select 1"); err == nil {
			t.Fatal("there is a way to the master")
		}
		harness.SameMaster(t, c, long)
		net.Heal()
		c.AwaitRoute(soon, master)
	})
	t.Run("a standby and the master", func(t *testing.T) {
		lsn := "select pg_last_wal_receive_lsn()"
		net.Cut(host, net.Host(standbys[0].UID))
		was := standbys[0].SQL().Query(lsn)
		harness.SameMaster(t, c, long)
		if now := standbys[0].SQL().Query(lsn); now != was {
			t.Errorf("there is a way to the master: received until %s, then %s", was, now)
		}
		net.Heal()
		c.AwaitHealthy(2*soon, 3)
	})
	t.Run("the sentinels and the master", func(t *testing.T) {
		for _, s := range c.Sentinels {
			net.Cut(host, net.Host(s.Name))
		}
		harness.SameMaster(t, c, long)
		net.Heal()
	})
	w.AwaitRowsSince(t, soon, time.Now(), 20)
	if n := w.Connections(); n > 0 {
		t.Errorf("%d connections have ended", n)
	}
	noneConfirmed(t, c)
}

// A synchronous standby that cannot reach the master is replaced by one that
// can: writes don't wait for the end of the cut.
func TestACutSynchronousStandbyIsReplaced(t *testing.T) {
	t.Parallel()
	c, net := start(t, harness.Options{Keepers: 3, Proxies: 1, Spec: harness.Quick(harness.Spec{
		"synchronousReplication": true,
		// How long PostgreSQL takes a silent connection for a good one.
		"pgParameters": harness.Parameters(map[string]string{"wal_receiver_timeout": "3s", "wal_sender_timeout": "3s"}),
	})})
	c.AwaitSynchronous(soon)
	master, standbys := c.Roles()
	cut := standbys[0]
	if c.DB(cut).UID != c.DB(master).Spec.SynchronousStandbys[0] {
		cut = standbys[1]
	}
	w := harness.StartWriter(c.Proxies[0].SQL())
	w.AwaitRows(t, soon, 20)
	net.Cut(net.Host(master.UID), net.Host(cut.UID))
	at := time.Now()
	c.AwaitData(2*soon, "the other standby is the synchronous one", func(cd *cluster.ClusterData) bool {
		m := cd.Master()
		return len(m.Spec.SynchronousStandbys) == 1 && m.Spec.SynchronousStandbys[0] != cd.DBOf(cut.UID).UID
	})
	t.Logf("replaced after %s, failInterval is 5 s", time.Since(at).Round(time.Millisecond))
	w.AwaitRowsSince(t, soon, time.Now(), 20)
	if now, _ := c.Roles(); now != master {
		t.Errorf("%s is master, was %s", now.UID, master.UID)
	}
	net.Heal()
	c.AwaitHealthy(2*soon, 3)
	w.WantAll(t, c.Proxies[0].SQL())
}

// A firewall that refuses newcomers to the master is no death: its keeper lives,
// or somebody still hears of it.
func TestAFirewallBeforeTheMasterIsNoFailover(t *testing.T) {
	t.Parallel()
	spec := harness.Quick(harness.Spec{"sleepInterval": "5s", "failInterval": "20s"})
	c, net := start(t, harness.Options{Keepers: 2, Proxies: 1, Spec: spec})
	master, _ := c.Roles()
	w := harness.StartWriter(c.Proxies[0].SQL())
	w.AwaitRows(t, soon, 20)
	const long = 8 * time.Second // many times what it takes to confirm a death

	reject := func(t *testing.T, way string) {
		t.Helper()
		net.Host(master.UID).Reject(master.Port, way)
		if _, err := c.Proxies[0].SQL().Try(time.Second, "select 1"); err == nil {
			t.Fatal("a new connection was made")
		}
		harness.SameMaster(t, c, long)
		net.Heal()
		c.AwaitRoute(soon, master)
	}
	for _, way := range []string{network.Reset, network.Unreachable} {
		t.Run(way, func(t *testing.T) { reject(t, way) })
	}
	t.Run("and the keeper is silent", func(t *testing.T) {
		master.Process.Freeze() // its PostgreSQL goes on
		reject(t, network.Reset)
		master.Process.Resume()
	})
	w.AwaitRowsSince(t, soon, time.Now(), 20)
	if n := w.Connections(); n > 0 {
		t.Errorf("%d connections have ended", n)
	}
	noneConfirmed(t, c)
}

// A master that is lost to the cluster, but lives, is replaced after
// failInterval. No proxy leads to it any more, no acknowledged row is lost, and
// it returns when it is found again.
func TestAMasterThatIsCutOffIsReplaced(t *testing.T) {
	tests := []struct {
		name      string
		cut, heal func(net *network.Network, master *network.Host)
	}{
		{
			"from the store",
			func(net *network.Network, master *network.Host) { net.Cut(master, net.Host("store")) },
			func(net *network.Network, _ *network.Host) { net.Heal() },
		},
		{
			"from everybody",
			func(_ *network.Network, master *network.Host) { master.Unplug() },
			func(_ *network.Network, master *network.Host) { master.Plug() },
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, net := start(t, harness.Options{Keepers: 3, Sentinels: 2, Proxies: 2, Spec: harness.Quick(harness.Spec{"synchronousReplication": true})})
			c.AwaitSynchronous(soon)
			w := harness.StartWriter(c.Proxies[0].SQL())
			other := harness.StartWriterFrom(1_000_000, c.Proxies[1].SQL())
			w.AwaitRows(t, soon, 20)
			other.AwaitRows(t, soon, 20)
			old, _ := c.Roles()
			tt.cut(net, net.Host(old.UID))
			at := time.Now()

			c.AwaitData(soon, "the route to it is cut", func(cd *cluster.ClusterData) bool {
				return cd.Proxy.Spec.MasterDBUID != c.DB(old).UID
			})
			if took := time.Since(at); took < 3*time.Second {
				// It was last seen up to sleepInterval (2 s) before the cut.
				t.Errorf("the route was cut after %s, failInterval is 5 s", took)
			}
			master := c.AwaitAnother(soon, old)
			t.Logf("another is routed after %s, failInterval is 5 s", time.Since(at).Round(time.Millisecond))
			w.AwaitRowsSince(t, soon, time.Now(), 20)
			other.AwaitRowsSince(t, soon, time.Now(), 20)
			t.Logf("%s and %s without an acknowledgement", w.Gap(at).Round(time.Millisecond), other.Gap(at).Round(time.Millisecond))
			if old.Postmaster() == 0 {
				t.Error("the old master's PostgreSQL does not run: nothing was shown of two masters")
			}
			harness.Holds(t, 3*time.Second, "every proxy leads to the new master", func() (string, bool) {
				for _, p := range c.Proxies {
					if got := p.SQL().Query("select inet_server_port()"); got != master.Port {
						return p.Name + " leads to port " + got, false
					}
				}
				return "", true
			})

			tt.heal(net, net.Host(old.UID))
			c.AwaitHealthy(3*soon, 3)
			if now, _ := c.Roles(); now != master {
				t.Errorf("%s is master, was %s", now.UID, master.UID)
			}
			w.WantAll(t, c.Proxies[0].SQL())
			other.WantAll(t, c.Proxies[0].SQL())
			noneConfirmed(t, c)
		})
	}
}
