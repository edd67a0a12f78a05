package sim

import (
	"context"
	"fmt"
	"time"

	"stolon/internal/cluster"
	"stolon/internal/store"
)

// The profile "doubts" is for the rules that only matter when several things
// come together, each of which a search finds rarely: all but one of the signs
// of a death, a switchover in which somebody is missing. Its faults come one
// after the other, each by itself, and what must come of each is known.

// A doubt is one of them. It returns once it is undone.
type doubt struct {
	name string
	fits func(*plan) bool // nil: always
	do   func(*nemesis)
}

// quiet: nothing in the run is a reason to elect anybody, unless an operator or
// a doubt says so (I9).
func (s *sim) quiet() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return (s.plan.profile == "calm" || s.plan.profile == "doubts") && !s.elects
}

// expectElection lets somebody be elected until the returned function is called.
func (s *sim) expectElection() (end func()) {
	set := func(x bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.elects = x
	}
	set(true)
	return func() { set(false) }
}

// doubtful plays doubts until the time is over, with the cluster whole before
// each.
func (n *nemesis) doubtful() {
	s := n.s
	var some []doubt
	for _, d := range doubts {
		if (s.plan.only == "" || s.plan.only == d.name) && (d.fits == nil || d.fits(&s.plan)) {
			some = append(some, d)
		}
	}
	for until := time.Now().Add(s.plan.faults); time.Now().Before(until) && !s.truth.failed() && len(some) > 0; {
		d := some[n.dice.intN(len(some))]
		s.trace("doubt: %s", d.name)
		d.do(n)
		why := ""
		if !s.await(s.plan.heal, func() bool { why = s.complete(); return why == "" }) {
			s.truth.fail("I10: not whole %s after the doubt %q: %s", s.plan.heal, d.name, why)
		}
		s.sleep(n.dice.between(time.Second, 3*time.Second)) // nobody suspects anybody any more
	}
}

// short is well below what counts as silence, with the time between two signs
// of life added.
func (n *nemesis) short() time.Duration {
	set := n.s.plan.settings.Settings()
	return n.dice.between(set.FailInterval.Duration*2/5, set.FailInterval.Duration*11/20)
}

// master is the process of the master's keeper.
func (n *nemesis) master() *proc { return n.s.proc(n.s.masterKeeper()) }

// towards are the pairs of a host with all processes of those kinds but its
// own keeper.
func (n *nemesis) towards(p *proc, kinds ...string) (pairs [][2]string) {
	for _, kind := range kinds {
		for _, name := range n.s.names(kind) {
			if name != p.name {
				pairs = append(pairs, pair(name, host(p.n)))
			}
		}
	}
	return pairs
}

// knock connects to each proxy as a new client, which makes it dial the master.
func (n *nemesis) knock() {
	for _, name := range n.s.names("proxy") {
		n.wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			c, err := n.s.network.dial(ctx, nil, "knocker", name, name+":"+proxyPort)
			if err == nil {
				n.s.sleep(time.Second)
				c.Close()
			}
		})
	}
}

