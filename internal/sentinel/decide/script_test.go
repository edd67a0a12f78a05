package decide

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"stolon/internal/cluster"
)

var update = flag.Bool("update", false, "write the outcome of the scripts into them")

// TestScripts plays testdata/*.txt: commands, then "----", then what the
// sentinel decided, in its own words. A world of well-behaved keepers and
// proxies reports and applies at every second of a tick.
//
//	spec JSON          the cluster spec (before the first tick: its start)
//	keeper UID...      keepers come up
//	old-keeper UID...  keepers of 0.17 come up
//	no-master UID...   keepers come up that can't be master
//	no-sync UID...     keepers come up that can't be synchronous
//	proxy UID...       proxies come up
//	tick D             D passes, second by second
//	silence UID...     keepers or proxies stop reporting
//	speak UID...       they go on
//	stop UID...        keepers stop, saying so
//	remove UID         stolonctl removekeeper
//	broken UID...      keepers go on reporting, but their instance is not well
//	well UID...
//	starts UID N       of its instance have failed one after the other
//	hold UID...        keepers go on, but apply nothing new
//	apply UID...
//	unconfirmed UID..  standbys are not in sync
//	confirmed UID...
//	write N UID...     the instances' position advances by N bytes
//	position UID N     …or is N
//	timeline UID N P   the instance is on timeline N, which forked at P
//	ahead UID N        the keeper has applied N generations more than the store holds
//	oldest UID NAME    the oldest WAL segment that the instance has
//	segments UID N     the size of its WAL segments is N
//	fail UID           stolonctl failkeeper
//	newleader          another sentinel takes over, with an empty memory
//	gap D              nobody reaches the store for D
//	foreign UID N      the keeper holds another cluster's data, on timeline N
//	swapped UID...     the keeper has the data of another db
//	save               remembers the cluster data
//	restore            writes what was saved back, as from a backup
//	asked              an operator asked for the cluster by stolonctl init
//	inch D             D passes, by tenths of a second
//	suspect UID...     proxies or keepers say that the master refuses connections
//	trust UID...       they say so no more
//	refuses UID...     the sentinel's dials of the keeper's instance are refused,
//	hangs UID...       …are not answered,
//	accepts UID...     …succeed
//	pongs UID...       a silent keeper answers pings
//	downtime UID...    keepers are about to take their instances down
//	uptime UID...
//	seen UID...        proxies hear of the master all the time
//	unseen UID...
//	hears UID...       proxies hear of the master now
//	streams UID...     the standby says that it streams, whatever its master does
//	slow D             what a store call takes
//	switchover [UID]   stolonctl switchover, to that keeper
//	force [UID]        the same with --force
//	stuck UID...       keepers do nothing for a switchover
//	refuses-stop UID   the instance of the keeper can't be stopped
//	lags UID...        the instance replays nothing more
//	catches-up UID...
//	cut-off UID...     the instance does not reach the master
//	reached UID...     it does again
//	show               prints the cluster
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			script, want, _ := strings.Cut(string(text), "----\n")
			got := newWorld(t).play(script)
			if *update {
				if err := os.WriteFile(file, []byte(script+"----\n"+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
			}
		})
	}
}

type world struct {
	t       testing.TB
	out     strings.Builder
	now     time.Duration
	cd      *cluster.ClusterData
	mem     Memory
	ext     map[string]any
	infos   map[string]cluster.KeeperInfo
	proxies map[string]cluster.ProxyInfo
	keepers map[string]*fakeKeeper
	fakes   map[string]*fakeProxy
	uids    int
	saved   *cluster.ClusterData
	asked   bool
	told    map[string]bool
	slow    time.Duration
}

type fakeKeeper struct {
	noMaster, noSync                       bool
	old, silent, broken, hold, unconfirmed bool
	state                                  *cluster.PostgresState
	position, timeline                     uint64
	history                                []cluster.TimelineHistory
	oldest                                 string
	segments                               uint64
	failedStart                            int
	foreign                                *cluster.ForeignData
	suspects, pongs, downtime, streams     bool
	stuck, refusesStop, lags, cutOff       bool
	stopped                                uint64 // for a switchover, at this position; 0: not
	dials                                  string // how they end: refuses, hangs, accepts or ""
	swapped                                bool
}

