//go:build integration

package integration

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"stolon/internal/cluster"
	"stolon/tests/harness"
	"stolon/tests/servers"
)

// ourLine is a line of a daemon's own log, at info or above.
var ourLine = regexp.MustCompile(`(?m)^\S+\t(INFO|WARN|ERROR)\t.*$`)

// A healthy cluster at rest logs nothing, writes nothing but signs of life, of
// which a leading sentinel needs none, and costs its store at most a tenth of
// the reads of 0.17's, and no more writes than that.
func TestAClusterAtRestIsSilent(t *testing.T) {
	t.Parallel()
	each := map[string]bool{"async": false, "sync": true}
	for name, sync := range each {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := harness.Start(t, harness.Options{Keepers: 3, Sentinels: 3, Proxies: 2, Spec: harness.Quick(harness.Spec{"synchronousReplication": sync})})
			c.AwaitData(soon, "two proxies are enabled", func(cd *cluster.ClusterData) bool { return len(cd.Proxy.Spec.EnabledProxies) == 2 })
			if sync {
				c.AwaitData(soon, "a standby is known in sync", func(cd *cluster.ClusterData) bool { return len(cd.Master().Status.SynchronousStandbys) == 1 })
			}
			time.Sleep(5 * time.Second) // what the last changes caused is done
			var all []*harness.Process
			for _, p := range c.Keepers {
				all = append(all, p.Process)
			}
			for _, p := range c.Sentinels {
				all = append(all, p.Process)
			}
			for _, p := range c.Proxies {
				all = append(all, p.Process)
			}
			marks := map[*harness.Process]int{}
			for _, p := range all {
				marks[p] = p.Mark()
			}
			const rest = 15 * time.Second
			before := c.Data()
			counted := counter(t, c)
			writes := watchWrites(c, rest)
			reads, commits := counted()
			// What 0.17 does in an interval: a keeper reads and writes once, a
			// sentinel reads three times and writes once, the leading one twice,
			// a proxy reads and writes once. (And each of these writes but the
			// leader's second grants a lease, which isn't counted here.)
			const sleeps, checks = int(rest / (2 * time.Second)), int(rest / time.Second)
			if most := (sleeps*(3*1+3*3) + checks*2*1) / 10; reads > most {
				t.Errorf("%d reads in %s, more than a tenth of 0.17's, %d", reads, rest, most)
			}
			if most := sleeps*(3+3+1) + checks*2; commits > most {
				t.Errorf("%d writes in %s, more than 0.17's %d", commits, rest, most)
			}
			t.Logf("%d reads and %d writes in %s", reads, commits, rest)
			for _, p := range all {
				if lines := ourLine.FindAllString(p.Log()[marks[p]:], -1); len(lines) > 0 {
					t.Errorf("%s has logged at rest:\n%s", p.Name, strings.Join(lines, "\n"))
				}
			}
			for key, n := range writes {
				name := strings.TrimPrefix(key, c.Store.Base())
				kind, _, _ := strings.Cut(name, "/")
				most, ok := map[string]int{
					"keepers":   int(rest/(2*time.Second)) + 2,
					"sentinels": int(rest/(2*time.Second)) + 2,
					"proxies":   int(rest/time.Second) + 2,
				}[kind]
				switch {
				case !ok:
					t.Errorf("%s was written %d times at rest", name, n)
				case n > most:
					t.Errorf("%s was written %d times in %s, more than its heartbeat", name, n, rest)
				}
			}
			if len(writes) < 7 { // all but the leader
				t.Errorf("only %d keys were written: %v", len(writes), writes)
			}
			if after := c.Data(); after.Proxy.Generation != before.Proxy.Generation || after.Cluster.Status.Master != before.Cluster.Status.Master {
				t.Errorf("the cluster was not at rest: %s, then %s", harness.Summary(before), harness.Summary(after))
			}
		})
	}
}

// counter returns a function that tells how often the store was read and written
// since, by the store's own count. Of Consul, which has none, it tells nothing.
func counter(t *testing.T, c *harness.Cluster) func() (reads, writes int) {
	t.Helper()
	if c.Server.Backend != servers.Etcd {
		return func() (int, int) { return 0, 0 }
	}
	count := func() servers.Counts {
		counts, err := c.Server.Counts()
		if err != nil {
			t.Fatal(err)
		}
		return counts
	}
	before := count()
	return func() (reads, writes int) {
		since := count().Since(before)
		return int(since.Reads()) - 1, int(since.Writes()) // our own watch's
	}
}

// watchWrites counts the writes to each key of the cluster.
func watchWrites(c *harness.Cluster, d time.Duration) map[string]int {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	writes := map[string]int{}
	for ch := range c.Store.Watch(ctx, c.Store.Base()) {
		if ch.Reset {
			continue
		}
		for _, kv := range ch.Puts {
			writes[kv.Key]++
		}
		for _, key := range ch.Deletes {
			writes[key]++
		}
	}
	return writes
}
