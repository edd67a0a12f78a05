package sim

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"stolon/internal/cluster"
	"stolon/internal/postgresql/postgresqltest"
	"stolon/internal/store"
	"stolon/internal/store/memory"
)

// truth is the history as it really was, and the invariants of protocols.md
// section 8 over it. It is told of everything in the instant it happens.
type truth struct {
	s  *sim
	mu sync.Mutex

	failure   string
	data      *cluster.ClusterData
	masters   []mastership
	commits   map[int64]postgresqltest.Commit
	bySerial  map[int64]postgresqltest.Commit
	promised  []promise
	proxies   map[string]int64 // generation last published, by uid
	sentinels map[string]string
	lastAck   time.Time
	checked   string // which standbys I4 was last checked of
	// Since when commits have to wait for somebody: the master's list says so
	// and is in force. Zero: they need not.
	waits time.Time

	acks, reads, elections int
	handovers              int // elections of a switchover
}

// mastership is an election (CAS2), or the first choice.
type mastership struct {
	at     time.Time
	db     string
	keeper string
	sync   bool // the one before had to wait for synchronous standbys
}

// promise is a commit that a client knows of: acknowledged, or read.
type promise struct {
	postgresqltest.Commit
	how string
}

func newTruth(s *sim) *truth {
	return &truth{s: s, commits: map[int64]postgresqltest.Commit{}, bySerial: map[int64]postgresqltest.Commit{}, proxies: map[string]int64{}, sentinels: map[string]string{}}
}

// fail notes the first broken invariant.
func (t *truth) fail(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	t.mu.Lock()
	first := t.failure == ""
	if first {
		t.failure = what
	}
	t.mu.Unlock()
	if first {
		t.s.trace("BROKEN %s", what)
	}
}

func (t *truth) failed() bool { return t.why() != "" }

func (t *truth) why() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failure
}

func (t *truth) clusterData() *cluster.ClusterData {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.data
}

func (t *truth) ackedSince(at time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lastAck.After(at)
}

// What the instances do.

func (t *truth) Committed(c postgresqltest.Commit) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.commits[c.Row], t.bySerial[c.Serial] = c, c
}

// BecamePrimary checks that a standby cluster has no primary of its own.
func (t *truth) BecamePrimary(host string, promoted bool) {
	if cd := t.clusterData(); host != outsideHost && cd != nil && cd.Cluster.Spec.Settings().Role == cluster.RoleStandby {
		t.fail("SC: %s became a primary (promoted: %t) in a standby cluster", host, promoted)
	}
}

// Dropped checks I7: nothing is lost that is nowhere else.
func (t *truth) Dropped(host string, rows []postgresqltest.Commit) {
	t.s.trace("%s drops what was set aside, %d rows", host, len(rows))
	for _, c := range rows {
		if !t.s.world.SomewhereElse(c, nil) {
			t.fail("I7: %s removed the only copy of row %d (%s)", host, c.Row, c.LSN)
			return
		}
	}
}

// Mixed checks I7: histories under one number stay apart.
func (t *truth) Mixed(host, from, how string) {
	t.fail("I7: %s: %s %s between different histories of one timeline number", host, how, from)
}

func (t *truth) Event(host, what string) { t.s.trace("%s %s", host, what) }

// What the processes do.

func (t *truth) sentinel(p *proc, uid string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sentinels[p.id] = uid
}

// stored is called in the instant that the server has done a request.
func (t *truth) stored(p *proc, r memory.Request) {
	switch {
	case r.Err != nil:
	case r.Kind == memory.Get && r.Key == t.s.keys.ClusterDataKey():
		p.mu.Lock()
		p.read = p.began
		p.mu.Unlock()
	case r.Kind == memory.Commit && strings.Contains(r.Key, "/ext/"+cluster.ExtPings):
		t.s.asks()
	case p.kind == "sentinel" && r.Kind == memory.Commit && r.Key == t.s.keys.ClusterDataKey() && len(r.Conds) > 0 && r.Conds[0].Revision != 0:
		// I8, S1: who writes leads.
		var leader store.KV
		for _, kv := range t.s.server.Dump().KVs {
			if strings.HasPrefix(kv.Key, t.s.keys.ElectionKey()+"/") && (leader.Key == "" || kv.Revision < leader.Revision) {
				leader = kv
			}
		}
		t.mu.Lock()
		own := t.sentinels[p.id]
		t.mu.Unlock()
		if string(leader.Value) != own {
			t.fail("I8: %s (%s) wrote cluster data while %q led", p.id, own, leader.Value)
		}
	}
}

