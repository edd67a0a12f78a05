package sim

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"stolon/internal/clock"
	"stolon/internal/cluster"
	"stolon/internal/keeper"
	"stolon/internal/postgresql"
	"stolon/internal/postgresql/conf"
	"stolon/internal/postgresql/wal"
	"stolon/internal/store"
	"stolon/internal/store/memory"
)

// A plant wraps the doors of processes such that they behave as a program with
// a known bug would.
type plant struct {
	// caught is what the invariants that catch it begin with.
	caught   []string
	plan     func(*plan)
	store    func(*proc, store.Backend) store.Backend
	instance func(*proc, keeper.Instance) keeper.Instance
	clock    func(*proc, clock.Clock) clock.Clock
	// silenceEnds: a lifeline that is cut counts as one that has ended.
	silenceEnds bool
}

func (p *proc) clockOf() clock.Clock {
	if wrap := p.s.plant.clock; wrap != nil {
		return wrap(p, p.clock)
	}
	return p.clock
}

// within is how many seeds a planted bug may survive.
const within = 600

// always are the plants that every run of the tests shows to be caught, with
// the first seed to play. The others are for -allplants: they need more seeds.
var always = map[string]uint64{
	"a deposed leader writes":              1,
	"a farewell is not heeded":             1,
	"a missing key is a cut":               1,
	"a name that nobody has is left out":   1,
	"a slow store is not heeded":           1,
	"a switchover waits for every standby": 1,
	"an announced downtime is not heeded":  1,
	"an end before all is replayed":        30,
	"check without atomicity":              1280,
	"deadline from the answer":             80,
	"death without a question":             1,
	"down as soon as it is told":           1,
	"failed starts are not heeded":         1,
	"frozen clock":                         128,
	"known without generation":             150,
	"list after promotion":                 1,
	"masterSeen is not heeded":             1,
	"no checkpoint":                        90,
	"no rollback without a leader":         1,
	"parallel promotion":                   1,
	"rollback without a read":              1,
	"silence of a lifeline is its end":     1,
	"standby cluster with a primary":       1,
	"streaming standbys are not heeded":    1,
	"switchover before all is shipped":     1,
	"users let in after a crash":           1,
}

var allPlants = flag.Bool("allplants", false, "play every planted bug")

// TestPlantedBugsAreCaught: what catches nothing proves nothing.
func TestPlantedBugsAreCaught(t *testing.T) {
	if os.Getenv("STOLON_SIM_WORKER") != "" || *oneSeed != 0 {
		t.Skip("not here")
	}
	for _, name := range cluster.SortedKeys(plants) {
		first, ok := always[name]
		if !ok && !*allPlants {
			continue
		}
		t.Run(name, func(t *testing.T) {
			var orders []order
			for n := range uint64(within) {
				orders = append(orders, order{Seed: max(first, 1) + n, Plant: name})
			}
			caught, played := result{}, 0
			playAll(t, *workers, orders, func(o order, r result, err error) bool {
				played++
				if err != nil {
					t.Errorf("seed %d: %v", o.Seed, err)
					return false
				}
				if r.Failure != "" && caught.Failure == "" && slices.ContainsFunc(plants[name].caught, func(rule string) bool { return strings.HasPrefix(r.Failure, rule+":") }) {
					caught = r
				}
				return caught.Failure == ""
			})
			if caught.Failure == "" {
				t.Errorf("not caught by %d seeds", played)
				return
			}
			t.Logf("caught by seed %d, %d seeds played: %s", caught.Seed, played, caught.Failure)
		})
	}
}