type fakeProxy struct {
	silent, suspects, seen bool
	heard                  time.Duration // when it heard of the master; 0: not
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newWorld(t testing.TB) *world {
	w := &world{
		t: t, now: time.Hour, ext: map[string]any{}, told: map[string]bool{},
		infos: map[string]cluster.KeeperInfo{}, proxies: map[string]cluster.ProxyInfo{},
		keepers: map[string]*fakeKeeper{}, fakes: map[string]*fakeProxy{},
	}
	w.spec(`{"initMode":"new"}`)
	return w
}

func (w *world) spec(text string) {
	var s cluster.Spec
	if w.cd != nil {
		s = *w.cd.Cluster.Spec
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		w.t.Fatal(err)
	}
	if w.cd == nil {
		w.cd = cluster.New("cluster1", &s, epoch)
		return
	}
	w.cd.Cluster.Spec = &s
}

func (w *world) uid(prefix string) string { w.uids++; return prefix + strconv.Itoa(w.uids) }

func (w *world) play(script string) string {
	for _, line := range strings.Split(script, "\n") {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		w.command(f, strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), f[0])))
	}
	return w.out.String()
}

func (w *world) command(f []string, rest string) {
	args := f[1:]
	each := func(do func(*fakeKeeper)) {
		for _, uid := range args {
			if w.keepers[uid] == nil {
				w.t.Fatalf("no keeper %s", uid)
			}
			do(w.keepers[uid])
		}
	}
	number := func(s string) uint64 {
		n, err := strconv.ParseUint(s, 0, 64)
		if err != nil {
			w.t.Fatal(err)
		}
		return n
	}
	switch f[0] {
	case "spec":
		w.spec(rest)
	case "keeper", "old-keeper", "no-master", "no-sync":
		for _, uid := range args {
			w.keepers[uid] = &fakeKeeper{old: f[0] == "old-keeper", noMaster: f[0] == "no-master", noSync: f[0] == "no-sync", timeline: 1, position: 1000}
		}
	case "proxy":
		for _, uid := range args {
			w.fakes[uid] = &fakeProxy{}
		}
	case "tick":
		d, err := time.ParseDuration(args[0])
		if err != nil {
			w.t.Fatal(err)
		}
		for range int(d / time.Second) {
			w.now += time.Second
			w.report()
			w.decide()
		}
	case "inch":
		d, err := time.ParseDuration(args[0])
		if err != nil {
			w.t.Fatal(err)
		}
		for range int(d / (100 * time.Millisecond)) {
			w.now += 100 * time.Millisecond
			w.report()
			w.decide()
		}
	case "suspect", "trust", "seen", "unseen":
		for _, uid := range args {
			if k := w.keepers[uid]; k != nil {
				k.suspects = f[0] == "suspect"
				continue
			}
			switch px := w.fakes[uid]; f[0] {
			case "seen", "unseen":
				px.seen = f[0] == "seen"
			default:
				px.suspects = f[0] == "suspect"
			}
		}
	case "hears":
		for _, uid := range args {
			w.fakes[uid].heard = w.now
		}
	case "refuses", "hangs", "accepts":
		each(func(k *fakeKeeper) { k.dials = f[0] })
	case "pongs":
		each(func(k *fakeKeeper) { k.pongs = true })
	case "downtime", "uptime":
		each(func(k *fakeKeeper) { k.downtime = f[0] == "downtime" })
	case "streams":
		each(func(k *fakeKeeper) { k.streams = true })
	case "switchover", "force":
		req := cluster.SwitchoverRequest{ID: w.uid("s"), ClusterUID: w.cd.Cluster.UID, Master: w.cd.Cluster.Status.Master, Timeout: 10 * time.Second, Force: f[0] == "force"}
		if len(args) > 0 {
			req.Target = args[0]
		}
		w.ext[cluster.ExtSwitchoverRequest] = req
	case "stuck":
		each(func(k *fakeKeeper) { k.stuck = true })
	case "refuses-stop":
		each(func(k *fakeKeeper) { k.refusesStop = true })
	case "lags", "catches-up":
		each(func(k *fakeKeeper) { k.lags = f[0] == "lags" })
	case "cut-off", "reached":
		each(func(k *fakeKeeper) { k.cutOff = f[0] == "cut-off" })
	case "slow":
		var err error
		if w.slow, err = time.ParseDuration(args[0]); err != nil {
			w.t.Fatal(err)
		}
	case "gap":
		d, err := time.ParseDuration(args[0])
		if err != nil {
			w.t.Fatal(err)
		}
		w.now += d
	case "silence", "speak":
		for _, uid := range args {
			if k := w.keepers[uid]; k != nil {
				k.silent = f[0] == "silence"
			} else {
				w.fakes[uid].silent = f[0] == "silence"
			}
		}
	case "exited":
		for _, uid := range args {
			w.fakes[uid].silent = true
			w.mem = Exited(w.mem, uid)
		}
	case "stop":
		for _, uid := range args {
			w.keepers[uid].silent = true
			info := w.infos[uid]
			info.InfoUID, info.Stopping = w.uid("i"), true
			w.infos[uid] = info
		}
	case "remove":
		if db := w.cd.DBOf(args[0]); db != nil {
			delete(w.cd.DBs, db.UID)
		}
		delete(w.cd.Keepers, args[0])
	case "broken", "well":
		each(func(k *fakeKeeper) { k.broken = f[0] == "broken" })
	case "hold", "apply":
		each(func(k *fakeKeeper) { k.hold = f[0] == "hold" })
	case "unconfirmed", "confirmed":
		each(func(k *fakeKeeper) { k.unconfirmed = f[0] == "unconfirmed" })
	case "write":
		n := number(args[0])
		args = args[1:]
		each(func(k *fakeKeeper) { k.position += n })
	case "position":
		w.keepers[args[0]].position = number(args[1])
	case "timeline":
		k := w.keepers[args[0]]
		k.history = append(k.history, cluster.TimelineHistory{TimelineID: k.timeline, SwitchPoint: number(args[2])})
		k.timeline = number(args[1])
	case "ahead":
		k := w.keepers[args[0]]
		k.hold = true
		k.state.Generation += int64(number(args[1]))
	case "oldest":
		w.keepers[args[0]].oldest = args[1]
	case "segments":
		w.keepers[args[0]].segments = number(args[1])
	case "starts":
		w.keepers[args[0]].failedStart = int(number(args[1]))
	case "fail":
		w.cd.Keepers[args[0]].Status.ForceFail = true
	case "newleader":
		w.mem = Memory{}
		delete(w.ext, cluster.ExtSwitchover) // it was bound to the other one's session
	case "foreign":
		w.keepers[args[0]].foreign = &cluster.ForeignData{ClusterUID: "cluster0", TimelineID: number(args[1])}
	case "swapped":
		each(func(k *fakeKeeper) { k.swapped = true })
	case "save":
		w.saved = w.cd.Clone()
	case "restore":
		w.cd = w.saved.Clone()
	case "asked":
		w.asked = true
	case "show":
		w.show()
	default:
		w.t.Fatalf("unknown command %q", f[0])
	}
}