// saved checks I8: a keeper never goes back to an older generation.
func (t *truth) saved(p *proc, name string, before, after []byte) {
	if name != "dbstate" || before == nil {
		return
	}
	var a, b struct {
		UID        string
		Generation int64
	}
	_ = json.Unmarshal(before, &a)
	_ = json.Unmarshal(after, &b)
	if a.UID == b.UID && b.Generation < a.Generation {
		t.fail("I8: %s applied generation %d of db %s after %d", p.id, b.Generation, b.UID, a.Generation)
	}
}

// mayBePrimary checks I6: the keeper's db was master at some time since its
// last reading of the cluster data began.
func (t *truth) mayBePrimary(p *proc, what string) {
	t.s.trace("%s %s", p.id, what)
	p.mu.Lock()
	since := p.read
	p.mu.Unlock()
	t.mu.Lock()
	ok := false
	for n, m := range t.masters {
		until := time.Now()
		if n+1 < len(t.masters) {
			until = t.masters[n+1].at
		}
		ok = ok || m.keeper == p.name && !until.Before(since)
	}
	t.mu.Unlock()
	if !ok {
		t.fail("I6: %s %s, which was not master since it read the cluster data %s ago", p.id, what, time.Since(since))
	}
}

// carries checks I5 (and with it I2): a proxy that sends bytes to a running
// primary sends them to the elected one.
func (t *truth) carries(c *conn) {
	if c.owner.kind != "proxy" || !strings.HasPrefix(c.peer, "10.") {
		return
	}
	t.mu.Lock()
	var m mastership
	if n := len(t.masters); n > 0 {
		m = t.masters[n-1]
	}
	t.mu.Unlock()
	if m.keeper == "" {
		return
	}
	var n int
	fmt.Sscanf(c.peer, "10.0.0.%d", &n)
	if m.keeper == fmt.Sprintf("keeper%d", n) || c.owner.dead() {
		return
	}
	if t.s.instances[n-1].State().Primary {
		t.fail("I5: %s leads to keeper%d, a running primary, %s after %s was elected", c.owner.id, n, time.Since(m.at), m.keeper)
	}
}

// What the store holds.

func (t *truth) changed(ch store.Change) {
	planned := ""
	for _, kv := range ch.Puts {
		var st cluster.Switchover
		if kv.Key == t.s.keys.ExtKey(cluster.ExtSwitchover) && json.Unmarshal(kv.Value, &st) == nil {
			t.s.trace("switchover %s: %s of %s to %s %s", st.ID, st.Phase, st.Master, st.Target, st.Why)
			if st.Phase == cluster.Electing {
				planned = st.Target
				t.mu.Lock()
				t.handovers++
				t.mu.Unlock()
			}
			t.s.handover(st)
		}
	}
	for _, kv := range ch.Puts {
		switch {
		case kv.Key == t.s.keys.ClusterDataKey():
			cd, err := store.DecodeClusterData(kv.Value)
			if err != nil || cd == nil {
				t.fail("cluster data can't be read: %v", err)
				return
			}
			if err := cd.Check(); err != nil {
				t.fail("cluster data is not valid: %v", err)
				return
			}
			t.newData(cd, planned)
		case strings.Contains(kv.Key, "/keepers/info/"):
			var info cluster.KeeperInfo
			if json.Unmarshal(kv.Value, &info) == nil && info.Downtime != "" {
				t.s.takesDown(info.UID)
			}
		case strings.Contains(kv.Key, "/proxies/info/"):
			var info cluster.ProxyInfo
			if json.Unmarshal(kv.Value, &info) != nil {
				continue
			}
			t.mu.Lock()
			before := t.proxies[info.UID]
			t.proxies[info.UID] = info.Generation
			t.mu.Unlock()
			if info.Generation < before {
				t.fail("I8: proxy %s published generation %d after %d", info.UID, info.Generation, before)
			}
		}
	}
}