var plants = map[string]plant{

	// S2, S4: the new master is elected without waiting for the proxies' cut.
	"parallel promotion": {
		caught: []string{"I1", "I5"},
		plan:   halfMachines,
		store: func(p *proc, b store.Backend) store.Backend {
			if p.kind != "sentinel" {
				return b
			}
			return &forger{Backend: b, edit: func(known map[string]store.KV, kv store.KV) store.KV {
				var info cluster.ProxyInfo
				if cd := dataOf(known); cd != nil && strings.Contains(kv.Key, "/proxies/info/") && json.Unmarshal(kv.Value, &info) == nil {
					if info.Generation != cd.Proxy.Generation {
						info.InfoUID += " and cut" // what is not new is not looked at
					}
					info.Generation = cd.Proxy.Generation
					kv.Value = store.Encode(info)
				}
				return kv
			}}
		},
	},

	// S4: a proxy whose key is gone counts as one that leads nowhere.
	"a missing key is a cut": {
		caught: []string{"I1", "I5"},
		plan:   inDoubt("a proxy is on its own"),
		store: func(p *proc, b store.Backend) store.Backend {
			if p.kind != "sentinel" {
				return b
			}
			return &forger{Backend: b, edit: func(_ map[string]store.KV, kv store.KV) store.KV { return kv }, add: missing}
		},
	},

	// P1: the proxy reads, then puts; in between the route may have changed.
	"check without atomicity": {
		caught: []string{"I1", "I5"},
		plan:   profile("slow proxies"),
		store: func(p *proc, b store.Backend) store.Backend {
			if p.kind != "proxy" {
				return b
			}
			return readThenPut{b, p}
		},
		clock: setBack,
	},

	// P2: the deadline counts from the answer of the check.
	"deadline from the answer": {
		caught: []string{"I1", "I5"},
		plan:   profile("slow proxies"),
		store: func(p *proc, b store.Backend) store.Backend {
			if p.kind != "proxy" {
				return b
			}
			return fromTheAnswer{b, p}
		},
		clock: setBack,
	},

	// C3: a clock that stands still while the process does.
	"frozen clock": {
		caught: []string{"I1", "I5"},
		plan:   profile("partitions"),
		clock: func(p *proc, c clock.Clock) clock.Clock {
			if p.kind != "proxy" {
				return c
			}
			return func() time.Duration { now := c(); return now - p.pausedFor() }
		},
	},

	// S8: a list of synchronous standbys counts whatever generation it is of.
	"known without generation": {
		caught: []string{"I3", "I4", "I11"},
		plan:   synchronous(0, 1),
		store: func(p *proc, b store.Backend) store.Backend {
			if p.kind != "sentinel" {
				return b
			}
			return &forger{Backend: b, edit: func(known map[string]store.KV, kv store.KV) store.KV {
				var info cluster.KeeperInfo
				cd := dataOf(known)
				if cd == nil || !strings.Contains(kv.Key, "/keepers/info/") || json.Unmarshal(kv.Value, &info) != nil {
					return kv
				}
				if st := info.PostgresState; st != nil && st.Primary && cd.DBs[st.UID] != nil {
					st.Generation, st.SyncGeneration = cd.DBs[st.UID].Generation, cd.DBs[st.UID].Generation
					st.SynchronousStandbys = cluster.Intersect(cd.DBs[st.UID].Spec.SynchronousStandbys, cluster.SortedKeys(cd.DBs))
					kv.Value = store.Encode(info)
				}
				return kv
			}}
		},
	},

	// K8: a standby counts as in sync as soon as PostgreSQL calls it so.
	"known without flush": {
		caught: []string{"I3", "I4", "I11"},
		plan:   synchronous(0, 2),
		instance: func(p *proc, i keeper.Instance) keeper.Instance {
			return changed{Instance: i, sample: func(s *postgresql.Sample) {
				for n := range s.Standbys {
					s.Standbys[n].Flush = 1 << 60
				}
			}}
		},
	},

	// K6: the list counts before the checkpointer has seen it.
	"no checkpoint": {
		caught: []string{"I3", "I4", "I11"},
		plan:   synchronous(0, 1),
		instance: func(p *proc, i keeper.Instance) keeper.Instance {
			return changed{Instance: i, noCheckpoint: true}
		},
	},

	// K5, S10: a name that nobody has holds nobody up.
	"a name that nobody has is left out": {
		caught:   []string{"I3", "I4", "I11", "K5"},
		plan:     synchronous(1, 1),
		instance: withoutPlaceholder(func(conf.Config) bool { return true }),
	},

	// K5: the list is written once it is a primary, as 0.17 does: until then
	// the instance waits for nobody.
	"list after promotion": {
		caught:   []string{"I3", "I4", "I11", "K5"},
		plan:     synchronous(1, 1),
		instance: withoutPlaceholder(func(c conf.Config) bool { return c.Recovery != nil }),
	},

	// K10: after a crash everybody sees at once what no standby has confirmed.
	"users let in after a crash": {
		caught: []string{"I4", "I11"},
		plan:   synchronous(1, 1),
		instance: func(p *proc, i keeper.Instance) keeper.Instance {
			return changed{Instance: i, config: func(c conf.Config) conf.Config {
				c.HBA = append(slices.Clone(c.HBA), "host all all 0.0.0.0/0 md5")
				return c
			}}
		},
	},

	// K9: data is thought to end where it is consistent, before all is replayed.
	"an end before all is replayed": {
		caught: []string{"I7"},
		plan:   func(p *plan) { p.sync = false },
		instance: func(p *proc, i keeper.Instance) keeper.Instance {
			return changed{Instance: i, sample: func(s *postgresql.Sample) { s.AtEnd = !s.Primary }}
		},
	},

	// A keeper that takes the master of a standby cluster for a primary.
	"standby cluster with a primary": {
		caught: []string{"SC"},
		plan:   func(p *plan) { p.followOutside() },
		store: func(p *proc, b store.Backend) store.Backend {
			if p.kind != "keeper" {
				return b
			}
			return &forger{Backend: b, edit: func(_ map[string]store.KV, kv store.KV) store.KV {
				cd, err := store.DecodeClusterData(kv.Value)
				if err != nil || cd == nil || !strings.HasSuffix(kv.Key, "/clusterdata") || cd.Master() == nil || cd.Cluster.Status.Phase != cluster.Normal {
					return kv
				}
				m := *cd.Master().Spec
				m.Role, m.FollowConfig = cluster.RoleMaster, nil
				cd.Master().Spec = &m
				kv.Value = store.Encode(cd)
				return kv
			}}
		},
	},

	// S3: a master that refuses connections is dead, whatever its keeper says.
	"death without a question": {
		caught: []string{"I9"},
		plan:   inDoubt("postgres or its keeper is killed"),
		store: func(p *proc, b store.Backend) store.Backend {
			if p.kind != "sentinel" {
				return b
			}
			last := map[string]store.KV{}
			return &forger{Backend: b, edit: func(known map[string]store.KV, kv store.KV) store.KV {
				var info cluster.KeeperInfo
				if !strings.Contains(kv.Key, "/keepers/info/") || json.Unmarshal(kv.Value, &info) != nil || info.PostgresState == nil {
					return kv
				}
				if before, ok := last[kv.Key]; ok && suspected(known, info.PostgresState.UID) {
					return before
				}
				last[kv.Key] = kv
				return kv
			}}
		},
	},

	// S3: nobody asks whether a client hears of the master.
	"masterSeen is not heeded": {
		caught: []string{"I9"},
		plan:   inDoubt("clients hear of the master"),
		store: ofSentinels(func(kv store.KV) store.KV {
			var info cluster.ProxyInfo
			if strings.Contains(kv.Key, "/proxies/info/") && json.Unmarshal(kv.Value, &info) == nil {
				info.MasterSeen = 0
				kv.Value = store.Encode(info)
			}
			return kv
		}),
	},

	// S3: nor whether a standby streams from it.
	"streaming standbys are not heeded": {
		caught: []string{"I9"},
		plan:   inDoubt("standbys stream from the master"),
		store: ofKeeperInfos(func(info *cluster.KeeperInfo) {
			if info.PostgresState != nil {
				info.PostgresState.ReceiverUp = false
			}
		}),
	},

	// S3: a sentinel whose own calls hang takes a keeper's silence for a death.
	"a slow store is not heeded": {
		caught: []string{"I9"},
		plan:   inDoubt("the store is away while postgres starts"),
		store: func(p *proc, b store.Backend) store.Backend {
			if p.kind != "sentinel" {
				return b
			}
			return timeless{b, p}
		},
		clock: func(p *proc, c clock.Clock) clock.Clock {
			return func() time.Duration {
				now := c()
				p.mu.Lock()
				defer p.mu.Unlock()
				before := now - p.slow
				p.slow = 0
				return before
			}
		},
	},

	// S3, K11: what a keeper says before it takes its instance down.
	"an announced downtime is not heeded": {
		caught: []string{"I9"},
		plan:   inDoubt("the keeper is paused while it restarts postgres"),
		store:  ofKeeperInfos(func(info *cluster.KeeperInfo) { info.Downtime = "" }),
	},

	// S14: who said farewell is taken for dead.
	"a farewell is not heeded": {
		caught: []string{"I9"},
		plan:   inDoubt("the keeper is stopped and comes back"),
		store:  ofKeeperInfos(func(info *cluster.KeeperInfo) { info.Stopping = false }),
	},

	// S13: a postgres that does not start is waited for.
	"failed starts are not heeded": {
		caught: []string{"S13"},
		plan:   inDoubt("postgres does not start any more"),
		store: ofKeeperInfos(func(info *cluster.KeeperInfo) {
			if info.PostgresState != nil {
				info.PostgresState.FailedStart = 0
			}
		}),
	},

	// W3: the stop of the old master waits for every standby, as pg_ctl does.
	"a switchover waits for every standby": {
		caught:   []string{"W3", "I9"}, // the master is down for longer than anybody waits
		plan:     inDoubt("a switchover beside a standby that is stuck"),
		instance: func(_ *proc, i keeper.Instance) keeper.Instance { return patient{i} },
	},

	// W2: the old master waits for the end of a switchover whose leader is gone.
	"no rollback without a leader": {
		caught: []string{"W2"},
		plan:   inDoubt("the sentinels die in a switchover"),
		store: func(p *proc, b store.Backend) store.Backend {
			if p.kind != "keeper" {
				return b
			}
			return &faithful{Backend: b}
		},
	},

	// W4: the target of a switchover is elected before it has everything.
	"switchover before all is shipped": {
		caught: []string{"I3", "I11"},
		plan:   func(p *plan) { p.sync, p.profile = false, "ambushes" },
		store: func(p *proc, b store.Backend) store.Backend {
			if p.kind != "sentinel" {
				return b
			}
			return &forger{Backend: b, edit: func(known map[string]store.KV, kv store.KV) store.KV {
				var info cluster.KeeperInfo
				if strings.Contains(kv.Key, "/keepers/info/") && json.Unmarshal(kv.Value, &info) == nil && info.PostgresState != nil {
					info.PostgresState.ReplayPos = 1 << 60
					kv.Value = store.Encode(info)
				}
				return toldIsDown(known, kv)
			}}
		},
	},

	// W1: the old master starts again by its own timer, without a look at who is
	// master now.
	"rollback without a read": {
		caught: []string{"I6", "I5"},
		plan:   func(p *plan) { p.sync, p.profile = false, "calm" },
		store: func(p *proc, b store.Backend) store.Backend {
			if p.kind != "keeper" {
				return b
			}
			return &forgetful{Backend: b}
		},
	},

	// K7: who made a timeline is not asked.
	"same-number timelines": {
		caught: []string{"I7"},
		plan:   profile("ambushes"),
		store: func(p *proc, b store.Backend) store.Backend {
			if p.kind == "keeper" {
				return soleCreator{b, p}
			}
			return &forger{Backend: b, edit: func(_ map[string]store.KV, kv store.KV) store.KV {
				kv.Key = strings.Replace(kv.Key, "/ext/forked/", "/gone/", 1)
				return kv
			}}
		},
	},
}

