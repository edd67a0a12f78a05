//go:build integration

package integration

import (
	"strings"
	"testing"
	"time"

	"stolon/internal/cluster"
	"stolon/tests/harness"
)

// A switchover loses nothing, with and without synchronous replication: no
// connection fails to be made, and the old master follows as it is.
func TestASwitchoverLosesNothing(t *testing.T) {
	for name, sync := range map[string]bool{"asynchronous": false, "synchronous": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := harness.Start(t, harness.Options{Keepers: 3, Sentinels: 2, Proxies: 2, Spec: defaults(harness.Spec{"synchronousReplication": sync})})
			if sync {
				c.AwaitSynchronous(soon)
			}
			w := harness.StartWriter(c.Proxies[0].SQL(), c.Proxies[1].SQL())
			w.AwaitRows(t, soon, 20)
			for range 3 {
				master, standbys := c.Roles()
				at := time.Now()
				args := []string{"switchover", "--yes"}
				if !sync { // else it may be one that isn't in sync
					args = append(args, "--to="+standbys[0].UID)
				}
				told := c.Ctl(args...)
				if !strings.Contains(told, "switched over from keeper "+master.UID+" to keeper ") {
					t.Errorf("stolonctl says %q", told)
				}
				now, _ := c.Roles()
				if now == master || !sync && now != standbys[0] {
					t.Errorf("%s is master after a switchover from %s", now.UID, master.UID)
				}
				w.AwaitRowsSince(t, soon, at, 20)
				t.Logf("%s without an acknowledgement", w.Gap(at).Round(time.Millisecond)) // alone on the machine 0.25 s
				c.AwaitHealthy(2*soon, 3)
				master.WantLog("rejoined without a copy")
				if sync {
					c.AwaitSynchronous(soon)
				}
			}
			w.Stop()
			if lost := w.Lost(c.Proxies[0].SQL()); len(lost) > 0 {
				t.Errorf("of %d acknowledged rows %d are lost: %v", w.Acked(), len(lost), lost)
			}
		})
	}
}

// What can't be switched over is refused with the reason, and nothing happens.
func TestASwitchoverIsRefused(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 3, Proxies: 1, Spec: defaults(nil), Keeper: func(k *harness.Keeper) {
		if k.UID == "keeper2" {
			k.Flags = append(k.Flags, "--can-be-master=false")
		}
	}})
	w := harness.StartWriter(c.Proxies[0].SQL())
	w.AwaitRows(t, soon, 20)
	master, standbys := c.Roles()
	var other *harness.Keeper
	for _, k := range standbys {
		if k.UID != "keeper2" {
			other = k
		}
	}
	refuse := func(why string, args ...string) {
		t.Helper()
		stdout, stderr, code := c.RunCtl("", append([]string{"switchover", "--yes"}, args...)...)
		if code != 1 || !strings.Contains(stderr, why) {
			t.Errorf("switchover %v: exit status %d, %q %q, want %q", args, code, stdout, stderr, why)
		}
	}
	refuse("doesn't exist", "--to=keeper9")
	refuse("has the master already", "--to="+master.UID)
	refuse("can't be master", "--to=keeper2")
	refuse("--timeout must be positive", "--timeout=0s")
	other.Freeze()
	harness.Await(t, 2*soon, "the standby is unhealthy", func() (string, bool) { return "", !c.DB(other).Status.Healthy })
	refuse("is not healthy", "--to="+other.UID)
	refuse("no standby can take over")
	other.Resume()
	harness.SameMaster(t, c, time.Second)
	if n := w.Connections(); n > 0 {
		t.Errorf("%d connections have ended", n)
	}
}