// newData takes in cluster data; planned is the db that a switchover elects with
// it, which must hold all that anybody knows of, "" for none.
func (t *truth) newData(cd *cluster.ClusterData, planned string) {
	t.mu.Lock()
	old := t.data
	t.data = cd
	t.mu.Unlock()
	oldMaster, oldRoute := "", ""
	var before *cluster.DB
	if old != nil {
		oldMaster, oldRoute, before = old.Cluster.Status.Master, old.Proxy.Spec.MasterDBUID, old.Master()
	}
	master, route := cd.Master(), cd.Proxy.Spec.MasterDBUID
	t.s.trace("cluster data: %s", summary(cd))
	if route != "" && route != cd.Cluster.Status.Master {
		t.fail("I2: the proxies are led to %s, but %s is elected", route, cd.Cluster.Status.Master)
	}
	if master != nil && master.UID != oldMaster {
		m := mastership{at: time.Now(), db: master.UID, keeper: master.Spec.KeeperUID, sync: before != nil && before.Spec.SynchronousReplication || planned == master.UID}
		t.mu.Lock()
		t.masters = append(t.masters, m)
		if oldMaster != "" && cd.Cluster.Status.Phase == cluster.Normal {
			t.elections++
		}
		t.mu.Unlock()
		if oldMaster != "" && oldRoute != "" {
			t.fail("S2: master elected while the proxies were led to %s", oldRoute)
		}
		if oldMaster != "" && cd.Cluster.Status.Phase == cluster.Normal && t.s.quiet() && planned != master.UID {
			t.fail("I9: %s was elected although nothing had failed", m.keeper)
		}
		t.mustHold(m.keeper, m.sync, "elected")
	} else if master != nil && route != "" && route != oldRoute {
		t.mustHold(master.Spec.KeeperUID, true, "routed")
	}
	t.checkAbilities(cd)
	t.checkSync(cd)
	t.noteWaits(cd)
	if old != nil {
		t.s.occasions(old, cd)
	}
}

// checkAbilities: nobody is made what its keeper can't be.
func (t *truth) checkAbilities(cd *cluster.ClusterData) {
	master := cd.Master()
	if master == nil {
		return
	}
	if master.Spec.KeeperUID == t.s.plan.noMaster {
		t.fail("S2: %s is master, which it can't be", master.Spec.KeeperUID)
	}
	for _, uid := range master.Spec.SynchronousStandbys {
		if db := cd.DBs[uid]; db != nil && db.Spec.KeeperUID == t.s.plan.noSync {
			t.fail("S10: commits wait for %s, which can't be synchronous", db.Spec.KeeperUID)
		}
	}
}

// noteWaits follows since when no commit may be acknowledged without a standby.
func (t *truth) noteWaits(cd *cluster.ClusterData) {
	master := cd.Master()
	wait := master != nil && cd.Cluster.Status.Phase == cluster.Normal && master.Spec.SynchronousReplication &&
		len(master.Spec.SynchronousStandbys)+len(master.Spec.ExternalSynchronousStandbys) > 0
	inForce := wait && master.Status.CurrentGeneration == master.Generation
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !wait:
		t.waits = time.Time{}
	case inForce && t.waits.IsZero():
		t.waits = time.Now()
	}
}

// mustHold checks I3 and I11: the keeper's data has all that clients know of.
// Without synchronous replication an election may lose it.
func (t *truth) mustHold(keeper string, sync bool, how string) {
	inst := t.s.instance(keeper)
	t.mu.Lock()
	promised := slices.Clone(t.promised)
	t.mu.Unlock()
	var kept []promise
	for _, c := range promised {
		switch {
		case inst.Holds(c.Commit):
			kept = append(kept, c)
		case sync:
			t.fail("%s: %s is %s and misses row %d (%s), %s %s before, committed on %s", rule(c), keeper, how, c.Row, c.LSN, c.how, time.Since(c.Time), c.Host)
			return
		}
	}
	t.mu.Lock()
	t.promised = kept
	t.mu.Unlock()
}

func rule(c promise) string {
	if c.how == "read" {
		return "I11"
	}
	return "I3"
}

// checkSync checks I4: whoever could be elected holds what clients know of.
func (t *truth) checkSync(cd *cluster.ClusterData) {
	master := cd.Master()
	if master == nil || cd.Cluster.Status.Phase != cluster.Normal || !master.Spec.SynchronousReplication {
		t.checked = ""
		return
	}
	inSync := cluster.Intersect(master.Spec.SynchronousStandbys, master.Status.SynchronousStandbys)
	id := master.UID + fmt.Sprint(inSync)
	t.mu.Lock()
	same := t.checked == id
	t.checked = id
	promised := slices.Clone(t.promised)
	t.mu.Unlock()
	if same {
		return
	}
	for _, uid := range inSync {
		db := cd.DBs[uid]
		if db == nil {
			continue
		}
		for _, c := range promised {
			if inst := t.s.instance(db.Spec.KeeperUID); !inst.Holds(c.Commit) {
				t.fail("I4: %s counts as in sync and misses row %d (%s), %s, committed %s ago on %s", db.Spec.KeeperUID, c.Row, c.LSN, c.how, time.Since(c.Time), c.Host)
				return
			}
		}
	}
}

