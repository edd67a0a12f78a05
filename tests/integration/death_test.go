//go:build integration

package integration

import (
	"io"
	"net"
	"strconv"
	"testing"
	"time"

	"stolon/internal/cluster"
	"stolon/tests/harness"
	"stolon/tests/servers"
)

// defaults is a spec with 0.17's intervals: failInterval is 20 s.
func defaults(more harness.Spec) harness.Spec {
	s := harness.Spec{"initMode": "new", "pgParameters": harness.Parameters(nil)}
	for k, v := range more {
		s[k] = v
	}
	return s
}

// A master that is killed with its keeper is replaced long before failInterval
// is over: its death is confirmed. With synchronous replication nothing is lost.
func TestAKilledMasterIsReplacedInAMoment(t *testing.T) {
	for name, sync := range map[string]bool{"asynchronous": false, "synchronous": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := harness.Start(t, harness.Options{Keepers: 3, Sentinels: 2, Proxies: 2, Spec: defaults(harness.Spec{"synchronousReplication": sync})})
			if sync {
				c.AwaitSynchronous(soon)
			}
			w := harness.StartWriter(c.Proxies[0].SQL(), c.Proxies[1].SQL())
			w.AwaitRows(t, soon, 20)
			master, _ := c.Roles()
			leader := c.Leader()
			at := time.Now()
			master.KillBoth()
			w.AwaitRowsSince(t, 15*time.Second, at, 20) // alone on the machine it takes 0.7 s
			t.Logf("%s without an acknowledgement", w.Gap(at).Round(time.Millisecond))
			leader.WantLog("master's death confirmed")
			master.Start()
			c.AwaitHealthy(2*soon, 3)
			w.Stop()
			if lost := w.Lost(c.Proxies[0].SQL()); sync && len(lost) > 0 {
				t.Errorf("of %d acknowledged rows %d are lost: %v", w.Acked(), len(lost), lost)
			}
		})
	}
}

// A standby notices the death too: no client has to.
func TestADeathIsNoticedWithoutClients(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 2, Proxies: 1, Spec: defaults(nil)})
	master, _ := c.Roles()
	at := time.Now()
	master.KillBoth()
	c.AwaitAnother(15*time.Second, master)
	t.Logf("another is routed after %s", time.Since(at).Round(time.Millisecond))
}

// written starts a cluster with a client that writes.
func written(t *testing.T, spec harness.Spec) (*harness.Cluster, *harness.Writer, *harness.Keeper) {
	t.Helper()
	c := harness.Start(t, harness.Options{Keepers: 2, Proxies: 1, Spec: defaults(spec)})
	w := harness.StartWriter(c.Proxies[0].SQL())
	w.AwaitRows(t, soon, 20)
	master, _ := c.Roles()
	return c, w, master
}

