package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"stolon/internal/cluster"
	"stolon/internal/postgresql/wal"
)

// Patch changes the spec by stolonctl.
func (c *Cluster) Patch(patch string) {
	c.t.Helper()
	c.Ctl("update", "--patch", patch)
}

// TryData reads the cluster data: nil and nil when there is none.
func (c *Cluster) TryData() (*cluster.ClusterData, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	cd, _, err := c.Store.ClusterData(ctx)
	return cd, err
}

// Data is the cluster data, which must be there.
func (c *Cluster) Data() *cluster.ClusterData {
	c.t.Helper()
	cd, err := c.TryData()
	if err != nil {
		c.t.Fatal(err)
	}
	if cd == nil || cd.Cluster == nil {
		c.t.Fatal("no cluster data")
	}
	return cd
}

// AwaitData waits until the cluster data is as ok wants it.
func (c *Cluster) AwaitData(timeout time.Duration, what string, ok func(*cluster.ClusterData) bool) {
	c.t.Helper()
	Await(c.t, timeout, what, func() (string, bool) {
		_, saw, is := c.lookAtData(ok)
		return saw, is
	})
}

// lookAtData reads the cluster data once and tells what it saw.
func (c *Cluster) lookAtData(ok func(*cluster.ClusterData) bool) (cd *cluster.ClusterData, saw string, is bool) {
	cd, err := c.TryData()
	if err != nil {
		return nil, err.Error(), false
	}
	if cd == nil || cd.Cluster == nil {
		return nil, "no cluster data", false
	}
	return cd, Summary(cd), ok(cd)
}

// Summary is the cluster data in one line.
func Summary(cd *cluster.ClusterData) string {
	var b strings.Builder
	fmt.Fprintf(&b, "phase %s, master %s, route %q to %d proxies, generation %d", cd.Cluster.Status.Phase, cd.Cluster.Status.Master,
		cd.Proxy.Spec.MasterDBUID, len(cd.Proxy.Spec.EnabledProxies), cd.Proxy.Generation)
	for _, uid := range cluster.SortedKeys(cd.Keepers) {
		fmt.Fprintf(&b, "; %s healthy=%t", uid, cd.Keepers[uid].Status.Healthy)
		if db := cd.DBOf(uid); db != nil {
			fmt.Fprintf(&b, " %s %s %d/%d healthy=%t", db.UID, db.Spec.Role, db.Generation, db.Status.CurrentGeneration, db.Status.Healthy)
			if db.Spec.SynchronousReplication {
				fmt.Fprintf(&b, " sync=%v known=%v", append(slices.Clone(db.Spec.SynchronousStandbys), db.Spec.ExternalSynchronousStandbys...), db.Status.SynchronousStandbys)
			}
		}
	}
	return b.String()
}

func (c *Cluster) showData() {
	cd, err := c.TryData()
	if err != nil || cd == nil || cd.Cluster == nil {
		c.t.Logf("cluster data: %v %v", cd, err)
		return
	}
	b, err := json.MarshalIndent(cd, "", " ")
	if err != nil {
		return
	}
	if dir := os.Getenv("STOLON_TEST_LOGS"); dir != "" {
		dir = filepath.Join(dir, filepath.FromSlash(c.t.Name()))
		if os.MkdirAll(dir, 0o755) == nil && os.WriteFile(filepath.Join(dir, "clusterdata.json"), b, 0o644) == nil {
			c.t.Logf("cluster data: %s", Summary(cd))
			return
		}
	}
	c.t.Logf("cluster data: %s\n%s", Summary(cd), b)
}

// Roles returns the elected master's keeper and the keepers of all other dbs.
func (c *Cluster) Roles() (master *Keeper, standbys []*Keeper) {
	c.t.Helper()
	cd := c.Data()
	for _, k := range c.Keepers {
		switch db := cd.DBOf(k.UID); {
		case db == nil:
		case db.UID == cd.Cluster.Status.Master:
			master = k
		default:
			standbys = append(standbys, k)
		}
	}
	if master == nil {
		c.t.Fatalf("no master: %s", Summary(cd))
	}
	return master, standbys
}

// DB returns the keeper's db; "" is its UID when it has none.
func (c *Cluster) DB(k *Keeper) *cluster.DB {
	c.t.Helper()
	if db := c.Data().DBOf(k.UID); db != nil {
		return db
	}
	return &cluster.DB{Spec: &cluster.DBSpec{}}
}

// AwaitHealthy waits until n dbs are healthy and have applied what they shall,
// the standbys follow the master, and all proxies that run lead to it.
// It looks at all of that at once: the master may be replaced while it waits.
func (c *Cluster) AwaitHealthy(timeout time.Duration, n int) {
	c.t.Helper()
	Await(c.t, timeout, fmt.Sprintf("%d dbs are healthy and the route is open", n), func() (string, bool) {
		cd, saw, ok := c.lookAtData(func(cd *cluster.ClusterData) bool { return whole(cd, n) })
		if !ok {
			return saw, false
		}
		i := slices.IndexFunc(c.Keepers, func(k *Keeper) bool { return k.UID == cd.Master().Spec.KeeperUID })
		if i < 0 {
			return "the master's keeper is none of ours: " + saw, false
		}
		master := c.Keepers[i]
		const senders = "select count(*) from pg_stat_replication where state = 'streaming'"
		if saw, ok := master.SQL().answers(senders, strconv.Itoa(n-1)); !ok {
			return saw, false
		}
		for _, p := range c.Proxies {
			if !p.Running() {
				continue
			}
			if saw, ok := p.SQL().answers(serverPort, master.Port); !ok {
				return saw, false
			}
		}
		return "", true
	})
}

