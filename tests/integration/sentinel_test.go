//go:build integration

package integration

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"stolon/internal/cluster"
	"stolon/tests/harness"
)

func awaitEnabled(t *testing.T, c *harness.Cluster, d time.Duration, uids ...string) {
	t.Helper()
	slices.Sort(uids)
	c.AwaitData(d, fmt.Sprintf("the enabled proxies are %v", uids), func(cd *cluster.ClusterData) bool {
		return slices.Equal(cd.Proxy.Spec.EnabledProxies, uids)
	})
}

// SEN-1 to SEN-3: a restarted sentinel keeps the enabled proxies; a proxy that
// starts gets enabled, one that is frozen loses that, and gets it back.
func TestProxiesAreEnabled(t *testing.T) {
	t.Parallel()
	const sleep, timeout = 2 * time.Second, 5 * time.Second
	c := harness.Start(t, harness.Options{Keepers: 1, Proxies: 1})
	first := c.Proxies[0].UID()
	awaitEnabled(t, c, soon, first)

	c.Sentinels[0].Stop()
	mark := c.Sentinels[0].Mark()
	c.Sentinels[0].Start()
	c.Sentinels[0].AwaitLog(soon, mark, "sentinel leadership acquired")
	harness.Holds(t, 2*sleep, "the enabled proxies are the same", func() (string, bool) {
		cd := c.Data()
		return harness.Summary(cd), slices.Equal(cd.Proxy.Spec.EnabledProxies, []string{first})
	})

	p := c.AddProxy()
	p.Start()
	second := p.UID()
	awaitEnabled(t, c, 3*sleep, first, second)
	c.AwaitRoute(soon, c.Keepers[0])

	p.Freeze()
	awaitEnabled(t, c, 3*timeout, first)
	p.Resume()
	awaitEnabled(t, c, 6*sleep, first, second)
	c.AwaitRoute(soon, c.Keepers[0])

	p.Stop()
	awaitEnabled(t, c, 3*timeout, first)
}

// sessionEnd is when a dead leader's session has surely ended: its TTL is 5 s,
// and Consul waits for twice that.
const sessionEnd = 15 * time.Second

// When the leading sentinel is killed another leads. When it stops in order
// that happens at once.
func TestAnotherSentinelLeads(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 2, Sentinels: 2, Proxies: 1})
	another := func(old *harness.Sentinel, d time.Duration) {
		t.Helper()
		at := time.Now()
		harness.Await(t, d, "another sentinel leads", func() (string, bool) {
			leader := c.Leader()
			return leader.Name, leader != old
		})
		t.Logf("led again after %s", time.Since(at).Round(time.Millisecond))
		// It does lead: it carries out what is asked for.
		master, standby := pair(c)
		c.AwaitCaughtUp(soon, master, standby)
		c.Ctl("failkeeper", master.UID)
		c.AwaitMaster(soon, standby)
		c.AwaitRoute(soon, standby)
		c.AwaitHealthy(soon, 2)
	}
	old := c.Leader()
	old.Kill()
	another(old, sessionEnd)
	old.Start()
	old.AwaitLog(soon, 0, "sentinel uid")
	old = c.Leader()
	time.Sleep(time.Second) // the other has entered the election
	old.Stop()
	another(old, 2*time.Second)
}

// A frozen leader that comes back after another led changes nothing.
func TestAFormerLeaderDoesNotAct(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 2, Sentinels: 2, Proxies: 1})
	old := c.Leader()
	old.Freeze()
	harness.Await(t, sessionEnd, "another sentinel leads", func() (string, bool) {
		leader := c.Leader()
		return leader.Name, leader != old
	})
	mark := old.Mark()
	old.Resume()
	old.AwaitLog(soon, mark, "sentinel leadership lost")
	master, _ := pair(c)
	harness.Holds(t, 5*time.Second, "nothing changes", func() (string, bool) {
		cd := c.Data()
		return harness.Summary(cd), cd.Proxy.Spec.MasterDBUID == cd.Cluster.Status.Master && cd.DBOf(master.UID).UID == cd.Cluster.Status.Master
	})
	if leader := c.Leader(); leader == old {
		t.Error("the former leader leads again, though the other lives")
	}
}