// inDoubt plays that doubt alone.
func inDoubt(name string) func(*plan) {
	return func(p *plan) {
		p.profile, p.only, p.old, p.noMaster, p.noSync = "doubts", name, "", "", ""
		p.keepers = max(3, p.keepers)
		if name == "clients hear of the master" {
			p.sync = false
		}
	}
}

// ofSentinels forges what sentinels see.
func ofSentinels(edit func(store.KV) store.KV) func(*proc, store.Backend) store.Backend {
	return func(p *proc, b store.Backend) store.Backend {
		if p.kind != "sentinel" {
			return b
		}
		return &forger{Backend: b, edit: func(_ map[string]store.KV, kv store.KV) store.KV { return edit(kv) }}
	}
}

// ofKeeperInfos forges what sentinels see of keepers.
func ofKeeperInfos(edit func(*cluster.KeeperInfo)) func(*proc, store.Backend) store.Backend {
	return ofSentinels(func(kv store.KV) store.KV {
		var info cluster.KeeperInfo
		if strings.Contains(kv.Key, "/keepers/info/") && json.Unmarshal(kv.Value, &info) == nil {
			edit(&info)
			kv.Value = store.Encode(info)
		}
		return kv
	})
}

// missing are the proxies whose keys are gone, as ones that have cut.
func missing(known map[string]store.KV) (kvs []store.KV) {
	cd := dataOf(known)
	if cd == nil {
		return nil
	}
	for _, uid := range cd.Proxy.Spec.EnabledProxies {
		key := "sim/c/proxies/info/" + uid
		if _, ok := known[key]; !ok {
			info := cluster.ProxyInfo{
				InfoUID: fmt.Sprint("gone ", cd.Proxy.Generation), UID: uid, Generation: cd.Proxy.Generation,
				ProxyTimeout: time.Second, Features: []cluster.Feature{cluster.AtomicCheck},
			}
			kvs = append(kvs, store.KV{Key: key, Value: store.Encode(info), Revision: 1})
		}
	}
	return kvs
}