// whole: the cluster data has n dbs, all well, and a route.
func whole(cd *cluster.ClusterData, n int) bool {
	master := cd.Master()
	if master == nil || cd.Proxy.Spec.MasterDBUID != master.UID || len(cd.DBs) != n {
		return false
	}
	for _, db := range cd.DBs {
		if !db.Status.Healthy || db.Status.CurrentGeneration != db.Generation {
			return false
		}
		if f := db.Spec.FollowConfig; db != master && (f == nil || f.DBUID != master.UID) {
			return false
		}
	}
	return len(master.Spec.Followers) == n-1
}

// serverPort asks which instance a connection leads to.
const serverPort = "select inet_server_port()"

// AwaitMaster waits until the keeper's db is the elected master and serves as one.
func (c *Cluster) AwaitMaster(timeout time.Duration, k *Keeper) {
	c.t.Helper()
	c.AwaitData(timeout, k.UID+" is master", func(cd *cluster.ClusterData) bool {
		m := cd.Master()
		return m != nil && m.Spec.KeeperUID == k.UID && m.Status.Healthy && m.Status.CurrentGeneration == m.Generation
	})
	k.SQL().AwaitQuery(timeout, "select pg_is_in_recovery()", "false")
}

// AwaitAnother waits until another keeper's db is master and routed, and
// returns that keeper.
func (c *Cluster) AwaitAnother(timeout time.Duration, than *Keeper) *Keeper {
	c.t.Helper()
	c.AwaitData(timeout, "another is master", func(cd *cluster.ClusterData) bool {
		m := cd.Master()
		return m != nil && m.Spec.KeeperUID != than.UID && cd.Proxy.Spec.MasterDBUID == m.UID
	})
	master, _ := c.Roles()
	return master
}

// SameMaster fails the test unless the master is routed and the same for d.
func SameMaster(t testing.TB, c *Cluster, d time.Duration) {
	t.Helper()
	was := c.Data().Cluster.Status.Master
	Holds(t, d, "the master stays", func() (string, bool) {
		cd := c.Data()
		return Summary(cd), cd.Cluster.Status.Master == was && cd.Proxy.Spec.MasterDBUID == was
	})
}

// AwaitRoute waits until every proxy that runs leads to the keeper's instance.
func (c *Cluster) AwaitRoute(timeout time.Duration, k *Keeper) {
	c.t.Helper()
	for _, p := range c.Proxies {
		if p.Running() {
			p.SQL().AwaitQuery(timeout, serverPort, k.Port)
		}
	}
}

// AwaitCaughtUp waits until the standbys have replayed all that the master has
// and their keepers have reported so, so that a failover has them to choose
// from. The cluster data may show that late, as positions alone aren't written.
func (c *Cluster) AwaitCaughtUp(timeout time.Duration, master *Keeper, standbys ...*Keeper) {
	c.t.Helper()
	want := master.SQL().Query("select pg_current_wal_lsn()")
	for _, s := range standbys {
		s.SQL().AwaitQuery(timeout, "select pg_last_wal_replay_lsn() >= '"+want+"'", "true")
	}
	position, err := wal.ParseLSN(want)
	if err != nil {
		c.t.Fatal(err)
	}
	Await(c.t, timeout, "the standbys have reported the master's position, "+want, func() (string, bool) {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		st, err := c.Store.State(ctx)
		if err != nil {
			return err.Error(), false
		}
		for _, s := range standbys {
			rep := st.Keepers[s.UID].PostgresState
			if rep == nil || rep.XLogPos < uint64(position) {
				return fmt.Sprintf("%s reports %+v", s.UID, rep), false
			}
		}
		return "", true
	})
}

// AwaitSynchronous waits until the master has synchronous standbys and all of
// them are known in sync.
func (c *Cluster) AwaitSynchronous(timeout time.Duration) {
	c.t.Helper()
	c.AwaitData(timeout, "the synchronous standbys are known in sync", func(cd *cluster.ClusterData) bool {
		m := cd.Master()
		return m != nil && len(m.Spec.SynchronousStandbys) > 0 && len(m.Spec.ExternalSynchronousStandbys) == 0 &&
			slices.Equal(m.Spec.SynchronousStandbys, m.Status.SynchronousStandbys)
	})
}

// Leader is the sentinel that leads, once it is one that runs: a dead one's
// leadership outlives it for a while.
func (c *Cluster) Leader() *Sentinel {
	c.t.Helper()
	var leader *Sentinel
	Await(c.t, 20*time.Second, "one of the sentinels leads", func() (string, bool) {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		uid, err := c.Store.Leader(ctx, c.Store.ElectionKey())
		for _, s := range c.Sentinels {
			if err == nil && uid != "" && s.UID() == uid {
				leader = s
			}
		}
		return fmt.Sprint(uid, err), leader != nil
	})
	return leader
}