// report lets every live process apply the cluster data and publish.
func (w *world) report() {
	for _, uid := range cluster.SortedKeys(w.keepers) {
		k := w.keepers[uid]
		if k.silent {
			continue
		}
		info := cluster.KeeperInfo{InfoUID: w.uid("i"), UID: uid, ClusterUID: w.cd.Cluster.UID, BootUUID: "boot-" + uid, Foreign: k.foreign}
		if k.noMaster {
			info.CanBeMaster = new(bool)
		}
		if k.noSync {
			info.CanBeSynchronousReplica = new(bool)
		}
		if !k.old {
			info.Features = []cluster.Feature{cluster.FailClosedPromotion, cluster.Ping, cluster.HandOver}
		}
		if k.suspects {
			info.Suspect = w.cd.Cluster.Status.Master
		}
		if k.downtime {
			info.Downtime = "restart for a parameter"
		}
		if db := w.cd.DBOf(uid); db != nil {
			info.Handover = w.handOver(k, db)
			w.apply(k, db)
			st := *k.state
			if k.swapped {
				st = cluster.PostgresState{UID: "another"}
			}
			info.PostgresState = &st
		}
		w.infos[uid] = info
	}
	for _, uid := range cluster.SortedKeys(w.fakes) {
		if !w.fakes[uid].silent {
			info := cluster.ProxyInfo{InfoUID: w.uid("i"), UID: uid, Generation: w.cd.Proxy.Generation,
				ProxyTimeout: 15 * time.Second, Features: []cluster.Feature{cluster.AtomicCheck}}
			if w.fakes[uid].suspects {
				info.Suspect = w.cd.Proxy.Spec.MasterDBUID
			}
			if at := w.fakes[uid].heard; at != 0 {
				info.MasterSeen = max(w.now-at, 1)
			}
			if w.fakes[uid].seen {
				info.MasterSeen = 10 * time.Millisecond
			}
			w.proxies[uid] = info
		}
	}
}