// timeless takes no time, by the first look at its process's clock after it.
type timeless struct {
	store.Backend
	p *proc
}

func (b timeless) hide(began time.Time) {
	b.p.mu.Lock()
	defer b.p.mu.Unlock()
	b.p.slow = time.Since(began)
}

func (b timeless) Get(ctx context.Context, key string) (*store.KV, error) {
	defer b.hide(time.Now())
	return b.Backend.Get(ctx, key)
}

func (b timeless) List(ctx context.Context, prefix string) (store.Snapshot, error) {
	defer b.hide(time.Now())
	return b.Backend.List(ctx, prefix)
}

func (b timeless) Commit(ctx context.Context, conds []store.Condition, ops []store.Op) (int64, error) {
	defer b.hide(time.Now())
	return b.Backend.Commit(ctx, conds, ops)
}

// patient hands over by an ordinary stop.
type patient struct{ keeper.Instance }

func (i patient) HandOver(ctx context.Context, _ string) (wal.LSN, error) {
	if err := i.Stop(ctx, postgresql.Fast); err != nil {
		return 0, err
	}
	look, err := i.Look(ctx)
	return look.Checkpoint, err
}

// faithful believes in a switchover that has begun until another takes its
// place.
type faithful struct {
	store.Backend
	mu   sync.Mutex
	last *store.KV
}