var doubts = []doubt{
	{"clients hear of the master", func(p *plan) bool { return !p.sync }, func(n *nemesis) {
		// A firewall rejects who comes, and lets stay who is there; the standbys
		// have lost it and its keeper says nothing.
		p := n.master()
		if !n.s.await(5*time.Second, func() bool { return len(n.s.network.served(host(p.n))) == n.s.plan.clients }) {
			return
		}
		open := n.s.network.reject(n.towards(p, "proxy", "sentinel", "keeper")...)
		n.s.instances[p.n-1].RejectStandbys(true)
		for m, i := range n.s.instances {
			if m != p.n-1 {
				i.LoseMaster()
			}
		}
		p.pause()
		n.knock()
		n.s.sleep(n.short())
		p.cont()
		n.s.instances[p.n-1].RejectStandbys(false)
		open()
	}},
	// A keeper of 0.17 does not say whether its standby streams.
	{"standbys stream from the master", func(p *plan) bool { return p.old == "" }, func(n *nemesis) {
		p := n.master()
		open := n.s.network.reject(n.towards(p, "proxy", "sentinel", "keeper")...)
		n.s.network.resetAll(host(p.n))
		p.pause()
		n.s.sleep(n.short())
		p.cont()
		open()
	}},
	{"the store is away while postgres starts", nil, func(n *nemesis) {
		// It goes away in the instant that its keeper is asked for a sign of life.
		p := n.master()
		c := make(chan struct{}, 1)
		n.s.mu.Lock()
		n.s.pinged = c
		n.s.mu.Unlock()
		p.startLate(n.dice.between(1500*time.Millisecond, 2*time.Second))
		n.s.instances[p.n-1].Kill(true)
		n.knock()
		asked := time.NewTimer(time.Second)
		defer asked.Stop()
		select {
		case <-c:
		case <-asked.C:
		case <-n.s.over.Done():
		}
		first := n.cut("keeper from store", pair(p.name, "store"))
		n.s.sleep(6 * time.Millisecond) // the sentinel hears that it has asked
		rest := n.storeAway()
		n.s.sleep(n.dice.between(500*time.Millisecond, 900*time.Millisecond))
		rest()
		n.s.sleep(n.dice.between(time.Millisecond, 150*time.Millisecond))
		first()
		p.startLate(0)
	}},
	{"the keeper is paused while it restarts postgres", nil, func(n *nemesis) {
		c := make(chan string, 16)
		n.s.mu.Lock()
		n.s.downtimes = c
		n.s.mu.Unlock()
		k := 100 + n.dice.intN(50)
		n.s.operator(fmt.Sprintf("max_connections %d, restarts allowed", k), func(cd *cluster.ClusterData) {
			yes := true
			cd.Cluster.Spec.AutomaticPgRestart, cd.Cluster.Spec.PGParameters = &yes, map[string]string{"max_connections": fmt.Sprint(k)}
		})
		after, late := n.dice.between(time.Millisecond, 200*time.Millisecond), n.short()
		p := n.master()
		for limit := time.NewTimer(20 * time.Second); ; {
			select {
			case who := <-c:
				if who != p.name {
					continue
				}
				n.s.sleep(after)
				p.pause()
				n.s.trace("fault: pause %s for %s", p.id, late)
				n.knock()
				n.s.sleep(late)
				p.cont()
			case <-limit.C: // the value was the same
			case <-n.s.over.Done():
			}
			limit.Stop()
			return
		}
	}},
	{"the keeper is stopped and comes back", nil, func(n *nemesis) {
		p := n.master()
		p.stop()
		<-p.done
		n.knock()
		n.s.sleep(n.short())
		n.s.boot(p.name)
	}},
	{"postgres does not start any more", func(p *plan) bool { return p.keepers > 2 && p.noMaster == "" && p.old == "" }, func(n *nemesis) {
		p := n.master()
		defer n.s.expectElection()()
		i := n.s.instances[p.n-1]
		i.BreakStart(true)
		i.Kill(true)
		// S13: there is nothing to wait for, so that it takes much less than
		// FailInterval.
		limit := n.s.plan.settings.Settings().FailInterval.Duration
		if !n.s.await(limit, func() bool { return n.s.masterKeeper() != p.name }) {
			n.s.truth.fail("S13: %s says that its postgres does not start, and nobody else was elected in %s", p.name, limit)
		}
		i.BreakStart(false)
	}},
	{"a switchover beside a standby that is stuck", func(p *plan) bool { return p.keepers > 2 && p.noMaster == "" && p.noSync == "" && p.old == "" }, func(n *nemesis) {
		p := n.master()
		var target, stuck *proc
		for _, name := range n.s.names("keeper") {
			switch q := n.s.proc(name); {
			case q.n == p.n:
			case target == nil && (!n.s.plan.sync || n.s.inSync(name)):
				target = q
			default:
				stuck = q
			}
		}
		if target == nil || stuck == nil {
			return
		}
		thaw := n.s.instances[stuck.n-1].Freeze()
		n.s.trace("fault: freeze the postgres of %s", stuck.name)
		n.s.sleep(n.dice.between(100*time.Millisecond, time.Second))
		n.s.switchoverTo(target.name)
		// W3: the old master's stop doesn't wait for the standby.
		limit := 8 * time.Second
		if !n.s.await(limit, func() bool { return n.s.masterKeeper() == target.name }) && n.s.complete() == "" {
			n.s.truth.fail("W3: no switchover to %s in %s beside the stuck %s", target.name, limit, stuck.name)
		}
		thaw()
	}},
	{"the sentinels die in a switchover", nil, func(n *nemesis) {
		p := n.master()
		defer n.s.expectElection()() // here a session lasts longer than FailInterval
		c := make(chan occasion, 1)
		n.s.mu.Lock()
		n.s.stopping = c
		n.s.mu.Unlock()
		n.s.switchoverTo("")
		limit := time.NewTimer(5 * time.Second)
		defer limit.Stop()
		select {
		case <-c:
		case <-limit.C: // it was refused
			return
		case <-n.s.over.Done():
			return
		}
		n.s.sleep(n.dice.between(time.Millisecond, 50*time.Millisecond))
		for _, name := range n.s.names("sentinel") {
			n.s.proc(name).kill()
		}
		n.s.trace("fault: kill the sentinels")
		i := n.s.instances[p.n-1]
		n.s.await(3*time.Second, func() bool { return !i.State().Running })
		// W2: with its leader's session the switchover ends, and the master starts
		// again, long before somebody of 0.17 would elect another.
		within := 9 * time.Second // 5 of the session, 1, and a slow start
		if !n.s.await(within, func() bool {
			st := i.State()
			return st.Primary && st.Ready || n.s.masterKeeper() != p.name // it came first
		}) {
			n.s.truth.fail("W2: %s, stopped for a switchover that nobody leads any more, does not run again in %s", p.name, within)
		}
		for _, name := range n.s.names("sentinel") {
			n.revive(name)
		}
	}},
	{"a proxy is on its own", nil, func(n *nemesis) {
		// It has lost the store, as the master's keeper has a little longer, and
		// goes on leading to the master until its own time is over.
		p, px := n.master(), n.pick("proxy")
		defer n.s.expectElection()()
		set := n.s.plan.settings.Settings()
		first := n.cut("keeper from store", pair(p.name, "store"))
		n.s.sleep(set.FailInterval.Duration - n.dice.between(0, set.ProxyTimeout.Duration/2))
		second := n.cut("proxy from store", pair(px.name, "store"))
		n.s.sleep(10 * time.Millisecond) // what was on its way has arrived
		if n.dice.chance(60) {
			n.deleteKey(px)
		}
		n.s.await(2*set.FailInterval.Duration, func() bool { return n.s.masterKeeper() != p.name })
		n.s.sleep(set.ProxyTimeout.Duration)
		second()
		first()
	}},
	{"a partition of two", nil, func(n *nemesis) {
		p, q := n.master(), n.pick("keeper")
		px, st := n.pick("proxy"), n.pick("sentinel")
		pairs := [][2]string{
			pair(p.name, "store"), pair(q.name, "store"), pair(px.name, "store"), pair(st.name, "store"),
			pair(px.name, host(p.n)), pair(st.name, host(p.n)), pair(st.name, host(q.n)), pair(q.name, host(p.n)), pair(host(p.n), host(q.n)),
		}
		heal := n.cut("two", pairs[n.dice.intN(len(pairs))])
		n.s.sleep(n.short())
		heal()
	}},
	{"the store is slow", nil, func(n *nemesis) {
		d := n.dice.between(20*time.Millisecond, 400*time.Millisecond)
		n.badly(n.dice.chance(50), func(w *weather) { w.steady = d }, func(w *weather) { w.steady = 0 })
	}},
	{"the store fails", nil, func(n *nemesis) {
		// Where it fails a keeper whose postgres is down, and not the sentinel, that
		// keeper can't be told from a dead one.
		x, all := 20+n.dice.next()%80, n.dice.chance(40)
		if all {
			x = 100
		}
		n.badly(all && n.dice.chance(70), func(w *weather) { w.fail = x }, func(w *weather) { w.fail = 0 })
	}},
	{"a pause", nil, func(n *nemesis) {
		p := n.master()
		thaw := func() {}
		if n.dice.chance(50) {
			thaw = n.s.instances[p.n-1].Freeze()
		}
		p.pause()
		n.s.trace("fault: pause %s", p.id)
		n.s.sleep(n.short())
		p.cont()
		thaw()
	}},
	{"postgres or its keeper is killed", nil, func(n *nemesis) {
		p := n.master()
		if n.dice.chance(50) {
			// Its start may take longer than the keeper has for its answer.
			p.startLate(n.dice.between(0, 1500*time.Millisecond))
			n.s.instances[p.n-1].Kill(n.dice.chance(50))
			n.knock()
			n.s.sleep(2 * time.Second)
			p.startLate(0)
			return
		}
		p.kill()
		n.s.trace("fault: kill %s", p.id)
		<-p.done
		n.s.sleep(n.short())
		n.s.boot(p.name)
	}},
}

