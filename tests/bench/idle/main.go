// Command idle counts what a cluster at rest costs its store and its machines:
// 3 keepers, 3 sentinels and 2 proxies with the default spec.
//
//	go run ./tests/bench/idle -for 60s
//
// Requests and bytes are etcd's own counts. Connections are the sessions that
// the three PostgreSQL have begun, forks those of the whole machine
// (/proc/stat), so run it alone; PostgreSQL forks for each session and its own
// background work too.
//
// As root it runs itself again as an ordinary user; package tests/harness tells
// how, and which variables name other binaries.
package main

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"stolon/internal/cluster"
	"stolon/tests/harness"
	"stolon/tests/servers"
)

var rest = flag.Duration("for", time.Minute, "how long to count")

func main() {
	flag.Parse()
	os.Exit(harness.Ordinary(func() int { return harness.Run(measure) }))
}

func measure(t *harness.Script) {
	c := harness.Start(t, harness.Options{Keepers: 3, Sentinels: 3, Proxies: 2, Flags: []string{"--store-timeout=5s"},
		Spec: harness.Spec{"initMode": "new", "pgParameters": harness.Parameters(nil)}})
	c.AwaitData(time.Minute, "two proxies are enabled", func(cd *cluster.ClusterData) bool { return len(cd.Proxy.Spec.EnabledProxies) == 2 })
	time.Sleep(20 * time.Second) // what the last changes caused is done
	start, before := time.Now(), count(t, c)
	time.Sleep(*rest)
	after, seconds := count(t, c), time.Since(start).Seconds()
	at := after.store.Since(before.store)
	for _, method := range cluster.SortedKeys(at.Requests) {
		fmt.Printf("%-30s %9.2f/s\n", "requests "+method, at.Requests[method]/seconds)
	}
	fmt.Printf("%-30s %9.2f/s\n", "reads", at.Reads()/seconds)
	fmt.Printf("%-30s %9.2f/s\n", "writes", at.Writes()/seconds)
	fmt.Printf("%-30s %9.0f/s\n", "bytes to the store", at.Read/seconds)
	fmt.Printf("%-30s %9.0f/s\n", "bytes from the store", at.Written/seconds)
	// One reading's own, of each PostgreSQL.
	connections := after.connections - before.connections - float64(len(c.Keepers))
	fmt.Printf("%-30s %9.2f/s\n", "connections to PostgreSQL", connections/seconds)
	fmt.Printf("%-30s %9.2f/s\n", "forks on the machine", (after.forks-before.forks)/seconds)
}

type counts struct {
	store              servers.Counts
	connections, forks float64
}

// count reads every counter. Reading costs one session of each PostgreSQL.
func count(t *harness.Script, c *harness.Cluster) counts {
	t.Helper()
	var got counts
	var err error
	if got.store, err = c.Server.Counts(); err != nil {
		t.Fatal(err)
	}
	for _, k := range c.Keepers {
		got.connections += number(t, k.SQL().Query("select sum(sessions) from pg_stat_database"))
	}
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, forks, _ := strings.Cut(string(stat), "\nprocesses ")
	forks, _, _ = strings.Cut(forks, "\n")
	got.forks = number(t, forks)
	return got
}

func number(t *harness.Script, s string) float64 {
	t.Helper()
	n, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil {
		t.Fatalf("count: %v", err)
	}
	return n
}
