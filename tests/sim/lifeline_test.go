package sim

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"stolon/internal/cluster"
	"stolon/internal/store"
)

func init() {
	faults = append(faults,
		// S5, S15: all that runs on one machine dies at once.
		fault{"kill machine", map[string]int{"mixed": 3, "crashes": 8, "partitions": 2, "ambushes": 3}, func(n *nemesis) (func(), time.Duration) {
			p, px, se := n.pick("keeper"), n.pick("proxy"), n.pick("sentinel")
			n.s.trace("fault: kill machine of %s, %s, %s", p.id, px.id, se.id)
			p.kill()
			px.kill()
			se.kill()
			n.s.instances[p.n-1].Kill(true)
			reboots := []func(){n.reboot(p), n.reboot(px), n.reboot(se)}
			return func() {
				for _, reboot := range reboots {
					reboot()
				}
			}, n.lasting()
		}},
		// S5: the master is dead but for what a backend still finishes, and of a
		// proxy that leads to it nothing is heard.
		fault{"half a machine", map[string]int{"mixed": 2, "crashes": 3, "partitions": 2, "half machines": 10}, (*nemesis).halfMachine},
		// S15: whoever is deposed for nothing can't act any more.
		fault{"box between sentinels", map[string]int{"mixed": 3, "crashes": 2, "partitions": 5, "calm": 2}, func(n *nemesis) (func(), time.Duration) {
			names := n.s.names("sentinel")
			n.s.trace("fault: box between %v", names)
			heal := n.s.network.lie(pair(names[0], names[1]))
			return func() { n.s.trace("undo: box between %v", names); heal() }, n.length()
		}},
	)
	maps.Copy(plants, lifelinePlants)
}

func (n *nemesis) halfMachine() (func(), time.Duration) {
	p, px := n.s.proc(n.s.names("keeper")[0]), n.pick("proxy")
	if m := n.s.masterKeeper(); m != "" {
		p = n.s.proc(m)
	}
	i := n.s.instances[p.n-1]
	if p.dead() {
		return nil, 0
	}
	pairs := [][2]string{pair(px.name, "store")}
	for _, name := range n.s.names("sentinel") {
		pairs = append(pairs, pair(px.name, name))
	}
	heal := n.cut("proxy from store and sentinels", pairs...)
	n.s.trace("fault: kill %s and its postmaster; its backends hang", p.id)
	p.kill()
	i.Kill(false)
	thaw := i.Freeze()
	hang := n.dice.between(100*time.Millisecond, 2500*time.Millisecond)
	reboot := n.reboot(p)
	n.wg.Go(func() {
		n.s.sleep(hang)
		thaw()
	})
	return func() { thaw(); heal(); reboot() }, n.lasting()
}

// halfMachines is the plan of a run with asynchronous masters that die but for
// their backends.
func halfMachines(p *plan) {
	asynchronous := false
	p.profile, p.sync, p.settings.SynchronousReplication = "half machines", false, &asynchronous
}

var lifelinePlants = map[string]plant{

	// S5: a lifeline that is silent has ended, and a port that does not answer
	// refuses.
	"silence of a lifeline is its end": {
		caught:      []string{"I1", "I5"},
		plan:        halfMachines,
		silenceEnds: true,
	},

	// S15 without S1: a leader that was deposed writes on.
	"a deposed leader writes": {
		caught: []string{"I8"},
		plan:   profile("partitions"),
		store: func(p *proc, b store.Backend) store.Backend {
			if p.kind != "sentinel" {
				return b
			}
			return withoutLead{b, store.NewClient(nil, "sim", "c").ElectionKey()}
		},
	},

	// S6: an old master that was told to shut down is down.
	"down as soon as it is told": {
		caught: []string{"I1", "I3", "I5", "I11"},
		plan:   func(p *plan) { p.profile, p.sync = "slow proxies", false },
		store: func(p *proc, b store.Backend) store.Backend {
			if p.kind != "sentinel" {
				return b
			}
			return &forger{Backend: b, edit: toldIsDown}
		},
	},
}

// withoutLead leaves out the condition that the writer leads.
type withoutLead struct {
	store.Backend
	election string
}

func (b withoutLead) Commit(ctx context.Context, conds []store.Condition, ops []store.Op) (int64, error) {
	conds = slices.DeleteFunc(slices.Clone(conds), func(c store.Condition) bool { return strings.HasPrefix(c.Key, b.election) })
	return b.Backend.Commit(ctx, conds, ops)
}

// toldIsDown has the keeper of a switchover's old master say that it is down as
// soon as that is asked for, and the target that it has all.
func toldIsDown(known map[string]store.KV, kv store.KV) store.KV {
	var st cluster.Switchover
	var info cluster.KeeperInfo
	if json.Unmarshal(known["sim/c/ext/"+cluster.ExtSwitchover].Value, &st) != nil || !strings.Contains(kv.Key, "/keepers/info/") ||
		json.Unmarshal(kv.Value, &info) != nil || info.PostgresState == nil {
		return kv
	}
	if st.Phase != cluster.Stopping && st.Phase != cluster.Shipping {
		return kv
	}
	info.PostgresState.ReplayPos = max(info.PostgresState.ReplayPos, 1)
	if info.PostgresState.UID == st.Master {
		info.Handover = &cluster.Handover{Attempt: st.Attempt, Stopped: true}
		info.PostgresState.Healthy = false
		info.InfoUID += " and down"
	}
	kv.Value = store.Encode(info)
	return kv
}