// deleteKey deletes what a proxy says of itself, as an operator may, or Consul.
func (n *nemesis) deleteKey(px *proc) {
	uid := fmt.Sprintf("%08x", uint32(px.dice.of("uid").at(1)))
	n.s.trace("operator: delete the key of proxy %s", uid)
	c := n.s.server.Client("operator", nil)
	if _, err := c.Commit(context.Background(), nil, []store.Op{{Key: n.s.keys.ProxyKey(uid), Delete: true}}); err != nil {
		n.s.truth.fail("operator: delete a proxy's key: %v", err)
	}
	_ = c.Close()
}

// badly lets the store be bad for a while, if so wanted while postgres is
// restarted.
func (n *nemesis) badly(kill bool, begin, end func(*weather)) {
	n.s.setWeather(begin)
	n.s.trace("fault: weather %+v", n.s.weather())
	if kill {
		n.s.instances[n.master().n-1].Kill(true)
		n.knock()
	}
	n.s.sleep(n.dice.between(500*time.Millisecond, 2*time.Second))
	n.s.setWeather(end)
}

func (n *nemesis) storeAway() func() {
	var pairs [][2]string
	for _, kind := range []string{"keeper", "sentinel", "proxy"} {
		for _, name := range n.s.names(kind) {
			pairs = append(pairs, pair(name, "store"))
		}
	}
	return n.cut("store from all", pairs...)
}