func (b *faithful) Get(ctx context.Context, key string) (*store.KV, error) {
	kv, err := b.Backend.Get(ctx, key)
	if err != nil || !strings.HasSuffix(key, cluster.ExtSwitchover) {
		return kv, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if kv != nil {
		b.last = kv
	}
	return b.last, nil
}

// suspected: some proxy says that the db refuses connections.
func suspected(known map[string]store.KV, db string) bool {
	for key, kv := range known {
		var info cluster.ProxyInfo
		if strings.Contains(key, "/proxies/info/") && json.Unmarshal(kv.Value, &info) == nil && info.Suspect == db {
			return true
		}
	}
	return false
}

// forgetful takes a switchover for given up as soon as its master has shut down,
// and the cluster data for what they were before.
type forgetful struct {
	store.Backend
	mu     sync.Mutex
	before *store.KV // cluster data when there was no switchover that stops anybody
	stops  bool
}

func (b *forgetful) see(kv *store.KV) {
	if kv == nil {
		b.stops = false
		return
	}
	var st cluster.Switchover
	if json.Unmarshal(kv.Value, &st) == nil {
		b.stops = st.Phase == cluster.Shipping || st.Phase == cluster.Electing
	}
}

func (b *forgetful) Get(ctx context.Context, key string) (*store.KV, error) {
	kv, err := b.Backend.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case strings.HasSuffix(key, cluster.ExtSwitchover):
		if b.see(kv); b.stops {
			return nil, nil
		}
	case strings.HasSuffix(key, "/clusterdata"):
		if b.stops && b.before != nil {
			return b.before, nil
		}
		b.before = kv
	}
	return kv, nil
}

