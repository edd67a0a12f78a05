// Command chaos harms a cluster with synchronous replication of two standbys,
// again and again, and counts acknowledged rows that are lost. It ends with an
// error when there is one, or when the cluster does not become whole again.
//
//	go run ./tests/chaos -n 50
//
// It starts an etcd, 3 keepers, 3 sentinels and 2 proxies on loopback and
// clients that write through the proxies all the time. Each round harms one
// process or two, drawn anew from the seed, lets up to -away pass, undoes it,
// awaits that all three instances are well and in sync, and reads back every
// row that was ever acknowledged.
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
	rounds  = flag.Int("n", 50, "number of rounds, one after the other")
	seed    = flag.Uint64("seed", uint64(time.Now().UnixNano()), "what the faults are drawn from")
	least   = flag.Int("min", 1, "minSynchronousStandbys: with 2 a commit always waits for both standbys")
	writers = flag.Int("writers", 4, "clients that write")
	away    = flag.Duration("away", 12*time.Second, "how long a fault lasts at most")
)

// long is more than anything takes.
const long = 3 * time.Minute

// block is how many row numbers a writer has.
const block = 10_000_000

// A fault is a harm and how to undo it.
type fault struct {
	name string
	do   func()
	undo func()
}

// A victim is a process that can be harmed in some ways.
type victim struct {
	name   string
	faults []fault
}

// A harmed is what a round does.
type harmed struct {
	fault
	victim string
}

func main() {
	flag.Parse()
	if *rounds < 1 || *writers < 1 || *away <= 0 || *least < 0 || *least > 2 {
		flag.Usage()
		os.Exit(2)
	}
	os.Exit(harness.Ordinary(func() int { return harness.Run(harm) }))
}

func harm(t *harness.Script) {
	fmt.Printf("seed %d\n", *seed)
	draw := rand.New(rand.NewPCG(*seed, 1))
	c := harness.Start(t, harness.Options{Keepers: 3, Sentinels: 3, Proxies: 2, Spec: harness.Quick(harness.Spec{
		"synchronousReplication": true, "minSynchronousStandbys": *least, "maxSynchronousStandbys": 2,
	})})
	awaitWhole(c)
	var clients []*harness.Writer
	for n := range *writers {
		a, b := c.Proxies[n%2].SQL(), c.Proxies[1-n%2].SQL()
		clients = append(clients, harness.StartWriterFrom(n*block, a, b))
	}
	harms := map[string]int{}
	for n := range *rounds {
		at := time.Now()
		for _, w := range clients {
			w.AwaitRows(t, long, 10)
		}
		chosen := pick(c, draw)
		var names []string
		for _, f := range chosen {
			names = append(names, f.name+" of "+f.victim)
			harms[f.name]++
			f.do()
		}
		time.Sleep(time.Duration(draw.Int64N(int64(*away))))
		for _, f := range chosen {
			f.undo()
		}
		awaitWhole(c)
		acked, lost := 0, []int(nil)
		for _, w := range clients {
			w.AwaitRows(t, long, 1)
			acked += w.Acked()
			lost = append(lost, w.Lost(c.Proxies[draw.IntN(2)].SQL())...)
		}
		master, _ := c.Roles()
		fmt.Printf("round %d: %s: whole again after %s, master %s, of %d acknowledged rows %d are lost\n",
			n+1, strings.Join(names, " and "), time.Since(at).Round(100*time.Millisecond), master.UID, acked, len(lost))
		if len(lost) > 0 {
			t.Fatalf("lost rows %v", lost)
		}
	}
	fmt.Printf("%d rounds with %v: no acknowledged row is lost\n", *rounds, harms)
}

// awaitWhole waits until all three instances are well and both standbys are
// waited for by each commit.
func awaitWhole(c *harness.Cluster) {
	c.AwaitHealthy(long, 3)
	c.AwaitData(long, "both standbys are known in sync", func(cd *cluster.ClusterData) bool {
		m := cd.Master()
		return m != nil && len(m.Spec.SynchronousStandbys) == 2 && slices.Equal(m.Spec.SynchronousStandbys, m.Status.SynchronousStandbys)
	})
}

// pick draws one fault, or two of different victims.
func pick(c *harness.Cluster, draw *rand.Rand) []harmed {
	all := victims(c)
	draw.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	n := 1 + draw.IntN(2)
	var out []harmed
	for _, v := range all {
		if len(out) < n && !slices.ContainsFunc(out, func(h harmed) bool { return h.victim == v.name }) {
			out = append(out, harmed{v.faults[draw.IntN(len(v.faults))], v.name})
		}
	}
	return out
}

func victims(c *harness.Cluster) []victim {
	master, standbys := c.Roles()
	leader := c.Leader()
	out := []victim{{"the store", []fault{
		{"kill", c.Server.Kill, c.Server.Restart},
		{"freeze", c.Server.Freeze, c.Server.Resume},
	}}}
	for _, k := range append(standbys, master) {
		v := victim{"standby " + k.UID, []fault{
			{"kill", k.KillBoth, k.Start},
			{"kill of PostgreSQL", k.KillPostgres, func() {}},
			{"kill of the keeper alone", k.Kill, k.Start},
			{"freeze", k.Freeze, k.Resume},
			{"freeze of the keeper alone", k.Process.Freeze, k.Process.Resume},
			{"stop", k.Stop, k.Start},
		}}
		if k == master {
			v.name = "master " + k.UID
			v.faults = append(v.faults, fault{"failkeeper", func() { c.RunCtl("", "failkeeper", k.UID) }, func() {}}) // it fails without a store
			// Three of ten victims, or most rounds would not touch the master.
			out = append(out, v, v)
		}
		out = append(out, v)
	}
	for _, s := range c.Sentinels {
		v := victim{"sentinel " + s.Name, []fault{{"kill", s.Kill, s.Start}, {"freeze", s.Freeze, s.Resume}}}
		if s == leader {
			v.name = "leading " + v.name
			out = append(out, v)
		}
	}
	for _, p := range c.Proxies {
		out = append(out, victim{"proxy " + p.Name, []fault{{"kill", p.Kill, p.Start}, {"freeze", p.Freeze, p.Resume}}})
	}
	return out
}
