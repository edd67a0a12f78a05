//go:build integration

package integration

import (
	"os/exec"
	"syscall"
	"testing"
	"time"

	"stolon/tests/harness"
)

// lingering is what a keeper says that waits for a postmaster to be reaped.
const lingering = "waiting until the end of the postmaster is noticed by its parent process"

// ourPostmaster gives the keeper, which has been killed, a PostgreSQL that is
// this process's child; reap takes notice of its end.
func ourPostmaster(t *testing.T, k *harness.Keeper) (reap func()) {
	t.Helper()
	k.EndPostgres()
	cmd := exec.Command(programs.pgbin+"/postgres", "-D", k.PGDir(), "-c", "unix_socket_directories=/tmp")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reaped := false
	reap = func() {
		if !reaped {
			reaped = true
			_ = cmd.Wait() // it was killed
		}
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // unless that was the test
		reap()
	})
	k.SQL().AwaitQuery(soon, "select 1", "1")
	return reap
}

// A postmaster that was killed and is not reaped keeps PostgreSQL from starting
// beside it: "lock file already exists". The keeper waits, and then starts it in
// place, without a failover.
func TestAPostmasterThatIsNotReapedIsWaitedFor(t *testing.T) {
	t.Parallel()
	spec := harness.Quick(harness.Spec{"failInterval": "120s", "fastFailover": false})
	c := harness.Start(t, harness.Options{Keepers: 2, Proxies: 1, Spec: spec})
	master, _ := c.Roles()
	master.Kill()
	reap := ourPostmaster(t, master)
	master.Start()
	c.AwaitHealthy(soon, 2)
	w := harness.StartWriter(c.Proxies[0].SQL())
	w.AwaitRows(t, soon, 20)
	mark := master.Mark()
	master.KillPostgres()
	master.AwaitLog(soon, mark, lingering)
	harness.SameMaster(t, c, 3*time.Second) // two starts that fail take less
	reap()
	w.AwaitRowsSince(t, soon, time.Now(), 20)
	harness.SameMaster(t, c, time.Second)
	if master.Logged(mark, "lock file") {
		t.Error("PostgreSQL was started beside its last postmaster")
	}
	w.WantAll(t, c.Proxies[0].SQL())
}

// So does a keeper that is to find out how its killed master's data can rejoin:
// it isn't copied for want of a look at it.
func TestAMasterThatIsNotReapedRejoinsWithoutACopy(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 2, Proxies: 1, Spec: harness.Quick(harness.Spec{"fastFailover": false})})
	old, standbys := c.Roles()
	old.Kill()
	reap := ourPostmaster(t, old)
	c.AwaitCaughtUp(soon, old, standbys...)
	old.KillPostgres()
	c.AwaitMaster(2*soon, standbys[0])
	mark := old.Mark()
	old.Start()
	old.AwaitLog(soon, mark, lingering)
	harness.Holds(t, 2*time.Second, "nothing is done with its data", func() (string, bool) {
		return "", !old.Logged(mark, "looking how far the data here goes")
	})
	reap()
	old.AwaitLog(soon, mark, "rejoined without a copy")
	c.AwaitHealthy(2*soon, 2)
	if old.Logged(mark, "pg_basebackup") {
		t.Error("its data was copied")
	}
}