// Nobody is taken for dead who may live.
func TestWhoMayLiveIsNotConfirmedDead(t *testing.T) {
	const long = 8 * time.Second // many times what it takes to confirm a death
	t.Run("a frozen machine", func(t *testing.T) {
		t.Parallel()
		c, w, master := written(t, nil)
		master.Freeze()
		harness.SameMaster(t, c, long)
		master.Resume()
		w.AwaitRowsSince(t, soon, time.Now(), 20)
	})
	t.Run("PostgreSQL frozen under a living keeper", func(t *testing.T) {
		t.Parallel()
		c, w, master := written(t, nil)
		master.Freeze()
		master.Process.Resume()
		harness.SameMaster(t, c, long)
		master.Resume()
		w.AwaitRowsSince(t, soon, time.Now(), 20)
	})
	t.Run("an operator restarts the keeper", func(t *testing.T) {
		t.Parallel()
		c, w, master := written(t, nil)
		master.Stop()
		harness.SameMaster(t, c, long)
		master.Start()
		w.AwaitRowsSince(t, soon, time.Now(), 20)
	})
	t.Run("fastFailover is off", func(t *testing.T) {
		t.Parallel()
		c, _, master := written(t, harness.Spec{"fastFailover": false})
		master.KillBoth()
		harness.SameMaster(t, c, long)
		c.AwaitAnother(2*soon, master)
	})
	t.Run("the store is away", func(t *testing.T) {
		t.Parallel()
		c, w, master := written(t, nil)
		was := c.Data().Cluster.Status.Master
		c.Server.Freeze()
		master.KillPostgres()
		harness.Await(t, soon, "a proxy is refused", func() (string, bool) {
			_, err := master.SQL().Try(time.Second, "select 1")
			return "", err != nil
		})
		harness.Await(t, soon, "the keeper has missed the store", func() (string, bool) { return "", master.Logged(0, "does not answer within") })
		c.Server.Resume()
		w.AwaitRowsSince(t, soon, time.Now(), 20) // restarted in place
		if now := c.Data().Cluster.Status.Master; now != was {
			t.Errorf("%s was replaced by %s", was, now)
		}
		harness.SameMaster(t, c, long)
	})
	t.Run("new connections are rejected, established ones live", func(t *testing.T) {
		t.Parallel()
		c, front := rejectable(t)
		w := harness.StartWriter(c.Proxies[0].SQL())
		w.AwaitRows(t, soon, 20)
		front.reject()
		if _, err := c.Proxies[0].SQL().Try(time.Second, "select 1"); err == nil {
			t.Fatal("a new connection was made")
		}
		harness.SameMaster(t, c, long)
		if n := w.Connections(); n > 0 {
			t.Errorf("%d connections have ended", n)
		}
	})
	t.Run("new connections are rejected and the keeper is silent", func(t *testing.T) {
		t.Parallel()
		c, front := rejectable(t)
		w := harness.StartWriter(c.Proxies[0].SQL())
		w.AwaitRows(t, soon, 20)
		master, _ := c.Roles()
		master.Process.Freeze() // its PostgreSQL goes on
		front.reject()
		if _, err := c.Proxies[0].SQL().Try(time.Second, "select 1"); err == nil {
			t.Fatal("a new connection was made")
		}
		harness.SameMaster(t, c, long)
		if n := w.Connections(); n > 0 {
			t.Errorf("%d connections have ended", n)
		}
		master.Process.Resume()
	})
}

// gate is a way to an instance that can be closed to newcomers.
type gate struct {
	listener net.Listener
}

func newGate(t *testing.T, port string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(servers.Port(t)))
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{listener: l}
	t.Cleanup(g.reject)
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", "127.0.0.1:"+port)
			if err != nil {
				in.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				go func() {
					_, _ = io.Copy(way[0], way[1])
					way[0].Close()
				}()
			}
		}
	}()
	return g
}

func (g *gate) reject() { g.listener.Close() }

// rejectable is a cluster whose master is reached through a gate.
func rejectable(t *testing.T) (*harness.Cluster, *gate) {
	t.Helper()
	gates := map[string]*gate{}
	c := harness.Start(t, harness.Options{Keepers: 2, Proxies: 1, Spec: defaults(nil), Hurry: true, Keeper: func(k *harness.Keeper) {
		gates[k.UID] = newGate(t, k.Port)
		_, port, _ := net.SplitHostPort(gates[k.UID].listener.Addr().String()) // it is one
		k.Flags = append(k.Flags, "--pg-advertise-address=127.0.0.1", "--pg-advertise-port="+port)
	}})
	c.AwaitData(2*soon, "two dbs are healthy and one is routed", func(cd *cluster.ClusterData) bool {
		m := cd.Master()
		return m != nil && cd.Proxy.Spec.MasterDBUID == m.UID && len(cd.DBs) == 2 && len(m.Spec.Followers) == 1 &&
			cd.DBs[m.Spec.Followers[0]].Status.Healthy && cd.DBs[m.Spec.Followers[0]].Status.CurrentGeneration > 0
	})
	master, _ := c.Roles()
	master.SQL().AwaitQuery(soon, "select count(*) from pg_stat_replication where state = 'streaming'", "1")
	c.Proxies[0].SQL().AwaitQuery(soon, "select 1", "1")
	return c, gates[master.UID]
}
