// Command failover measures what a fault of the master costs a client: the
// longest time without an acknowledged commit, and how many acknowledged rows
// are lost.
//
//	go run ./tests/bench/failover -n 5 -sync -fault kill
//
// It starts an etcd, 3 keepers, sentinels and proxies on loopback, with the
// default spec, and a client that commits a numbered row every 10 ms through
// the proxies and reconnects at once. The faults:
//
//	kill        kill -9 of the master's keeper and postmaster
//	killpg      kill -9 of the postmaster alone
//	failkeeper  stolonctl failkeeper of the master's keeper
//	stop        SIGTERM to the master's keeper
//	freeze      SIGSTOP of the master's keeper and PostgreSQL, until another leads
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
	"time"

	"stolon/tests/harness"
)

var (
	runs      = flag.Int("n", 5, "number of faults, one after the other")
	sync      = flag.Bool("sync", false, "synchronous replication")
	fault     = flag.String("fault", "kill", "kill, killpg, failkeeper, switchover, stop or freeze")
	sentinels = flag.Int("sentinels", 2, "number of sentinels")
	keepers   = flag.Int("keepers", 3, "number of keepers")
	fsync     = flag.Bool("fsync", true, "let PostgreSQL write through to the disk")
)

// long is more than anything takes.
const long = 3 * time.Minute

func main() {
	flag.Parse()
	if faults[*fault] == nil || *runs < 1 || *keepers < 1 || *sentinels < 1 {
		flag.Usage()
		os.Exit(2)
	}
	os.Exit(harness.Ordinary(func() int { return harness.Run(measure) }))
}

// faults do harm to the master's keeper and return what undoes it.
var faults = map[string]func(*harness.Cluster, *harness.Keeper) (undo func()){
	"kill": func(_ *harness.Cluster, m *harness.Keeper) func() {
		m.KillBoth()
		return m.Start
	},
	"killpg": func(_ *harness.Cluster, m *harness.Keeper) func() {
		m.KillPostgres()
		return func() {}
	},
	"failkeeper": func(c *harness.Cluster, m *harness.Keeper) func() {
		c.Ctl("failkeeper", m.UID)
		return func() {}
	},
	"switchover": func(c *harness.Cluster, _ *harness.Keeper) func() {
		fmt.Print(c.Ctl("switchover", "--yes"))
		return func() {}
	},
	"stop": func(_ *harness.Cluster, m *harness.Keeper) func() {
		m.Stop()
		return m.Start
	},
	"freeze": func(_ *harness.Cluster, m *harness.Keeper) func() {
		m.Freeze()
		return m.Resume
	},
}

func measure(t *harness.Script) {
	spec := harness.Spec{"initMode": "new", "synchronousReplication": *sync}
	if !*fsync {
		spec["pgParameters"] = map[string]string{"fsync": "off"}
	}
	c := harness.Start(t, harness.Options{Keepers: *keepers, Sentinels: *sentinels, Proxies: 2, Spec: spec, Flags: []string{}})
	settle(t, c)
	w := harness.StartWriter(c.Proxies[0].SQL(), c.Proxies[1].SQL())
	w.AwaitRows(t, long, 100)
	var gaps []time.Duration
	for i := range *runs {
		// At any moment between two heartbeats.
		time.Sleep(time.Second + rand.N(5*time.Second))
		master, _ := c.Roles()
		start := time.Now()
		undo := faults[*fault](c, master)
		w.AwaitRowsSince(t, long, start, 50)
		now, _ := c.Roles()
		undo()
		settle(t, c) // a client notices nothing of that
		gap := w.Gap(start)
		gaps = append(gaps, gap)
		lost := w.Lost(c.Proxies[0].SQL())
		fmt.Printf("run %d: %s without a commit, %s -> %s, %d of %d acknowledged rows lost\n",
			i+1, gap.Round(time.Millisecond), master.UID, now.UID, len(lost), w.Acked())
	}
	w.Stop()
	lost := w.Lost(c.Proxies[0].SQL())
	slices.Sort(gaps)
	fmt.Printf("%s, sync %t: median %s, longest %s, %d of %d acknowledged rows lost %v\n",
		*fault, *sync, gaps[len(gaps)/2].Round(time.Millisecond), gaps[len(gaps)-1].Round(time.Millisecond), len(lost), w.Acked(), lost)
	if *sync && len(lost) > 0 {
		t.Errorf("synchronous replication has lost rows")
	}
}

// settle waits until the cluster is whole again.
func settle(t *harness.Script, c *harness.Cluster) {
	c.AwaitHealthy(long, *keepers)
	if *sync {
		c.AwaitSynchronous(long)
	}
}
