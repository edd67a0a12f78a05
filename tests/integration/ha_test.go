//go:build integration

package integration

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// variant is a way to run a scenario.
type variant struct {
	name string
	spec string
}

func (v variant) sync() bool { return strings.Contains(v.spec, "synchronousReplication") }

const syncSpec = `"synchronousReplication":true`

var (
	asyncOnly = variant{"async", ""}
	syncOnly  = variant{"sync", syncSpec}
	both      = []variant{asyncOnly, syncOnly}
	rejoining = []variant{
		asyncOnly, syncOnly,
		{"sync min 0", syncSpec + `,"minSynchronousStandbys":0`},
		{"async rewind", `"usePgrewind":true`},
		{"sync rewind", syncSpec + `,"usePgrewind":true`},
	}
)

func each(t *testing.T, variants []variant, f func(t *testing.T, v variant)) {
	t.Parallel()
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) { f(t, v) })
	}
}

const (
	makeTable = "create table if not exists rows (n int primary key)"
	selectAll = "select n from rows order by n"
)

func insert(n int) string { return fmt.Sprintf("insert into rows values (%d)", n) }

// HA-1: a row written on the master appears on the standby, which is
// synchronous where that is asked for.
func TestStandbyReplicates(t *testing.T) {
	each(t, both, func(t *testing.T, v variant) {
		c := startCluster(t, 2, v.spec)
		c.sql(makeTable)
		c.sql(insert(1))
		c.standbys()[0].awaitRows(selectAll, "1")
		if v.sync() {
			c.master().awaitRows("select sync_state from pg_stat_replication", "sync")
		}
	})
}

// HA-2: the master's keeper stops; the standby takes over and has all rows.
func TestFailover(t *testing.T) {
	each(t, both, func(t *testing.T, v variant) {
		c := startCluster(t, 2, v.spec)
		master, standby := c.master(), c.standbys()[0]
		c.sql(makeTable)
		c.sql(insert(1))
		c.awaitCaughtUp(standby)
		master.stop()
		if master.postmaster() != 0 {
			t.Error("PostgreSQL runs on after its keeper stopped")
		}
		c.awaitMaster(standby, 40*time.Second)
		standby.awaitRows(selectAll, "1")
	})
}

// HA-3: the elected standby goes before it is promoted. Without synchronous
// replication the old master is elected again; with it, it must not be.
func TestFailedFailover(t *testing.T) {
	each(t, both, func(t *testing.T, v variant) {
		c := startCluster(t, 2, v.spec)
		master, standby := c.master(), c.standbys()[0]
		c.sql(makeTable)
		c.awaitCaughtUp(standby)
		// Its keeper publishes for the election, but never hears of its outcome
		// in time: PostgreSQL can't be reached for the promotion.
		master.crash()
		await(t, 40*time.Second, "the standby to be elected", func() error {
			if c.master() != standby {
				return errors.New("not yet")
			}
			return nil
		})
		standby.crash()
		// It promotes within a fifth of a second. If it came so far that the
		// cluster knows, the old master misses what clients may have written.
		promoted := c.state().Keepers[standby.uid].PostgresState.TimelineID > 1
		master.start()
		if v.sync() || promoted {
			never(t, 15*time.Second, "the old master was elected again", func() error {
				if c.master() != master {
					return errors.New("no")
				}
				return nil
			})
			return
		}
		c.awaitMaster(master, 60*time.Second)
	})
}

