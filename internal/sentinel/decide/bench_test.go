package decide

import (
	"fmt"
	"runtime"
	"strconv"
	"testing"
	"time"
)

// BenchmarkDecision is what a pass over a cluster at rest costs: what is new
// in the store is observed, and nothing is to be done.
//
//	go test ./internal/sentinel/decide -run '^$' -bench Decision
func BenchmarkDecision(b *testing.B) {
	for _, keepers := range []int{3, 30, 300} {
		b.Run(fmt.Sprintf("keepers=%d", keepers), func(b *testing.B) {
			w := worldAtRest(b, keepers)
			in, mem := w.in(), w.mem
			b.ReportAllocs()
			for b.Loop() {
				if d := Next(in, Observe(mem, in.View, w.now, true)); d.Data != nil {
					b.Fatalf("the cluster is not at rest: %+v", d.Events)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*keepers), "ns/keeper")
		})
	}
}

// The work of a decision grows with the keepers, not with their square: seen by
// the bytes it allocates, which other work on the machine doesn't change.
func TestADecisionIsLinearInTheKeepers(t *testing.T) {
	each := func(keepers int) uint64 {
		w := worldAtRest(t, keepers)
		in := w.in()
		const runs = 5
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			Next(in, Observe(w.mem, in.View, w.now, true))
		}
		runtime.ReadMemStats(&after)
		return (after.TotalAlloc - before.TotalAlloc) / uint64(runs*keepers)
	}
	if few, many := each(30), each(300); many > few*3/2 {
		t.Errorf("a decision allocates %d bytes per keeper for 30 keepers and %d for 300", few, many)
	}
}

// worldAtRest has a master, standbys and two proxies, and nothing to decide.
func worldAtRest(t testing.TB, keepers int) *world {
	w := newWorld(t)
	w.spec(`{"initMode":"new","maxStandbys":1000,"maxStandbysPerSender":1000}`)
	w.command([]string{"proxy", "proxy1", "proxy2"}, "")
	for n := range keepers {
		w.command([]string{"keeper", "keeper" + strconv.Itoa(n)}, "")
	}
	w.command([]string{"tick", (45 * time.Second).String()}, "")
	if got := len(w.cd.DBs); got != keepers {
		t.Fatalf("%d of %d keepers have an instance; so far:\n%s", got, keepers, w.out.String())
	}
	return w
}
