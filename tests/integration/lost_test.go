//go:build integration

package integration

import (
	"testing"
	"time"

	"stolon/internal/cluster"
	"stolon/tests/harness"
)

// A machine is lost with the master, the leading sentinel and a proxy: nobody
// waits for the sentinel's session, nor for what the proxy promised, because
// their lifelines have ended (S5, S15).
func TestALostMachineIsReplacedInAMoment(t *testing.T) {
	t.Parallel()
	const promised = "10m" // nobody waits for that in a test
	c := harness.Start(t, harness.Options{Keepers: 3, Sentinels: 3, Proxies: 2, Spec: defaults(harness.Spec{
		"synchronousReplication": true, "proxyTimeout": promised, "failInterval": promised,
	})})
	c.AwaitSynchronous(soon)
	w := harness.StartWriter(c.Proxies[0].SQL(), c.Proxies[1].SQL())
	w.AwaitRows(t, soon, 20)
	master, _ := c.Roles()
	leader, px := c.Leader(), c.Proxies[0]
	at := time.Now()
	master.KillBoth()
	leader.Kill()
	px.Kill()
	w.AwaitRowsSince(t, soon, at, 20)
	t.Logf("%s without an acknowledgement", w.Gap(at).Round(time.Millisecond))
	for _, what := range []string{"sentinel has exited", "proxy has exited", "master's death confirmed"} {
		c.Leader().WantLog(what)
	}
	leader.Start()
	px.Start()
	master.Start()
	c.AwaitHealthy(2*soon, 3)
	w.Stop()
	if lost := w.Lost(c.Proxies[1].SQL()); len(lost) > 0 {
		t.Errorf("of %d acknowledged rows %d are lost: %v", w.Acked(), len(lost), lost)
	}
}

// notYetElected waits for the cut and holds for d that nobody is elected.
func notYetElected(t *testing.T, c *harness.Cluster, d time.Duration) {
	t.Helper()
	was := c.Data().Cluster.Status.Master
	c.AwaitData(soon, "the proxies are led nowhere", func(cd *cluster.ClusterData) bool { return cd.Proxy.Spec.MasterDBUID == "" })
	harness.Holds(t, d, "nobody is elected", func() (string, bool) {
		cd := c.Data()
		return harness.Summary(cd), cd.Cluster.Status.Master == was
	})
}

// A proxy that stands still may lead on when it is let go: its lifeline lives,
// and nobody is elected before its time is over.
func TestAFrozenProxyIsWaitedForWhenTheMasterDies(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 2, Proxies: 2, Spec: defaults(nil)})
	w := harness.StartWriter(c.Proxies[0].SQL())
	w.AwaitRows(t, soon, 20)
	master, _ := c.Roles()
	c.Proxies[1].Freeze()
	at := time.Now()
	master.KillBoth()
	notYetElected(t, c, 5*time.Second)
	w.AwaitRowsSince(t, 2*soon, at, 20)
	c.Proxies[1].Resume()
	w.Stop()
}

// A proxy without a lifeline is waited for, as by 0.17.
func TestADeadProxyWithoutALifelineIsWaitedFor(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 2, Proxies: 1, Spec: defaults(nil)})
	px := c.AddProxy()
	px.Flags = []string{"--lifeline-address=off"}
	px.Start()
	c.AwaitData(soon, "both proxies are enabled", func(cd *cluster.ClusterData) bool { return len(cd.Proxy.Spec.EnabledProxies) == 2 })
	master, _ := c.Roles()
	px.Kill()
	master.KillBoth()
	notYetElected(t, c, 5*time.Second)
	c.AwaitAnother(2*soon, master)
}
