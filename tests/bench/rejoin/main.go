// Command rejoin counts how old masters come back: as they are, by a rewind, or
// by a full copy. It ends with an error when one needed a copy.
//
//	go run ./tests/bench/rejoin -n 30
//
// It starts an etcd, 3 keepers, 2 sentinels and 2 proxies on loopback, with
// usePgrewind, and clients that write all the time; then it does harm to the
// master, waits for another one to be elected, and lets the old one return
// after up to -away. The harm is drawn anew each time, from the seed:
//
//	kill    kill -9 of the keeper and its postmaster
//	killpg  kill -9 of the postmaster, with the keeper frozen, so that another is elected
//	freeze  SIGSTOP of the keeper and PostgreSQL, SIGCONT once another is elected
//	stop    SIGTERM to the keeper
//
// As root it runs itself again as an ordinary user; package tests/harness tells
// how, and which variables name other binaries.
package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"stolon/tests/harness"
)

var (
	runs  = flag.Int("n", 30, "number of faults, one after the other")
	seed  = flag.Uint64("seed", uint64(time.Now().UnixNano()), "what the faults are drawn from")
	plain = flag.Bool("plain", false, "without usePgrewind: an old master that wrote past the fork needs a copy")
	sync  = flag.Bool("sync", false, "synchronous replication")
	load  = flag.Int("load", 1, "megabytes that a second client writes every 50 ms; its checkpoints make old WAL go")
	away  = flag.Duration("away", 10*time.Second, "how long an old master stays away at most after another is elected")
)

// long is more than anything takes.
const long = 3 * time.Minute

// ways that an old master can rejoin, by what its keeper logs.
var ways = []struct{ name, log string }{
	{"as it is", "rejoined without a copy"},
	{"by a rewind", "pg_rewind succeeded"},
	{"by a full copy", "pg_basebackup"},
}

const copied = 2 // of ways

var faults = []struct {
	name string
	do   func(*harness.Keeper) (undo func())
}{
	{"kill", func(m *harness.Keeper) func() {
		m.KillBoth()
		return m.Start
	}},
	{"killpg", func(m *harness.Keeper) func() {
		m.Process.Freeze()
		m.KillPostgres()
		return m.Process.Resume
	}},
	{"freeze", func(m *harness.Keeper) func() {
		m.Freeze()
		return m.Resume
	}},
	{"stop", func(m *harness.Keeper) func() {
		m.Stop()
		return m.Start
	}},
}

func main() {
	flag.Parse()
	if *runs < 1 || *away < 0 {
		flag.Usage()
		os.Exit(2)
	}
	os.Exit(harness.Ordinary(func() int { return harness.Run(measure) }))
}

func measure(t *harness.Script) {
	draw := rand.New(rand.NewPCG(*seed, 1))
	fmt.Printf("seed %d\n", *seed)
	c := harness.Start(t, harness.Options{Keepers: 3, Sentinels: 2, Proxies: 2,
		Spec: harness.Quick(harness.Spec{"usePgrewind": !*plain, "pgParameters": harness.Parameters(map[string]string{"max_wal_size": "64MB"}), "synchronousReplication": *sync})})
	w := harness.StartWriter(c.Proxies[0].SQL(), c.Proxies[1].SQL())
	stop := pour(c)
	defer stop()
	count := map[int]int{}
	for n := range *runs {
		w.AwaitRows(t, long, 50)
		fault := faults[draw.IntN(len(faults))]
		master, _ := c.Roles()
		mark, at := master.Mark(), time.Now()
		undo := fault.do(master)
		w.AwaitRowsSince(t, long, at, 20)
		time.Sleep(time.Duration(draw.Int64N(int64(*away) + 1)))
		back := time.Now()
		undo()
		c.AwaitHealthy(long, 3)
		if *sync {
			c.AwaitSynchronous(long)
		}
		way := wayOf(master, mark)
		count[way]++
		fmt.Printf("run %d: %s of %s: it rejoined %s, whole again after %s\n", n+1, fault.name, master.UID, name(way), time.Since(back).Round(time.Millisecond))
	}
	w.Stop()
	fmt.Printf("of %d old masters rejoined", *runs)
	for way := range ways {
		fmt.Printf(" %s %d,", name(way), count[way])
	}
	fmt.Printf(" %s %d\n", name(-1), count[-1])
	if *sync {
		if lost := w.Lost(c.Proxies[0].SQL()); len(lost) > 0 {
			t.Errorf("lost acknowledged rows %v", lost)
		}
	}
	if count[copied] > 0 {
		t.Errorf("%d needed a full copy", count[copied])
	}
}

// pour writes a lot, whoever is master, until the returned function is called.
func pour(c *harness.Cluster) (stop func()) {
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for *load > 0 {
			select {
			case <-end:
				return
			case <-time.After(50 * time.Millisecond):
			}
			// It fails while there is no master.
			_, _ = c.Proxies[0].SQL().Try(5*time.Second, fmt.Sprintf("create table if not exists poured (b text); "+
				"truncate poured; insert into poured select string_agg(md5(random()::text), '') from generate_series(1, %d) n group by n %% 100", *load*30000))
		}
	}()
	return func() { close(end); <-done }
}

// wayOf tells how the keeper rejoined by its log since mark; -1: it didn't,
// its db was never replaced.
func wayOf(k *harness.Keeper, mark int) int {
	way := -1
	for n, w := range ways {
		if strings.Contains(k.Log()[mark:], w.log) {
			way = n
		}
	}
	return way
}

func name(way int) string {
	if way < 0 {
		return "as the same db"
	}
	return ways[way].name
}
