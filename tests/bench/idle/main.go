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
	"bufio"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"stolon/internal/cluster"
	"stolon/tests/harness"
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
	start := time.Now()
	before := count(t, c)
	time.Sleep(*rest)
	after, seconds := count(t, c), time.Since(start).Seconds()
	after[connections] -= float64(len(c.Keepers)) // one reading's own, of each PostgreSQL
	for _, name := range cluster.SortedKeys(after) {
		if d := after[name] - before[name]; d > 0 || name == connections {
			fmt.Printf("%-40s %9.2f/s\n", name, d/seconds)
		}
	}
}

const connections = "connections to PostgreSQL"

// count reads every counter. Reading costs one session of each PostgreSQL.
func count(t *harness.Script, c *harness.Cluster) map[string]float64 {
	t.Helper()
	got := map[string]float64{}
	resp, err := http.Get(c.Server.Endpoint + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		for prefix, as := range map[string]string{
			"grpc_server_msg_received_total":                "requests ",
			"etcd_network_client_grpc_received_bytes_total": "bytes to the store",
			"etcd_network_client_grpc_sent_bytes_total":     "bytes from the store",
		} {
			if strings.HasPrefix(name, prefix) {
				if _, method, ok := strings.Cut(name, `grpc_method="`); ok {
					method, _, _ = strings.Cut(method, `"`)
					as += method
				}
				got[as] += number(t, value)
			}
		}
	}
	for _, k := range c.Keepers {
		got[connections] += number(t, k.SQL().Query("select sum(sessions) from pg_stat_database"))
	}
	stat, err := os.Open("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	defer stat.Close()
	text, err := io.ReadAll(stat)
	if err != nil {
		t.Fatal(err)
	}
	_, forks, _ := strings.Cut(string(text), "\nprocesses ")
	forks, _, _ = strings.Cut(forks, "\n")
	got["forks on the machine"] = number(t, forks)
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