// What the clients see.

func (t *truth) acked(client string, row int64) {
	t.mu.Lock()
	c, ok := t.commits[row]
	t.acks++
	t.lastAck = time.Now()
	t.mu.Unlock()
	if !ok {
		t.fail("%s got an acknowledgement of row %d, which was never committed", client, row)
		return
	}
	t.s.trace("%s acked %d on %s", client, row, c.Host)
	t.inTime(client, c)
	t.promise(promise{c, "acknowledged"})
}

// inTime checks I1: the commit was made on who was master then.
func (t *truth) inTime(client string, c postgresqltest.Commit) {
	t.mu.Lock()
	var m mastership
	for _, x := range t.masters {
		if x.at.Before(c.Time) {
			m = x
		}
	}
	t.mu.Unlock()
	if t.s.instance(m.keeper) == nil || m.keeper != "keeper"+strings.TrimPrefix(c.Host, "10.0.0.") {
		t.fail("I1: %s got an acknowledgement of row %d, committed on %s %s after %s was elected", client, c.Row, c.Host, c.Time.Sub(m.at), m.keeper)
	}
}

func (t *truth) saw(client, host, index, serial string) {
	n, _ := strconv.Atoi(index)
	x, _ := strconv.ParseInt(serial, 10, 64)
	t.mu.Lock()
	t.reads++
	c, ok := t.bySerial[x]
	t.mu.Unlock()
	if n < 0 {
		return
	}
	if !ok {
		t.fail("%s read a row that was never committed", client)
		return
	}
	t.s.trace("%s saw %d on %s", client, c.Row, host)
	t.promise(promise{c, "read"})
}

// promise notes what a client knows of. If somebody else is master by now he
// must have it, unless an asynchronous election came in between.
func (t *truth) promise(c promise) {
	t.mu.Lock()
	cd := t.data
	m := t.masters[len(t.masters)-1]
	mayBeLost, waits := false, t.waits
	for _, x := range t.masters {
		mayBeLost = mayBeLost || x.at.After(c.Time) && !x.sync
	}
	t.mu.Unlock()
	if !t.s.instance(m.keeper).Holds(c.Commit) {
		if !mayBeLost {
			t.fail("%s: %s is master and misses row %d (%s), %s, committed %s ago on %s", rule(c), m.keeper, c.Row, c.LSN, c.how, time.Since(c.Time), c.Host)
		}
		return
	}
	t.mu.Lock()
	t.promised = append(t.promised, c)
	t.mu.Unlock()
	master := cd.Master()
	if master == nil || !master.Spec.SynchronousReplication {
		return
	}
	if c.how == "acknowledged" && !waits.IsZero() && waits.Before(c.Time) && !t.s.world.SomewhereElse(c.Commit, t.s.instance("keeper"+strings.TrimPrefix(c.Host, "10.0.0."))) {
		t.fail("K5: row %d (%s), just %s, is on %s only", c.Row, c.LSN, c.how, c.Host)
	}
	for _, uid := range cluster.Intersect(master.Spec.SynchronousStandbys, master.Status.SynchronousStandbys) {
		if db := cd.DBs[uid]; db != nil && !t.s.instance(db.Spec.KeeperUID).Holds(c.Commit) {
			t.fail("I4: %s counts as in sync and misses row %d (%s), just %s", db.Spec.KeeperUID, c.Row, c.LSN, c.how)
		}
	}
}

// final checks what must hold at the end.
func (t *truth) final() {
	if keeper := t.s.masterKeeper(); keeper != "" {
		t.mustHold(keeper, true, "master at the end")
	}
}

// summary is a line about the cluster data.
func summary(cd *cluster.ClusterData) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s master %s route %q gen %d %v", cd.Cluster.Status.Phase, cd.Cluster.Status.Master, cd.Proxy.Spec.MasterDBUID, cd.Proxy.Generation, cd.Proxy.Spec.EnabledProxies)
	for _, uid := range cluster.SortedKeys(cd.DBs) {
		db := cd.DBs[uid]
		health := ""
		if !db.Status.Healthy {
			health = " sick"
		}
		fmt.Fprintf(&b, "; %s@%s %s %d/%d%s", uid, db.Spec.KeeperUID, db.Spec.Role, db.Status.CurrentGeneration, db.Generation, health)
		if db.Spec.SynchronousReplication {
			fmt.Fprintf(&b, " sync %v%v known %v", db.Spec.SynchronousStandbys, db.Spec.ExternalSynchronousStandbys, db.Status.SynchronousStandbys)
		}
	}
	return b.String()
}
