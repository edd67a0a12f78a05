// Package decidetest makes whole clusters for tests and measurements of
// decisions, which have to be about something. It plays the keepers, which do
// at once what they are told, and package decide does the rest.
package decidetest

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"stolon/internal/cluster"
	"stolon/internal/sentinel/decide"
)

// A Cluster is one at some moment, as its leading sentinel knows it.
type Cluster struct {
	In     decide.In
	Memory decide.Memory

	reports int
}

// epoch is the wall clock's time when a cluster was made.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// AtRest returns a cluster of so many keepers, a master and standbys, and two
// proxies, who all have reported once more since its sentinel looked, and about
// which nothing is to be decided.
func AtRest(keepers int) (*Cluster, error) {
	mode, most := cluster.InitNew, uint16(max(keepers, 1))
	spec := &cluster.Spec{InitMode: &mode, MaxStandbys: &most, MaxStandbysPerSender: &most}
	c := &Cluster{In: decide.In{
		View:         decide.View{Data: cluster.New("cluster1", spec, epoch), Keepers: map[string]cluster.KeeperInfo{}, Proxies: map[string]cluster.ProxyInfo{}},
		StoreTimeout: 5 * time.Second,
		Pick:         func(int) int { return 0 },
	}}
	dbs := 0
	c.In.NewUID = func() string { dbs++; return "db" + strconv.Itoa(dbs) }
	for second := range 60 {
		after := time.Duration(second) * time.Second
		c.In.Now = decide.Now{Boot: time.Hour + after, Wall: epoch.Add(after)}
		c.report(keepers)
		if d, _ := c.Pass(); d.Data == nil && len(c.In.View.Data.DBs) == keepers {
			return c, nil
		}
		if err := c.decide(); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("after a minute %d of %d keepers have an instance", len(c.In.View.Data.DBs), keepers)
}

// Pass is what the leading sentinel does when it has read all there is:
// Observe, and Next.
func (c *Cluster) Pass() (decide.Decision, decide.Memory) {
	memory := decide.Observe(c.Memory, c.In.View, c.In.Now.Boot, true)
	return decide.Next(c.In, memory), memory
}

// decide makes passes until nothing more is written.
func (c *Cluster) decide() error {
	for range 20 {
		var d decide.Decision
		d, c.Memory = c.Pass()
		if d.Data == nil {
			return nil
		}
		c.In.View.Data = d.Data
	}
	return errors.New("the sentinel never comes to rest")
}

// report has everybody apply the cluster data and tell of it.
func (c *Cluster) report(keepers int) {
	v := c.In.View
	for n := range keepers {
		uid := "keeper" + strconv.Itoa(n)
		info := cluster.KeeperInfo{InfoUID: c.infoUID(), UID: uid, ClusterUID: v.Data.Cluster.UID, BootUUID: "boot-" + uid,
			Features: []cluster.Feature{cluster.FailClosedPromotion, cluster.Ping, cluster.HandOver}}
		if db := v.Data.DBOf(uid); db != nil {
			info.PostgresState = &cluster.PostgresState{
				UID: db.UID, Generation: db.Generation, Healthy: true, ListenAddress: "host" + strconv.Itoa(n), Port: "5432",
				SystemID: "system1", TimelineID: 1, XLogPos: 1000, ReplayPos: 1000,
				Primary: db.Spec.Role == cluster.RoleMaster, ReceiverUp: db.Spec.Role == cluster.RoleStandby,
			}
		}
		v.Keepers[uid] = info
	}
	for _, uid := range []string{"proxy1", "proxy2"} {
		v.Proxies[uid] = cluster.ProxyInfo{InfoUID: c.infoUID(), UID: uid, Generation: v.Data.Proxy.Generation,
			ProxyTimeout: 15 * time.Second, Features: []cluster.Feature{cluster.AtomicCheck}}
	}
}

func (c *Cluster) infoUID() string {
	c.reports++
	return "info" + strconv.Itoa(c.reports)
}