// handOver is a keeper that does its part in a switchover within a second.
func (w *world) handOver(k *fakeKeeper, db *cluster.DB) *cluster.Handover {
	st, ok := w.ext[cluster.ExtSwitchover].(cluster.Switchover)
	if !ok || st.Master != db.UID || w.cd.Cluster.Status.Master != db.UID || k.stuck {
		k.stopped = 0
		return nil
	}
	h := &cluster.Handover{ID: st.ID, Prepared: true}
	switch {
	case !st.Stops():
		k.stopped = 0
	case k.refusesStop:
		h.Failed = "it hangs"
	default:
		k.stopped = k.position
		h.Stopped, h.Position = true, k.position
	}
	return h
}

// apply is a keeper that does what it is told within a second.
func (w *world) apply(k *fakeKeeper, db *cluster.DB) {
	if k.state == nil || k.state.UID != db.UID {
		k.state = &cluster.PostgresState{UID: db.UID, ListenAddress: "addr-" + db.Spec.KeeperUID, Port: "5432", SystemID: "system1"}
		if db.Spec.InitMode == cluster.InitResync {
			m := w.keepers[w.cd.Master().Spec.KeeperUID]
			k.position, k.timeline, k.history = m.position, m.timeline, slices.Clone(m.history)
		}
	}
	st := k.state
	master := w.cd.Cluster.Status.Master == db.UID
	if !k.hold {
		if master && db.Spec.Role == cluster.RoleMaster && !st.Primary && st.Generation != 0 {
			k.history = append(k.history, cluster.TimelineHistory{TimelineID: k.timeline, SwitchPoint: k.position})
			k.timeline++
		}
		st.Primary = master && db.Spec.Role == cluster.RoleMaster
		st.Generation = db.Generation
		st.SyncGeneration = db.Generation
	}
	st.Healthy, st.FailedStart = !k.broken && k.stopped == 0, k.failedStart
	if !k.lags {
		st.ReplayPos = k.position + 1
	}
	st.TimelineID, st.XLogPos, st.TimelinesHistory = k.timeline, k.position, k.history
	st.OlderWalFile, st.WALSegmentSize = k.oldest, k.segments
	st.ReceiverUp = k.streams
	if f := db.Spec.FollowConfig; f != nil && w.cd.DBs[f.DBUID] != nil {
		if m := w.keepers[w.cd.DBs[f.DBUID].Spec.KeeperUID]; m != nil && !m.silent && !m.broken {
			st.ReceiverUp = true
			if !k.hold && m.timeline > k.timeline && m.state != nil && m.state.Primary && m.history[len(m.history)-1].SwitchPoint >= k.position {
				k.timeline, k.history = m.timeline, slices.Clone(m.history)
			}
		}
	}
	st.ReceiverUp = st.ReceiverUp && !k.cutOff
	st.SynchronousStandbys = nil
	for _, uid := range db.Spec.SynchronousStandbys {
		if b := w.cd.DBs[uid]; b != nil {
			if bk := w.keepers[b.Spec.KeeperUID]; bk != nil && !bk.silent && !bk.unconfirmed && !bk.broken && !bk.cutOff {
				st.SynchronousStandbys = append(st.SynchronousStandbys, uid)
			}
		}
	}
}

// decide runs passes until nothing more is written, as the loop does.
func (w *world) decide() {
	for n := 0; ; n++ {
		if n == 20 {
			w.t.Fatalf("the sentinel never comes to rest; so far:\n%s", w.out.String())
		}
		in := w.in()
		w.mem = Observe(w.mem, in.View, w.now, true)
		w.mem = Called(w.mem, w.slow, w.now)
		d := Next(in, w.mem)
		for _, e := range d.Events {
			w.say(e)
		}
		waiting := map[string]bool{}
		for _, e := range d.Waiting {
			key := e.Kind + e.DB + e.Proxy
			waiting[key] = true
			if !w.told[key] && e.Level > Debug {
				w.say(e)
			}
		}
		w.told = waiting
		if d.Data == nil {
			if d.Ask == nil {
				return
			}
			w.find(d.Ask)
			continue
		}
		if d.Death {
			w.mem = Confirmed(w.mem)
		}
		checkSteps(w.t, w.cd, d.Data)
		w.cd = d.Data.Clone()
		for _, x := range d.Ext {
			if x.Value == nil {
				delete(w.ext, x.Name)
			} else {
				w.ext[x.Name] = x.Value
			}
		}
	}
}