func (b *forgetful) Watch(ctx context.Context, prefix string) <-chan store.Change {
	in := b.Backend.Watch(ctx, prefix)
	if !strings.HasSuffix(prefix, cluster.ExtSwitchover) {
		return in
	}
	out := make(chan store.Change, 1)
	go func() {
		defer close(out)
		for ch := range in {
			b.mu.Lock()
			for n := range ch.Puts {
				b.see(&ch.Puts[n])
			}
			if b.stops {
				ch = store.Change{Reset: true, Revision: ch.Revision}
			}
			b.mu.Unlock()
			store.Offer(out, ch)
		}
	}()
	return out
}

// setBack makes what is counted from one moment be counted from a later one.
func setBack(p *proc, c clock.Clock) clock.Clock {
	return func() time.Duration { now := c(); return now - p.slowFor() }
}

// withoutPlaceholder leaves the name that nobody has out of the configurations
// that are meant, and lets the keeper believe that it is there.
func withoutPlaceholder(meant func(conf.Config) bool) func(*proc, keeper.Instance) keeper.Instance {
	return func(_ *proc, i keeper.Instance) keeper.Instance {
		told := ""
		return changed{Instance: i, config: func(c conf.Config) conf.Config {
			told = ""
			if !meant(c) || c.Parameters["synchronous_standby_names"] != conf.FakeStandby {
				return c
			}
			told = conf.FakeStandby
			return withSyncNames(c, "")
		}, shown: &told}
	}
}

func profile(name string) func(*plan) { return func(p *plan) { p.profile = name } }

func synchronous(least, most uint16) func(*plan) {
	return func(p *plan) {
		p.sync, p.keepers = true, max(3, p.keepers)
		p.settings.MinSynchronousStandbys, p.settings.MaxSynchronousStandbys = &least, &most
		if p.profile == "calm" {
			p.profile = "mixed"
		}
	}
}

// dataOf is the cluster data among the keys.
func dataOf(known map[string]store.KV) *cluster.ClusterData {
	cd, err := store.DecodeClusterData(known["sim/c/clusterdata"].Value)
	if err != nil {
		return nil
	}
	return cd
}

// forger shows its process another store than the one there is.
type forger struct {
	store.Backend
	edit func(known map[string]store.KV, kv store.KV) store.KV
	add  func(known map[string]store.KV) []store.KV // nil: nothing
}

func (f *forger) forge(kvs []store.KV) []store.KV {
	known := map[string]store.KV{}
	for _, kv := range kvs {
		known[kv.Key] = kv
	}
	for n := range kvs {
		kvs[n] = f.edit(known, kvs[n])
	}
	if f.add != nil {
		kvs = append(kvs, f.add(known)...)
	}
	return kvs
}

func (f *forger) Get(ctx context.Context, key string) (*store.KV, error) {
	kv, err := f.Backend.Get(ctx, key)
	if kv != nil {
		if forged := f.edit(nil, *kv); forged.Key == key {
			kv = &forged
		} else {
			kv = nil
		}
	}
	return kv, err
}

func (f *forger) List(ctx context.Context, prefix string) (store.Snapshot, error) {
	snap, err := f.Backend.List(ctx, prefix)
	snap.KVs = f.forge(snap.KVs)
	return snap, err
}

func (f *forger) Watch(ctx context.Context, prefix string) <-chan store.Change {
	in, out := f.Backend.Watch(ctx, prefix), make(chan store.Change, 1)
	go func() {
		defer close(out)
		var m store.Mirror
		for ch := range in {
			// The whole of it each time: what is forged depends on other keys.
			m.Apply(ch)
			snap := m.Snapshot()
			snap.KVs = f.forge(snap.KVs)
			store.Offer(out, store.Change{Reset: true, Puts: snap.KVs, Revision: snap.Revision})
		}
	}()
	return out
}

// soleCreator tells a keeper that it made every timeline that anybody made.
type soleCreator struct {
	store.Backend
	p *proc
}