// HA-4: a standby that lags more than maxStandbyLag is not elected.
func TestTooMuchLag(t *testing.T) {
	c := startCluster(t, 2, "")
	master, standby := c.master(), c.standbys()[0]
	c.sql(makeTable)
	c.awaitCaughtUp(standby)
	standby.stop()
	c.sql("insert into rows select generate_series(1, 10000)")
	wrote, err := strconv.ParseUint(c.sql("select pg_current_wal_lsn() - '0/0'")[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	await(t, 30*time.Second, "the master's position to be known", func() error {
		if got := c.state().Keepers[master.uid].PostgresState.XLogPos; got < wrote {
			return fmt.Errorf("%d, not yet %d", got, wrote)
		}
		return nil
	})
	master.stop()
	standby.start()
	never(t, 20*time.Second, "the lagging standby was elected", func() error {
		if c.master() != standby {
			return errors.New("no")
		}
		return nil
	})
}

// HA-5: the old master returns after a failover and becomes a standby with all
// rows.
func TestOldMasterReturns(t *testing.T) {
	each(t, rejoining, func(t *testing.T, v variant) {
		c := startCluster(t, 2, v.spec)
		master, standby := c.master(), c.standbys()[0]
		c.sql(makeTable)
		c.sql(insert(1))
		c.awaitCaughtUp(standby)
		master.crash()
		c.awaitMaster(standby, 40*time.Second)
		if !v.sync() || strings.Contains(v.spec, `"minSynchronousStandbys":0`) {
			c.sql(insert(2)) // else writes wait for a standby
		}
		master.start()
		c.awaitHealthy(1)
		c.sql("insert into rows values (3)")
		rows := c.sql(selectAll)
		master.awaitRows(selectAll, rows...)
		master.awaitRows("select pg_is_in_recovery()", "true")
	})
}

// HA-6: keeper and PostgreSQL of the master are frozen, as if cut off; another
// takes over; thawed, it becomes a standby.
func TestPartition(t *testing.T) {
	each(t, rejoining, func(t *testing.T, v variant) {
		c := startCluster(t, 3, v.spec)
		master := c.master()
		c.sql(makeTable)
		c.sql(insert(1))
		for _, s := range c.standbys() {
			c.awaitCaughtUp(s)
		}
		master.freeze()
		other := c.awaitOther(master, 60*time.Second)
		c.sql(insert(2))
		master.resume()
		master.awaitRows(selectAll, "1", "2")
		master.awaitRows("select pg_is_in_recovery()", "true")
		if c.master() != other {
			t.Errorf("the master changed back to %s", c.master().uid)
		}
	})
}

// HA-7: master and the better standby are gone, the one behind returns alone.
// Without synchronous replication it takes over; the better one then takes on
// its history. With it, it must not take over.
func TestTimelineFork(t *testing.T) {
	variants := []variant{asyncOnly, {"async rewind", `"usePgrewind":true`}, syncOnly}
	each(t, variants, func(t *testing.T, v variant) {
		c := startCluster(t, 3, v.spec+comma(v.spec)+`"maxStandbyLag":104857600`)
		master := c.master()
		behind, ahead := c.standbys()[0], c.standbys()[1]
		if v.sync() {
			db := c.data().Master()
			if c.data().DBOf(behind.uid).UID == db.Spec.SynchronousStandbys[0] {
				behind, ahead = ahead, behind
			}
		}
		c.sql(makeTable)
		c.sql(insert(1))
		c.awaitCaughtUp(behind)
		behind.crash()
		c.sql(insert(2))
		c.awaitCaughtUp(ahead)
		// At once, so that the better one is not elected meanwhile.
		master.freeze()
		ahead.crash()
		master.resume()
		master.crash()
		behind.start()
		if v.sync() {
			never(t, 20*time.Second, "a standby that was not in sync was elected", func() error {
				if c.master() != behind {
					return errors.New("no")
				}
				return nil
			})
			return
		}
		c.awaitMaster(behind, 60*time.Second)
		c.sql(insert(3))
		ahead.start()
		ahead.awaitRows(selectAll, "1", "3")
		c.sql(insert(4))
		ahead.awaitRows(selectAll, "1", "3", "4")
	})
}

func comma(s string) string {
	if s == "" {
		return ""
	}
	return ","
}

// HA-8: the master's keeper restarts with another port before it is given up:
// it stays master and the standby follows it there.
func TestChangedAddress(t *testing.T) {
	c := startCluster(t, 2, `"failInterval":"20s"`)
	master, standby := c.master(), c.standbys()[0]
	c.sql(makeTable)
	free := c.prepareKeeper() // only for its port
	master.stop()
	master.setArg("--pg-port", free.port)
	master.port = free.port
	master.start()
	c.awaitMaster(master, 60*time.Second)
	c.sql(insert(1))
	standby.awaitRows(selectAll, "1")
}

// HA-9, HA-10: a failed standby is replaced by another keeper, then its db
// removed; fewer standbys wanted, fewer dbs left.
func TestFailedStandbyIsReplaced(t *testing.T) {
	c := newCluster(t)
	c.addSentinel(`"maxStandbysPerSender":1`)
	c.addProxy()
	for range 3 {
		c.addKeeper()
	}
	c.awaitHealthy(1)
	first := c.standbys()[0]
	first.stop()
	await(t, 60*time.Second, "another standby", func() error {
		s := c.standbys()
		if len(s) != 1 || s[0] == first {
			return fmt.Errorf("%d standbys", len(s))
		}
		return c.healthy(1)
	})
	c.patch(`{"maxStandbysPerSender":2}`)
	first.start()
	c.awaitHealthy(2)
	c.patch(`{"maxStandbysPerSender":1}`)
	await(t, 30*time.Second, "one standby to go", func() error {
		if n := len(c.data().DBs); n != 2 {
			return fmt.Errorf("%d dbs", n)
		}
		return nil
	})
}

// HA-11: a keeper without a db is forgotten when it was dead for
// deadKeeperRemovalInterval; one with a db is not.
func TestDeadKeeperIsForgotten(t *testing.T) {
	c := newCluster(t)
	c.addSentinel(`"maxStandbysPerSender":1,"deadKeeperRemovalInterval":"10s"`)
	c.addProxy()
	for range 3 {
		c.addKeeper()
	}
	c.awaitHealthy(1)
	var spare *keeperProcess
	await(t, 30*time.Second, "the third keeper to register", func() error {
		for uid := range c.data().Keepers {
			if c.data().DBOf(uid) == nil {
				spare = c.keeper(uid)
				return nil
			}
		}
		return errors.New("not yet")
	})
	standby := c.standbys()[0]
	spare.stop()
	await(t, 60*time.Second, "the spare keeper to be forgotten", func() error {
		if c.data().Keepers[spare.uid] != nil {
			return errors.New("still there")
		}
		return nil
	})
	standby.stop()
	never(t, 20*time.Second, "a keeper with a db was forgotten", func() error {
		if c.data().Keepers[standby.uid] != nil {
			return errors.New("no")
		}
		return nil
	})
	spare.start()
	await(t, 60*time.Second, "the spare keeper to be the only standby", func() error {
		if s := c.standbys(); len(s) != 1 || s[0] != spare {
			return fmt.Errorf("%d standbys", len(s))
		}
		return c.healthy(1)
	})
}

// HA-12: removekeeper refuses the master; a removed standby comes back with a
// new db.
func TestRemoveKeeper(t *testing.T) {
	each(t, both, func(t *testing.T, v variant) {
		c := startCluster(t, 3, v.spec)
		master, standby := c.master(), c.standbys()[0]
		c.sql(makeTable)
		if _, err := c.ctl("removekeeper", master.uid); err == nil {
			t.Error("removekeeper of the master succeeded")
		}
		old := c.data().DBOf(standby.uid).UID
		standby.stop()
		c.mustCtl("removekeeper", standby.uid)
		if n := len(c.data().Keepers); n != 2 {
			t.Errorf("%d keepers left, want 2", n)
		}
		c.sql(insert(1))
		standby.start()
		standby.awaitRows(selectAll, "1")
		if got := c.data().DBOf(standby.uid).UID; got == old {
			t.Errorf("the db is still %s", got)
		}
	})
}

// HA-13: a standby whose WAL is gone everywhere is copied anew under another db.
func TestStandbyThatCannotSync(t *testing.T) {
	c := startCluster(t, 3, `"sleepInterval":"1s"`)
	c.patch(`{"pgParameters":{"min_wal_size":"32MB","max_wal_size":"32MB","wal_keep_size":"0"}}`)
	master := c.master()
	behind, other := c.standbys()[0], c.standbys()[1]
	c.sql(makeTable)
	c.awaitCaughtUp(behind)
	old := c.data().DBOf(behind.uid).UID
	behind.crash()
	c.awaitCaughtUp(other)
	master.crash()
	c.awaitMaster(other, 60*time.Second)
	// The new master has made no slot for it yet, or drops none of its WAL:
	// its slot is made to go.
	await(t, 60*time.Second, "the WAL to be recycled", func() error {
		for _, q := range []string{
			"select pg_drop_replication_slot(slot_name) from pg_replication_slots where not active",
			"select pg_switch_wal()", "checkpoint", "insert into rows select coalesce(max(n),0)+1 from rows",
		} {
			if _, err := query(other.port, q); err != nil {
				return err
			}
		}
		rows, err := query(other.port, "select count(*) from pg_ls_waldir() where length(name) = 24 and name < '000000020000000000000008'")
		if err == nil && rows[0] != "0" {
			err = errors.New("still there: " + rows[0])
		}
		return err
	})
	behind.start()
	await(t, 120*time.Second, "the standby to be copied anew", func() error {
		if db := c.data().DBOf(behind.uid); db == nil || db.UID == old {
			return errors.New("not yet")
		}
		return nil
	})
	behind.awaitRows(selectAll, c.sql(selectAll)...)
}

// HA-14: the master's data directory is gone: it must not serve; the standby does.
func TestLostData(t *testing.T) {
	c := startCluster(t, 2, "")
	master, standby := c.master(), c.standbys()[0]
	c.sql(makeTable)
	c.sql(insert(1))
	c.awaitCaughtUp(standby)
	master.stop()
	if err := os.RemoveAll(master.dataDir); err != nil {
		t.Fatal(err)
	}
	master.start()
	c.awaitMaster(standby, 60*time.Second)
	standby.awaitRows(selectAll, "1")
	c.awaitHealthy(1)
	master.awaitRows(selectAll, "1")
}

// HA-15: failkeeper moves the master away although it is well.
func TestFailKeeper(t *testing.T) {
	each(t, both, func(t *testing.T, v variant) {
		c := startCluster(t, 3, v.spec)
		master := c.master()
		c.sql(makeTable)
		c.mustCtl("failkeeper", master.uid)
		c.awaitOther(master, 30*time.Second)
		c.sql(insert(1))
		master.awaitRows(selectAll, "1")
	})
}

// HA-16: a synchronous master that restarts alone lets nobody in but stolon's
// own roles until its standby has caught up.
func TestInternalOnly(t *testing.T) {
	each(t, []variant{syncOnly, {"sync min 0", syncSpec + `,"minSynchronousStandbys":0`}}, func(t *testing.T, v variant) {
		c := startCluster(t, 2, v.spec+`,"failInterval":"20s"`)
		master, standby := c.master(), c.standbys()[0]
		c.sql(makeTable)
		c.sql(insert(1))
		c.sql("create role app login password 'app'")
		asApp := func() error {
			_, err := queryAs(fmt.Sprintf("host=127.0.0.1 port=%s user=app password=app dbname=postgres sslmode=disable connect_timeout=3", master.port), "select 1")
			return err
		}
		if err := asApp(); err != nil {
			t.Fatalf("before: %v", err)
		}
		standby.stop()
		blocked := make(chan error, 1)
		go func() {
			_, err := query(master.port, insert(2))
			blocked <- err
		}()
		await(t, 20*time.Second, "the write to wait", func() error {
			rows, err := master.query("select count(*) from pg_stat_activity where wait_event = 'SyncRep'")
			if err == nil && rows[0] != "1" {
				err = fmt.Errorf("%s waiting", rows[0])
			}
			return err
		})
		master.stop()
		if err := <-blocked; err == nil && !strings.Contains(v.name, "min 0") {
			t.Log("the interrupted write reported success, with PostgreSQL's warning")
		}
		master.start()
		master.awaitRows("select count(*) from rows", "2")
		if strings.Contains(v.name, "min 0") {
			await(t, 60*time.Second, "the list to become empty", func() error {
				rows, err := master.query("show synchronous_standby_names")
				if err == nil && rows[0] != "" {
					err = errors.New(rows[0])
				}
				return err
			})
			await(t, 30*time.Second, "users to be let in", asApp)
			return
		}
		if err := asApp(); err == nil || !strings.Contains(err.Error(), "no pg_hba.conf entry") {
			t.Errorf("an ordinary user got %v, want: no pg_hba.conf entry", err)
		}
		standby.start()
		await(t, 60*time.Second, "users to be let in", asApp)
		standby.awaitRows("select count(*) from rows", "2")
	})
}

// Of three standbys at different positions the most advanced is elected.
func TestMostAdvancedIsElected(t *testing.T) {
	c := startCluster(t, 4, `"maxStandbyLag":104857600`)
	master := c.master()
	standbys := c.standbys()
	c.sql(makeTable)
	for i, s := range standbys[:2] {
		c.sql(insert(i))
		c.awaitCaughtUp(s)
		s.awaitRows("select count(*) from rows", fmt.Sprint(i+1))
		// Its receiver is stopped, and can't come back: it stays where it is.
		s.signalReceiver(syscall.SIGSTOP)
	}
	c.sql(insert(10))
	standbys[2].awaitRows("select count(*) from rows", "3")
	master.crash()
	for _, s := range standbys[:2] {
		s.signalReceiver(syscall.SIGKILL)
	}
	c.awaitMaster(standbys[2], 60*time.Second)
	c.sql("select 1")
}

// signalReceiver signals the instance's WAL receiver.
func (k *keeperProcess) signalReceiver(s syscall.Signal) {
	for _, pid := range k.postgresPids() {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.Contains(string(b), "walreceiver") {
			syscall.Kill(pid, s)
		}
	}
}

// PostgreSQL dies under a living keeper: it is back in place, without a failover.
func TestPostgresCrashIsRepairedInPlace(t *testing.T) {
	each(t, both, func(t *testing.T, v variant) {
		c := startCluster(t, 2, v.spec)
		master := c.master()
		c.sql(makeTable)
		uid := c.data().Cluster.Status.Master
		syscall.Kill(master.postmaster(), syscall.SIGKILL)
		c.sql(insert(1))
		if got := c.data().Cluster.Status.Master; got != uid {
			t.Errorf("the master changed from %s to %s", uid, got)
		}
	})
}

// A keeper that is killed and started again adopts its PostgreSQL: no restart,
// and clients stay connected.
func TestKeeperAdoptsPostgres(t *testing.T) {
	each(t, both, func(t *testing.T, v variant) {
		c := startCluster(t, 2, v.spec)
		master := c.master()
		pid := master.postmaster()
		master.kill()
		c.sql("select 1")
		master.start()
		from := len(master.logText())
		c.awaitHealthy(1)
		c.sql(makeTable)
		await(t, 20*time.Second, "the new process to be recorded", func() error {
			st := c.state()
			if st.Data.Keepers[master.uid].Status.BootUUID != st.Keepers[master.uid].BootUUID {
				return errors.New("not yet")
			}
			return nil
		})
		if got := master.postmaster(); got != pid {
			t.Errorf("postmaster %d, was %d; log:\n%s", got, pid, master.logText()[from:])
		}
	})
}

// With synchronous replication no acknowledged row is lost over failovers in a row.
func TestSynchronousFailoversLoseNothing(t *testing.T) {
	c := startCluster(t, 3, syncSpec)
	c.sql(makeTable)
	stop := make(chan struct{})
	done := make(chan []string)
	go func() {
		var acked []string
		for n := 0; ; n++ {
			select {
			case <-stop:
				done <- acked
				return
			default:
			}
			if _, err := query(c.proxies[0].port, insert(n)); err == nil {
				acked = append(acked, fmt.Sprint(n))
			} else {
				time.Sleep(20 * time.Millisecond)
			}
		}
	}()
	for range 3 {
		master := c.master()
		master.crash()
		c.awaitOther(master, 60*time.Second)
		master.start()
		c.awaitHealthy(2)
	}
	close(stop)
	acked := <-done
	have := c.sql(selectAll)
	for _, n := range acked {
		if !slices.Contains(have, n) {
			t.Errorf("row %s was acknowledged and is lost", n)
		}
	}
	if len(acked) < 10 {
		t.Errorf("only %d rows were acknowledged", len(acked))
	}
}
