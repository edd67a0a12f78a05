package sentinel

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"stolon/internal/cluster"
	"stolon/internal/store"
	"stolon/internal/store/memory"
)

// One store call of the leading sentinel that hangs, whichever it is and whether
// or not it is done, costs it neither the lead nor more than a moment:
// although --store-timeout is as long as its session.
func TestAStoreCallThatHangsCostsNoLead(t *testing.T) {
	for _, kind := range []memory.Kind{memory.Renew, memory.List, memory.Commit} {
		for stage, name := range map[memory.Stage]string{memory.Before: "not done", memory.After: "done"} {
			t.Run(fmt.Sprintf("%s, %s", kind, name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRoom(t)
					r.storeTimeout = 5 * time.Second
					stop1 := r.sentinel("s1")
					time.Sleep(time.Second)
					stop2 := r.sentinel("s2")
					time.Sleep(20 * time.Second)
					r.hang("s1", kind, stage)
					// Something to write, for the leader to decide.
					mode, uid := true, "keeper1"
					info := cluster.KeeperInfo{InfoUID: "i1", UID: uid, ClusterUID: r.data().Cluster.UID, CanBeMaster: &mode}
					if _, err := r.client().Commit(t.Context(), nil, []store.Op{{Key: r.client().KeeperKey(uid), Value: store.Encode(info)}}); err != nil {
						t.Fatal(err)
					}
					time.Sleep(4 * time.Second)
					if r.data().Keepers[uid] == nil {
						t.Error("4 s later the keeper is not known")
					}
					time.Sleep(20 * time.Second)
					if !r.hung() {
						t.Errorf("no %s hung", kind)
					}
					if got := r.leader(); got != "s1" {
						t.Errorf("leader %q after a call of s1 hung, want s1", got)
					}
					stop1()
					stop2()
				})
			})
		}
	}
}

// hang makes the client's next request of that kind hang at that stage until it
// is given up.
func (r *room) hang(uid string, kind memory.Kind, stage memory.Stage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hangs = func(q memory.Request) bool {
		if q.Client != uid || q.Kind != kind || q.Stage != stage {
			return false
		}
		r.hangs = nil
		return true
	}
}

func (r *room) hung() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hangs == nil
}

func (r *room) data() *cluster.ClusterData {
	r.t.Helper()
	cd, _, err := r.client().ClusterData(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	return cd
}