// find does what the sentinel is asked to find out.
func (w *world) find(ask *Ask) {
	if ask.Keeper != "" {
		w.mem = Pinged(w.mem, ask.Keeper, *ask.Ping, w.now)
		if k := w.keepers[ask.Keeper]; k.pongs {
			info := w.infos[ask.Keeper]
			info.InfoUID = w.uid("i")
			w.infos[ask.Keeper] = info
		}
	}
	if uid, ok := strings.CutPrefix(ask.Dial, "addr-"); ok {
		w.mem = Dialled(w.mem, w.keepers[strings.TrimSuffix(uid, ":5432")].dials == "refuses", w.now)
	}
}

// in is what the next pass is decided from.
func (w *world) in() In {
	v := View{Data: w.cd.Clone(), Keepers: w.infos, Proxies: w.proxies, Asked: w.asked}
	for _, name := range cluster.SortedKeys(w.ext) {
		if r, ok := w.ext[name].(ElectionRecord); ok {
			v.Election = &r
		}
		if r, ok := w.ext[name].(cluster.SwitchoverRequest); ok {
			v.Request = &r
		}
		if r, ok := w.ext[name].(cluster.Switchover); ok {
			v.Switchover = &r
		}
		if strings.HasPrefix(name, ExtForked) {
			v.Forked = append(v.Forked, strings.TrimPrefix(name, ExtForked))
		}
	}
	return In{
		View: v, Now: Now{Boot: w.now, Wall: epoch.Add(w.now)}, StoreTimeout: 5 * time.Second, ReadTook: w.slow,
		NewUID: func() string { return w.uid("db") }, Pick: func(int) int { return 0 },
	}
}

// checkSteps holds what every single write must respect.
func checkSteps(t testing.TB, old, next *cluster.ClusterData) {
	t.Helper()
	elected := old.Cluster.Status.Master != next.Cluster.Status.Master && old.Cluster.Status.Phase == cluster.Normal
	routed := old.Proxy.Spec.MasterDBUID != next.Proxy.Spec.MasterDBUID
	if elected && (old.Proxy.Spec.MasterDBUID != "" || next.Proxy.Spec.MasterDBUID != "") {
		t.Errorf("elected %s while proxies led to %q", next.Cluster.Status.Master, old.Proxy.Spec.MasterDBUID)
	}
	if routed && next.Proxy.Generation != old.Proxy.Generation+1 {
		t.Errorf("route changed from generation %d to %d", old.Proxy.Generation, next.Proxy.Generation)
	}
	for uid, db := range next.DBs {
		o := old.DBs[uid]
		if o != nil && !same(o.Spec, db.Spec) && db.Generation != o.Generation+1 {
			t.Errorf("db %s: spec changed, generation %d -> %d", uid, o.Generation, db.Generation)
		}
	}
}

func (w *world) say(e Event) {
	fmt.Fprintf(&w.out, "%4ds %s", int((w.now-time.Hour)/time.Second), e.Kind)
	for _, s := range []string{e.DB, e.Keeper, e.Proxy} {
		if s != "" {
			fmt.Fprintf(&w.out, " %s", s)
		}
	}
	if e.Why != "" {
		fmt.Fprintf(&w.out, ": %s", e.Why)
	}
	if p, ok := e.Details["proxies"]; ok {
		fmt.Fprintf(&w.out, ": %v", p)
	}
	w.out.WriteByte('\n')
}

func (w *world) show() {
	px := w.cd.Proxy
	fmt.Fprintf(&w.out, "      master %s, proxies -> %q generation %d %v\n", w.cd.Cluster.Status.Master, px.Spec.MasterDBUID, px.Generation, px.Spec.EnabledProxies)
	for _, uid := range cluster.SortedKeys(w.cd.DBs) {
		db := w.cd.DBs[uid]
		fmt.Fprintf(&w.out, "      %s on %s: %s %d/%d", uid, db.Spec.KeeperUID, db.Spec.Role, db.Generation, db.Status.CurrentGeneration)
		if !db.Status.Healthy {
			w.out.WriteString(" unhealthy")
		}
		if f := db.Spec.FollowConfig; f != nil {
			fmt.Fprintf(&w.out, " follows %s", f.DBUID)
		}
		if len(db.Spec.Followers) > 0 {
			fmt.Fprintf(&w.out, " followers %v", db.Spec.Followers)
		}
		if db.Spec.SynchronousReplication {
			fmt.Fprintf(&w.out, " sync %v%v known %v", db.Spec.SynchronousStandbys, db.Spec.ExternalSynchronousStandbys, db.Status.SynchronousStandbys)
		}
		w.out.WriteByte('\n')
	}
	names := cluster.SortedKeys(w.ext)
	sort.Strings(names)
	if len(names) > 0 {
		fmt.Fprintf(&w.out, "      ext %v\n", names)
	}
}