// Whoever dies while a switchover is under way, an acknowledged row doesn't, and
// the cluster serves again.
func TestASwitchoverSurvivesDeaths(t *testing.T) {
	deaths := map[string]struct {
		after string // what the master's keeper says just before
		kill  func(c *harness.Cluster, master, target *harness.Keeper)
	}{
		"the target":                {"stopping postgres for a switchover", func(_ *harness.Cluster, _, target *harness.Keeper) { target.KillBoth() }},
		"the master's keeper":       {"postgres has shut down for a switchover", func(_ *harness.Cluster, master, _ *harness.Keeper) { master.Kill() }},
		"the leading sentinel":      {"stopping postgres for a switchover", func(c *harness.Cluster, _, _ *harness.Keeper) { c.Leader().Kill() }},
		"the leader, in checkpoint": {"preparing a switchover", func(c *harness.Cluster, _, _ *harness.Keeper) { c.Leader().Kill() }},
	}
	for name, death := range deaths {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := harness.Start(t, harness.Options{Keepers: 3, Sentinels: 2, Proxies: 1, Spec: harness.Quick(nil)})
			w := harness.StartWriter(c.Proxies[0].SQL())
			w.AwaitRows(t, soon, 20)
			master, standbys := c.Roles()
			ctl := c.StartCtl("switchover", "--yes", "--to="+standbys[0].UID)
			harness.Await(t, soon, "it has begun", func() (string, bool) { return "", master.Logged(0, death.after) })
			death.kill(c, master, standbys[0])
			w.AwaitRowsSince(t, 2*soon, time.Now(), 20)
			code := ctl.AwaitExit(2 * time.Minute)
			t.Logf("stolonctl ended with %d: %s", code, ctl.Log())
			for _, k := range c.Keepers {
				if !k.Running() {
					k.Start()
				}
			}
			c.AwaitHealthy(3*soon, 3)
			w.Stop()
			if lost := w.Lost(c.Proxies[0].SQL()); len(lost) > 0 {
				t.Errorf("of %d acknowledged rows %d are lost: %v", w.Acked(), len(lost), lost)
			}
		})
	}
}

// A standby that is frozen when the master shuts down holds nobody up.
func TestAFrozenStandbyDoesNotHoldUpASwitchover(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 3, Proxies: 1, Spec: defaults(nil)})
	w := harness.StartWriter(c.Proxies[0].SQL())
	w.AwaitRows(t, soon, 20)
	_, standbys := c.Roles()
	standbys[1].Freeze()
	at := time.Now()
	c.Ctl("switchover", "--yes", "--to="+standbys[0].UID)
	w.AwaitRowsSince(t, soon, at, 20)
	if gap := w.Gap(at); gap > 5*time.Second { // alone on the machine 0.3 s
		t.Errorf("%s without an acknowledgement", gap)
	}
	standbys[1].Resume()
	c.AwaitHealthy(3*soon, 3)
	w.Stop()
	if lost := w.Lost(c.Proxies[0].SQL()); len(lost) > 0 {
		t.Errorf("of %d acknowledged rows %d are lost: %v", w.Acked(), len(lost), lost)
	}
}

// failkeeper of a master that answers shuts it down in order: nothing is lost
// without synchronous replication either.
func TestFailKeeperLosesNothing(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 3, Proxies: 1, Spec: defaults(nil)})
	w := harness.StartWriter(c.Proxies[0].SQL())
	w.AwaitRows(t, soon, 20)
	for range 3 {
		master, _ := c.Roles()
		at := time.Now()
		c.Ctl("failkeeper", master.UID)
		c.AwaitAnother(soon, master)
		w.AwaitRowsSince(t, soon, at, 20)
		c.AwaitData(2*soon, "all are well again", func(cd *cluster.ClusterData) bool { return len(cd.DBs) == 3 })
		c.AwaitHealthy(2*soon, 3)
	}
	w.Stop()
	if lost := w.Lost(c.Proxies[0].SQL()); len(lost) > 0 {
		t.Errorf("of %d acknowledged rows %d are lost: %v", w.Acked(), len(lost), lost)
	}
}

// With --switchover-on-stop a keeper that is told to stop hands its master over
// first: nobody waits for failInterval, and nothing is lost.
func TestAKeeperThatStopsHandsItsMasterOver(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 3, Proxies: 1, Spec: defaults(nil), Keeper: func(k *harness.Keeper) {
		k.Flags = append(k.Flags, "--switchover-on-stop=true")
	}})
	w := harness.StartWriter(c.Proxies[0].SQL())
	w.AwaitRows(t, soon, 20)
	master, _ := c.Roles()
	at := time.Now()
	master.Stop()
	master.WantLog("the master is handed over, stopping")
	w.AwaitRowsSince(t, soon, at, 20)
	t.Logf("%s without an acknowledgement", w.Gap(at).Round(time.Millisecond)) // alone on the machine 0.3 s
	master.Start()
	c.AwaitHealthy(2*soon, 3)
	w.Stop()
	if lost := w.Lost(c.Proxies[0].SQL()); len(lost) > 0 {
		t.Errorf("of %d acknowledged rows %d are lost: %v", w.Acked(), len(lost), lost)
	}
}