func (b soleCreator) Get(ctx context.Context, key string) (*store.KV, error) {
	kv, err := b.Backend.Get(ctx, key)
	if err != nil || !strings.Contains(key, "/ext/timelines/") {
		return kv, err
	}
	var own struct{ DB string }
	b.p.s.mu.Lock()
	_ = json.Unmarshal(b.p.s.disks[b.p.name]["promotionstate"], &own)
	b.p.s.mu.Unlock()
	if own.DB == "" {
		return nil, nil
	}
	return &store.KV{Key: key, Value: store.Encode([]string{own.DB}), Revision: 1}, nil
}

func (b soleCreator) Commit(ctx context.Context, conds []store.Condition, ops []store.Op) (int64, error) {
	if strings.Contains(ops[0].Key, "/ext/timelines/") {
		return 1, nil
	}
	return b.Backend.Commit(ctx, conds, ops)
}

// readThenPut checks the conditions with a read and then writes without them.
type readThenPut struct {
	store.Backend
	p *proc
}

func (b readThenPut) Commit(ctx context.Context, conds []store.Condition, ops []store.Op) (int64, error) {
	began := time.Now()
	for _, c := range conds {
		kv, err := b.Get(ctx, c.Key)
		if err != nil {
			return 0, err
		}
		if kv == nil || kv.Revision != c.Revision {
			return 0, store.ErrConflict
		}
	}
	// What lies between the two: often nothing, or a pause of the process.
	if x := b.p.draw("between read and put"); x%4 == 0 {
		_ = sleep(ctx, between(mix(x), 0, 4*time.Second))
	}
	// The deadline counts from here.
	late := time.Since(began)
	rev, err := b.Backend.Commit(ctx, nil, ops)
	b.p.mu.Lock()
	defer b.p.mu.Unlock()
	b.p.slow += late
	return rev, err
}

// fromTheAnswer sets the process's clock back by what each commit takes, once
// it is done: all that is counted from its beginning is counted from its end.
type fromTheAnswer struct {
	store.Backend
	p *proc
}

func (b fromTheAnswer) Commit(ctx context.Context, conds []store.Condition, ops []store.Op) (int64, error) {
	before := time.Now()
	rev, err := b.Backend.Commit(ctx, conds, ops)
	b.p.mu.Lock()
	defer b.p.mu.Unlock()
	b.p.slow += time.Since(before)
	return rev, err
}

// changed is an instance that is told or tells something else.
type changed struct {
	keeper.Instance
	sample       func(*postgresql.Sample)
	config       func(conf.Config) conf.Config
	shown        *string // what an empty list of synchronous standbys is shown as
	noCheckpoint bool
}

func (c changed) Start(ctx context.Context, x conf.Config, firstStart bool) error {
	if c.config != nil {
		x = c.config(x)
	}
	return c.Instance.Start(ctx, x, firstStart)
}

func (c changed) Reload(ctx context.Context, x conf.Config) error {
	if c.config != nil {
		x = c.config(x)
	}
	return c.Instance.Reload(ctx, x)
}

func (c changed) Show(ctx context.Context, name string) (string, error) {
	value, err := c.Instance.Show(ctx, name)
	if value == "" && c.shown != nil && name == "synchronous_standby_names" {
		value = *c.shown
	}
	return value, err
}

func (c changed) Sample(ctx context.Context) (postgresql.Sample, error) {
	s, err := c.Instance.Sample(ctx)
	if err == nil && c.sample != nil {
		c.sample(&s)
	}
	if s.SyncNames == "" && c.shown != nil {
		s.SyncNames = *c.shown
	}
	return s, err
}

func (c changed) Checkpoint(ctx context.Context) error {
	if c.noCheckpoint {
		return nil
	}
	return c.Instance.Checkpoint(ctx)
}

func withSyncNames(c conf.Config, names string) conf.Config {
	params := map[string]string{}
	for name, value := range c.Parameters {
		params[name] = value
	}
	params["synchronous_standby_names"] = names
	c.Parameters = params
	return c
}

var (
	_ store.Backend = (*memory.Client)(nil)
	_ net.Listener  = (*listener)(nil)
)