// inSync: the keeper's db is known to be a synchronous standby.
func (s *sim) inSync(keeper string) bool {
	cd := s.truth.clusterData()
	if cd == nil || cd.Master() == nil {
		return false
	}
	for _, uid := range cluster.Intersect(cd.Master().Spec.SynchronousStandbys, cd.Master().Status.SynchronousStandbys) {
		if db := cd.DBs[uid]; db != nil && db.Spec.KeeperUID == keeper {
			return true
		}
	}
	return false
}

// reject has connections between pairs be refused, and lets those be that are
// there, until the returned function is called.
func (n *network) reject(pairs ...[2]string) (open func()) {
	n.s.trace("fault: reject %v", pairs)
	add := func(d int) {
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, p := range pairs {
			n.rejects[p] += d
		}
	}
	add(1)
	return func() { n.s.trace("undo: reject %v", pairs); add(-1) }
}

// served are the ends of connections on the side of the instance of a host.
func (n *network) served(host string) (conns []*conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		if c.node == host && c.owner == nil {
			conns = append(conns, c)
		}
	}
	return conns
}

// resetAll ends the connections of proxies with a host.
func (n *network) resetAll(host string) {
	for _, c := range n.served(host) {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
}

// startLate makes each start of the process's instance take so much longer.
func (p *proc) startLate(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late = d
}

func (p *proc) lateness() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.late
}
