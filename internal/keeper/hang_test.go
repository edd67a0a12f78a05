package keeper

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"stolon/internal/cluster"
	"stolon/internal/store/memory"
)

// hang makes the next request of that kind, at that stage, hang until the
// keeper gives it up.
func (b *bench) hang(kind memory.Kind, stage memory.Stage) (armed chan struct{}) {
	armed = make(chan struct{}, 1)
	b.hook = func(ctx context.Context, r memory.Request) error {
		if r.Kind != kind || r.Stage != stage {
			return nil
		}
		select {
		case <-armed:
			<-ctx.Done()
			return ctx.Err()
		default:
			return nil
		}
	}
	return armed
}

// heard are the moments at which a new report of the keeper was seen, in d.
func (b *bench) heard(d time.Duration) []time.Time {
	ctx, cancel := context.WithTimeout(b.t.Context(), d)
	defer cancel()
	var at []time.Time
	for ch := range b.client.Watch(ctx, b.client.KeeperKey("keeper1")) {
		if !ch.Reset && len(ch.Puts) > 0 {
			at = append(at, time.Now())
		}
	}
	return at
}

// One store call that hangs, whichever it is and whether or not it is done,
// makes no keeper miss a heartbeat: with the default interval and a short one.
func TestAStoreCallThatHangsDelaysNoHeartbeat(t *testing.T) {
	for _, interval := range []time.Duration{time.Second, 5 * time.Second} {
		for _, kind := range []memory.Kind{memory.Commit, memory.Renew, memory.Get} {
			for stage, name := range map[memory.Stage]string{memory.Before: "not done", memory.After: "done"} {
				t.Run(fmt.Sprintf("%s, %s, %s", interval, kind, name), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						b := newBench(t)
						armed := b.hang(kind, stage)
						b.create(master(), func(cd *cluster.ClusterData) { cd.Cluster.Spec.SleepInterval = &cluster.Duration{Duration: interval} })
						b.start()
						defer b.stop()
						settle(3 * interval)
						armed <- struct{}{}
						// Makes the keeper read, as it takes a step.
						b.edit(func(cd *cluster.ClusterData) { cd.DBs["db1"].Generation++ })
						last := time.Now()
						for _, at := range b.heard(10 * interval) {
							if silent, most := at.Sub(last), 3*interval/2+10*time.Millisecond; silent > most {
								t.Errorf("silent for %s, more than %s", silent, most)
							}
							last = at
						}
						if time.Since(last) > 3*interval/2 {
							t.Errorf("silent for %s at the end", time.Since(last))
						}
						if len(armed) > 0 {
							t.Errorf("no %s hung", kind)
						}
					})
				})
			}
		}
	}
}

// A report that was given up and arrives late doesn't take the place of a later
// one (C7).
func TestAReportThatArrivesLateIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		armed := make(chan struct{}, 1)
		var late atomic.Pointer[[]byte]
		b.hook = func(_ context.Context, r memory.Request) error {
			if r.Kind == memory.Commit && r.Stage == memory.Before && r.Key == b.client.KeeperKey("keeper1") {
				select {
				case <-armed:
					late.Store(&r.Ops[0].Value)
					return fmt.Errorf("%w: %w", context.DeadlineExceeded, memory.Late{After: 3 * time.Second})
				default:
				}
			}
			return nil
		}
		b.create(master(), nil)
		b.start()
		defer b.stop()
		settle(10 * time.Second)
		armed <- struct{}{}
		for range 200 {
			settle(100 * time.Millisecond)
			var given cluster.KeeperInfo
			if v := late.Load(); v != nil && json.Unmarshal(*v, &given) == nil && b.info().InfoUID == given.InfoUID {
				t.Fatal("the late report took the place of a later one")
			}
		}
		if late.Load() == nil {
			t.Fatal("no report was late")
		}
	})
}
