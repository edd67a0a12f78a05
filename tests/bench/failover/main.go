// Command failover measures what a fault costs a client: the longest time
// without an acknowledged commit, the connections that could not be made, and
// how many acknowledged rows are lost.
//
//	go run ./tests/bench/failover -n 10 -sync -fault kill,killpg
//
// It starts 3 etcds, keepers and sentinels and 2 proxies on loopback, with the
// default spec, and a client that commits a numbered row every 10 ms through
// the proxies and reconnects at once. faults.go lists the faults, phases.go
// tells where the time goes.
//
// As root it runs itself again as an ordinary user; package tests/harness tells
// how, and which variables name other binaries.
package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"stolon/internal/cluster"
	"stolon/tests/harness"
)

var (
	runs      = flag.Int("n", 10, "number of faults of each kind, one after the other")
	inSync    = flag.Bool("sync", false, "synchronous replication")
	kinds     = flag.String("fault", "kill", "faults, separated by commas, or all: "+strings.Join(names(), ", "))
	members   = flag.Int("members", 3, "number of etcd members")
	sentinels = flag.Int("sentinels", 3, "number of sentinels")
	keepers   = flag.Int("keepers", 3, "number of keepers")
	proxies   = flag.Int("proxies", 2, "number of proxies")
	fsync     = flag.Bool("fsync", true, "let PostgreSQL write through to the disk")
)

// long is more than anything takes.
const long = 3 * time.Minute

func main() {
	flag.Parse()
	wanted := strings.Split(*kinds, ",")
	if *kinds == "all" {
		wanted = names()
	}
	if slices.ContainsFunc(wanted, func(k string) bool { return faults[k].do == nil }) || *runs < 1 {
		flag.Usage()
		os.Exit(2)
	}
	status := 0
	os.Exit(harness.Ordinary(func() int {
		for _, kind := range wanted {
			status = max(status, harness.Run(func(t *harness.Script) { measure(t, kind) }))
		}
		return status
	}))
}

// measure prints one line for each run and a summary.
func measure(t *harness.Script, kind string) {
	fault := faults[kind]
	spec := harness.Spec{"initMode": "new", "synchronousReplication": *inSync}
	if !*fsync {
		spec["pgParameters"] = map[string]string{"fsync": "off"}
	}
	c := harness.Start(t, harness.Options{
		Members: *members, Keepers: *keepers, Sentinels: *sentinels, Proxies: *proxies, Spec: spec, Flags: []string{},
		Keeper: func(k *harness.Keeper) { k.Flags = fault.keeperFlags },
	})
	settle(t, c)
	var servers []harness.Server
	for _, p := range c.Proxies {
		servers = append(servers, p.SQL())
	}
	w := harness.StartWriter(servers...)
	w.AwaitRows(t, long, 100)
	h := record(t, c)
	var gaps []time.Duration
	var phases [][]time.Duration
	before, _ := w.FailedConnects()
	for i := range *runs {
		// At any moment between two heartbeats.
		time.Sleep(time.Second + rand.N(5*time.Second))
		master := c.Data().Cluster.Status.Master
		start := time.Now()
		undo := fault.do(t, c)
		w.AwaitRowsSince(t, long, start, 50)
		time.Sleep(fault.watch)
		undo()
		settle(t, c) // a client notices nothing of that
		gap, parts := w.Gap(start), h.phases(start, master, w)
		gaps, phases = append(gaps, gap), append(phases, parts)
		fmt.Printf("%s %d: %s without a commit: %s\n", kind, i+1, gap.Round(time.Millisecond), tell(parts))
	}
	w.Stop()
	settle(t, c)
	lost := w.Lost(servers[0])
	failed, why := w.FailedConnects()
	if failed > before {
		fmt.Printf("%s: the last failed connect: %v\n", kind, why)
	}
	slices.Sort(gaps)
	fmt.Printf("%s, sync %t: n %d, median %s, longest %s, %d failed connects, %d of %d acknowledged rows lost; medians: %s\n",
		kind, *inSync, *runs, median(gaps), gaps[len(gaps)-1].Round(time.Millisecond), failed-before, len(lost), w.Acked(), tell(medians(phases)))
	if *inSync && len(lost) > 0 {
		t.Errorf("synchronous replication has lost rows %v", lost)
	}
}

// settle waits until the cluster is whole again.
func settle(t *harness.Script, c *harness.Cluster) {
	t.Helper()
	c.AwaitHealthy(long, *keepers)
	if *inSync {
		c.AwaitSynchronous(long)
	}
	c.Leader()
	// A proxy that died counts until its last promise is over, also for sentinels
	// that were started after its death.
	c.AwaitData(long, "only the proxies that run are enabled", func(cd *cluster.ClusterData) bool {
		return len(cd.Proxy.Spec.EnabledProxies) == *proxies
	})
}
