package sim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"stolon/internal/cluster"
	"stolon/internal/store"
)

// nemesis is the source of faults.
type nemesis struct {
	s    *sim
	dice dice
	over chan struct{} // closed when all faults shall end
	wg   sync.WaitGroup
}

// fault does something bad; it returns how to undo it and when.
type fault struct {
	name   string
	weight map[string]int // by profile
	do     func(n *nemesis) (undo func(), after time.Duration)
}

// nemesis lets faults happen for as long as planned, then ends them all.
func (s *sim) nemesis() {
	n := &nemesis{s: s, dice: s.dice.of("nemesis"), over: make(chan struct{})}
	total := 0
	for _, f := range faults {
		total += f.weight[s.plan.profile]
	}
	longest := s.plan.settings.Settings().FailInterval.Duration
	if s.plan.profile == "doubts" {
		n.doubtful()
		total = 0
	}
	for until := time.Now().Add(s.plan.faults); total > 0 && time.Now().Before(until) && !s.truth.failed(); {
		gap := n.dice.between(100*time.Millisecond, longest)
		if n.dice.chance(30) {
			gap = n.dice.between(time.Millisecond, 300*time.Millisecond) // trouble comes in twos
		}
		if s.plan.profile == "calm" {
			gap = n.dice.between(2*longest, 3*longest)
		}
		s.sleep(gap)
		x := n.dice.intN(total)
		for _, f := range faults {
			if x -= f.weight[s.plan.profile]; x < 0 {
				n.inflict(f)
				break
			}
		}
	}
	close(n.over)
	n.wg.Wait()
	s.setWeather(func(w *weather) { *w = weather{} })
	for _, name := range append(append(s.names("keeper"), s.names("sentinel")...), s.names("proxy")...) {
		n.revive(name)
	}
	n.wg.Wait()
}

func (n *nemesis) inflict(f fault) {
	undo, after := f.do(n)
	if undo == nil {
		return
	}
	late := n.dice.between(time.Millisecond, 500*time.Millisecond)
	n.wg.Go(func() {
		t := time.NewTimer(after)
		defer t.Stop()
		select {
		case <-t.C:
		case <-n.over:
			n.s.sleep(late)
		}
		undo()
	})
}

// revive starts a process again once it has ended.
func (n *nemesis) revive(name string) {
	p := n.s.proc(name)
	if !p.dead() {
		return
	}
	wait := n.dice.between(time.Millisecond, 300*time.Millisecond)
	n.wg.Go(func() {
		<-p.done
		n.s.sleep(wait)
		n.s.boot(name)
	})
}

// pick chooses a process of the kind, of keepers rather the master's.
func (n *nemesis) pick(kind string) *proc {
	if m := n.s.masterKeeper(); kind == "keeper" && m != "" && n.dice.chance(55) {
		return n.s.proc(m)
	}
	names := n.s.names(kind)
	return n.s.proc(names[n.dice.intN(len(names))])
}

// brief is short of what counts as a failure.
func (n *nemesis) brief() time.Duration {
	set := n.s.plan.settings.Settings()
	return n.dice.between(10*time.Millisecond, set.FailInterval.Duration*2/3)
}

// lasting is from a moment to longer than anything waits.
func (n *nemesis) lasting() time.Duration {
	set := n.s.plan.settings.Settings()
	if n.dice.chance(40) {
		return n.brief()
	}
	return n.dice.between(set.FailInterval.Duration/2, 4*set.FailInterval.Duration)
}

func (n *nemesis) length() time.Duration {
	if n.s.plan.profile == "calm" {
		return n.brief()
	}
	return n.lasting()
}

func (n *nemesis) reboot(p *proc) func() {
	return func() {
		<-p.done
		n.s.trace("undo: start %s", p.name)
		n.s.boot(p.name)
	}
}

// An occasion is a change of the cluster data in whose wake a fault hurts most.
type occasion struct {
	what        string
	keeper, was string // of the master now and before
}

// occasions tells those who wait.
func (s *sim) occasions(old, cd *cluster.ClusterData) {
	master, before := cd.Master(), old.Master()
	if master == nil || before == nil || cd.Cluster.Status.Phase != cluster.Normal {
		return
	}
	o := occasion{keeper: master.Spec.KeeperUID, was: before.Spec.KeeperUID}
	switch {
	case master.UID != before.UID:
		o.what = "elected"
	case cd.Proxy.Spec.MasterDBUID != old.Proxy.Spec.MasterDBUID && cd.Proxy.Spec.MasterDBUID == "":
		o.what = "cut"
	case cd.Proxy.Spec.MasterDBUID != old.Proxy.Spec.MasterDBUID:
		o.what = "routed"
	case !cluster.SameSet(master.Spec.SynchronousStandbys, before.Spec.SynchronousStandbys):
		o.what = "list"
	case !cluster.SameSet(master.Status.SynchronousStandbys, before.Status.SynchronousStandbys):
		o.what = "known"
	default:
		return
	}
	s.occur(o)
}

// handover tells those who wait of a step of a switchover.
func (s *sim) handover(st cluster.Switchover) {
	cd := s.truth.clusterData()
	if cd == nil || cd.DBs[st.Master] == nil || cd.DBs[st.Target] == nil {
		return
	}
	s.mu.Lock()
	c := s.stopping
	if c != nil && st.Phase == cluster.Stopping {
		s.stopping = nil
		c <- occasion{}
	}
	s.mu.Unlock()
	s.occur(occasion{what: "to take over: " + string(st.Phase), keeper: cd.DBs[st.Target].Spec.KeeperUID, was: cd.DBs[st.Master].Spec.KeeperUID})
}

func (s *sim) occur(o occasion) {
	s.mu.Lock()
	waiting := s.ambushes
	s.ambushes = nil
	s.mu.Unlock()
	for _, c := range waiting {
		c <- o
	}
}

// ambush waits for an occasion, and then does something bad to those whom it
// concerns.
func (n *nemesis) ambush() {
	s := n.s
	c := make(chan occasion, 1)
	s.mu.Lock()
	s.ambushes = append(s.ambushes, c)
	s.mu.Unlock()
	after, x, d := n.dice.between(100*time.Microsecond, 5*time.Millisecond), n.dice.intN(7), n.lasting()
	if x != 6 && n.dice.chance(50) {
		after = n.dice.between(time.Millisecond, 1500*time.Millisecond)
	}
	old, later := x != 6 && n.dice.chance(30), n.dice.between(20*time.Millisecond, 2*time.Second)
	n.wg.Go(func() {
		var o occasion
		select {
		case o = <-c:
		case <-n.over:
			return
		}
		victim := o.keeper
		if old {
			victim = o.was
		}
		p := s.proc(victim)
		t := time.NewTimer(after)
		defer t.Stop()
		select {
		case <-t.C:
		case <-n.over:
			return
		}
		i := s.instances[p.n-1]
		s.trace("fault: ambush %d on %s, %s after %s was %s", x, p.id, after, o.keeper, o.what)
		undo := func() {}
		switch x {
		case 0:
			undo = n.cut("keeper from store", pair(victim, "store"))
		case 1:
			p.kill()
			i.Kill(true)
			undo = n.reboot(p)
		case 2:
			p.pause()
			undo = p.cont
		case 3:
			var pairs [][2]string
			for _, other := range s.names("keeper") {
				if q := s.proc(other); q.n != p.n {
					pairs = append(pairs, pair(host(p.n), host(q.n)))
				}
			}
			undo = n.cut("postgres from all", pairs...)
		case 4:
			undo = i.Freeze()
		case 5:
			i.Kill(false)
		case 6:
			// It does what it was told, and nobody hears of it.
			heal := n.cut("keeper from store", pair(victim, "store"))
			s.sleep(later)
			s.trace("fault: then kill %s", p.id)
			p.kill()
			i.Kill(true)
			reboot := n.reboot(p)
			undo = func() { heal(); reboot() }
		}
		t.Reset(d)
		select {
		case <-t.C:
		case <-n.over:
			s.sleep(after)
		}
		s.trace("undo: ambush on %s", victim)
		undo()
	})
}

var faults []fault

func init() {
	all := func(w int) map[string]int {
		return map[string]int{"mixed": w, "crashes": w, "partitions": w, "calm": w}
	}
	wild := func(mixed, crashes, partitions int) map[string]int {
		return map[string]int{"mixed": mixed, "crashes": crashes, "partitions": partitions}
	}
	faults = []fault{
		{"kill host", map[string]int{"mixed": 6, "crashes": 14, "partitions": 3, "ambushes": 6}, func(n *nemesis) (func(), time.Duration) {
			p := n.pick("keeper")
			n.s.trace("fault: kill %s and its postgres", p.id)
			p.kill()
			n.s.instances[p.n-1].Kill(true)
			return n.reboot(p), n.lasting()
		}},
		{"kill keeper and postmaster", wild(3, 8, 1), func(n *nemesis) (func(), time.Duration) {
			p := n.pick("keeper")
			n.s.trace("fault: kill %s and its postmaster", p.id)
			p.kill()
			n.s.instances[p.n-1].Kill(false)
			return n.reboot(p), n.lasting()
		}},
		{"kill postgres", map[string]int{"mixed": 4, "crashes": 8, "partitions": 2, "calm": 6}, func(n *nemesis) (func(), time.Duration) {
			p := n.pick("keeper")
			n.s.trace("fault: kill the postgres of %s", p.name)
			n.s.instances[p.n-1].Kill(n.dice.chance(50))
			return nil, 0
		}},
		{"kill keeper", all(5), func(n *nemesis) (func(), time.Duration) {
			p := n.pick("keeper")
			n.s.trace("fault: kill %s", p.id)
			p.kill()
			return n.reboot(p), n.length()
		}},
		{"stop keeper", wild(4, 4, 2), func(n *nemesis) (func(), time.Duration) {
			p := n.pick("keeper")
			n.s.trace("fault: stop %s", p.id)
			p.stop()
			return n.reboot(p), n.lasting()
		}},
		{"pause keeper", all(5), func(n *nemesis) (func(), time.Duration) {
			p := n.pick("keeper")
			d := n.length()
			n.s.trace("fault: pause %s for %s", p.id, d)
			p.pause()
			return func() { n.s.trace("undo: pause %s", p.id); p.cont() }, d
		}},
		{"freeze postgres", all(4), func(n *nemesis) (func(), time.Duration) {
			p := n.pick("keeper")
			d := n.length()
			n.s.trace("fault: freeze the postgres of %s for %s", p.name, d)
			thaw := n.s.instances[p.n-1].Freeze()
			return func() { n.s.trace("undo: freeze %s", p.name); thaw() }, d
		}},
		{"freeze host", all(4), func(n *nemesis) (func(), time.Duration) {
			p := n.pick("keeper")
			d := n.length()
			n.s.trace("fault: freeze %s and its postgres for %s", p.id, d)
			p.pause()
			thaw := n.s.instances[p.n-1].Freeze()
			return func() { n.s.trace("undo: freeze %s", p.id); p.cont(); thaw() }, d
		}},
		{"postgres does not start", wild(2, 4, 1), func(n *nemesis) (func(), time.Duration) {
			p := n.pick("keeper")
			d := n.lasting()
			n.s.trace("fault: the postgres of %s ends and does not start for %s", p.name, d)
			i := n.s.instances[p.n-1]
			i.BreakStart(true)
			i.Kill(true)
			return func() { n.s.trace("undo: no start of %s", p.name); i.BreakStart(false) }, d
		}},
		{"kill sentinel", all(3), func(n *nemesis) (func(), time.Duration) {
			p := n.pick("sentinel")
			n.s.trace("fault: kill %s", p.id)
			p.kill()
			return n.reboot(p), n.length()
		}},
		{"stop sentinel", all(2), func(n *nemesis) (func(), time.Duration) {
			p := n.pick("sentinel")
			n.s.trace("fault: stop %s", p.id)
			p.stop()
			return n.reboot(p), n.length()
		}},
		{"pause sentinel", all(4), func(n *nemesis) (func(), time.Duration) {
			p := n.pick("sentinel")
			d := n.lasting()
			n.s.trace("fault: pause %s for %s", p.id, d)
			p.pause()
			return func() { n.s.trace("undo: pause %s", p.id); p.cont() }, d
		}},
		{"kill proxy", all(3), func(n *nemesis) (func(), time.Duration) {
			p := n.pick("proxy")
			n.s.trace("fault: kill %s", p.id)
			p.kill()
			return n.reboot(p), n.length()
		}},
		{"stop proxy", all(2), func(n *nemesis) (func(), time.Duration) {
			p := n.pick("proxy")
			n.s.trace("fault: stop %s", p.id)
			p.stop()
			return n.reboot(p), n.length()
		}},
		{"pause proxy", all(6), func(n *nemesis) (func(), time.Duration) {
			p := n.pick("proxy")
			d := n.lasting()
			n.s.trace("fault: pause %s for %s", p.id, d)
			p.pause()
			return func() { n.s.trace("undo: pause %s", p.id); p.cont() }, d
		}},
		{"cut proxy from store", all(4), func(n *nemesis) (func(), time.Duration) {
			return n.cut("proxy from store", pair(n.pick("proxy").name, "store")), n.lasting()
		}},
		{"cut sentinel from store", all(3), func(n *nemesis) (func(), time.Duration) {
			return n.cut("sentinel from store", pair(n.pick("sentinel").name, "store")), n.lasting()
		}},
		{"cut keeper from store", map[string]int{"mixed": 5, "crashes": 2, "partitions": 8, "ambushes": 4, "slow proxies": 40}, func(n *nemesis) (func(), time.Duration) {
			return n.cut("keeper from store", pair(n.pick("keeper").name, "store")), n.lasting()
		}},
		{"cut postgres from postgres", map[string]int{"mixed": 4, "crashes": 2, "partitions": 8, "calm": 3}, func(n *nemesis) (func(), time.Duration) {
			a, b := n.pick("keeper"), n.pick("keeper")
			return n.cut("postgres from postgres", pair(host(a.n), host(b.n))), n.lasting()
		}},
		{"cut proxy from postgres", map[string]int{"mixed": 3, "crashes": 1, "partitions": 6, "calm": 3}, func(n *nemesis) (func(), time.Duration) {
			return n.cut("proxy from postgres", pair(n.pick("proxy").name, host(n.pick("keeper").n))), n.lasting()
		}},
		{"cut client from proxy", all(1), func(n *nemesis) (func(), time.Duration) {
			return n.cut("client from proxy", pair(fmt.Sprintf("client%d", 1+n.dice.intN(n.s.plan.clients)), n.pick("proxy").name)), n.lasting()
		}},
		{"isolate host", wild(4, 3, 8), func(n *nemesis) (func(), time.Duration) {
			p := n.pick("keeper")
			pairs := [][2]string{pair(p.name, "store")}
			for _, other := range n.s.names("keeper") {
				if q := n.s.proc(other); q.n != p.n {
					pairs = append(pairs, pair(host(p.n), host(q.n)))
				}
			}
			// A proxy on the same host, or on the same side, still reaches it.
			for _, px := range n.s.names("proxy") {
				if n.dice.chance(60) {
					pairs = append(pairs, pair(px, host(p.n)))
				} else if n.dice.chance(60) {
					pairs = append(pairs, pair(px, "store"))
				}
			}
			return n.cut("host", pairs...), n.lasting()
		}},
		{"isolate host with its proxy", map[string]int{"mixed": 4, "crashes": 2, "partitions": 8}, func(n *nemesis) (func(), time.Duration) {
			p, px := n.pick("keeper"), n.pick("proxy")
			pairs := [][2]string{pair(p.name, "store"), pair(px.name, "store")}
			return n.cut("keeper and proxy from store", pairs...), n.lasting()
		}},
		{"store away", all(4), func(n *nemesis) (func(), time.Duration) {
			var pairs [][2]string
			for _, kind := range []string{"keeper", "sentinel", "proxy"} {
				for _, name := range n.s.names(kind) {
					pairs = append(pairs, pair(name, "store"))
				}
			}
			return n.cut("store from all", pairs...), n.lasting()
		}},
		{"store slow", map[string]int{"mixed": 3, "crashes": 2, "partitions": 3, "slow proxies": 30}, func(n *nemesis) (func(), time.Duration) {
			d := n.dice.between(100*time.Millisecond, 6*time.Second)
			n.s.trace("fault: store slow by %s", d)
			n.s.setWeather(func(w *weather) { w.slow = d })
			return func() { n.s.trace("undo: store slow"); n.s.setWeather(func(w *weather) { w.slow = 0 }) }, n.lasting()
		}},
		{"store loses messages", wild(3, 2, 3), func(n *nemesis) (func(), time.Duration) {
			x := 2 + n.dice.next()%30
			n.s.trace("fault: store loses %d%%", x)
			n.s.setWeather(func(w *weather) { w.lose = x })
			return func() { n.s.trace("undo: store loses"); n.s.setWeather(func(w *weather) { w.lose = 0 }) }, n.lasting()
		}},
		{"watches lag", map[string]int{"mixed": 5, "crashes": 5, "partitions": 5, "calm": 5, "slow proxies": 30}, func(n *nemesis) (func(), time.Duration) {
			d := n.dice.between(10*time.Millisecond, 4*time.Second)
			if n.s.plan.profile == "calm" {
				d = n.dice.between(10*time.Millisecond, 1500*time.Millisecond)
			}
			n.s.trace("fault: watches lag by %s", d)
			n.s.setWeather(func(w *weather) { w.lag = d })
			return func() { n.s.trace("undo: watches lag"); n.s.setWeather(func(w *weather) { w.lag = 0 }) }, 3 * n.lasting()
		}},
		{"watches break", all(4), func(n *nemesis) (func(), time.Duration) {
			x := 5 + n.dice.next()%60
			n.s.trace("fault: %d%% of events break the watch", x)
			n.s.setWeather(func(w *weather) { w.breakWatch = x })
			return func() { n.s.trace("undo: watches break"); n.s.setWeather(func(w *weather) { w.breakWatch = 0 }) }, 3 * n.lasting()
		}},
		{"leases end", wild(1, 1, 1), func(n *nemesis) (func(), time.Duration) {
			n.s.trace("fault: every lease ends")
			n.s.server.ExpireAll()
			return nil, 0
		}},
		{"ambush", map[string]int{"mixed": 14, "crashes": 12, "partitions": 14, "ambushes": 20}, func(n *nemesis) (func(), time.Duration) {
			n.ambush()
			return nil, 0
		}},
		{"failkeeper", map[string]int{"mixed": 3, "crashes": 3, "partitions": 2, "slow proxies": 15, "ambushes": 8}, func(n *nemesis) (func(), time.Duration) {
			name := n.pick("keeper").name
			n.s.operator("failkeeper "+name, func(cd *cluster.ClusterData) {
				if k := cd.Keepers[name]; k != nil {
					k.Status.ForceFail = true
				}
			})
			return nil, 0
		}},
		{"switchover", map[string]int{"mixed": 6, "crashes": 6, "partitions": 6, "ambushes": 20, "calm": 8}, func(n *nemesis) (func(), time.Duration) {
			n.s.switchover(n.dice)
			return nil, 0
		}},
		{"change the spec", map[string]int{"mixed": 5, "crashes": 3, "partitions": 3, "calm": 4}, func(n *nemesis) (func(), time.Duration) {
			n.changeSpec()
			return nil, 0
		}},
	}
}

func (n *nemesis) cut(what string, pairs ...[2]string) func() {
	n.s.trace("fault: cut %s: %v", what, pairs)
	heal := n.s.network.cut(pairs...)
	return func() { n.s.trace("undo: cut %s: %v", what, pairs); heal() }
}

// asks tells who waits for it that a keeper is asked for a sign of life.
func (s *sim) asks() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.pinged <- struct{}{}:
		s.pinged = nil
	default:
	}
}

// takesDown tells who waits for it that a keeper takes its instance down.
func (s *sim) takesDown(keeper string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.downtimes <- keeper:
	default:
	}
}

// operator edits the cluster data as stolonctl does.
func (s *sim) operator(what string, edit func(*cluster.ClusterData)) {
	s.trace("operator: %s", what)
	c := s.server.Client("operator", nil)
	defer c.Close()
	err := store.NewClient(c, "sim", "c").Update(context.Background(), func(cd *cluster.ClusterData) error {
		edit(cd)
		return nil
	})
	if err != nil {
		s.truth.fail("operator: %s: %v", what, err)
	}
}

// switchover asks for one as stolonctl does, unless one is asked for already.
func (s *sim) switchover(d dice) {
	cd := s.truth.clusterData()
	if cd == nil || cd.Master() == nil {
		return
	}
	req := cluster.SwitchoverRequest{
		ID: fmt.Sprintf("%08x", uint32(d.of("switchover").at(uint64(time.Since(s.start))))), ClusterUID: cd.Cluster.UID, Master: cd.Master().UID,
		Timeout: time.Duration(1+d.of("timeout").at(uint64(time.Since(s.start)))%10) * time.Second, Force: d.of("force").at(uint64(time.Since(s.start)))%4 == 0,
	}
	if names := s.names("keeper"); d.of("to").at(uint64(time.Since(s.start)))%2 == 0 {
		req.Target = names[d.of("whom").at(uint64(time.Since(s.start)))%uint64(len(names))]
	}
	s.ask(req)
}

// switchoverTo asks for one to that keeper, "" to any.
func (s *sim) switchoverTo(target string) {
	cd := s.truth.clusterData()
	if cd == nil || cd.Master() == nil {
		return
	}
	s.ask(cluster.SwitchoverRequest{
		ID: fmt.Sprintf("%08x", uint32(s.dice.of("switchover to").at(uint64(time.Since(s.start))))), ClusterUID: cd.Cluster.UID, Master: cd.Master().UID,
		Target: target, Timeout: 5 * time.Second,
	})
}

func (s *sim) ask(req cluster.SwitchoverRequest) {
	s.trace("operator: switchover %s to %q", req.ID, req.Target)
	c := s.server.Client("operator", nil)
	defer c.Close()
	err := store.NewClient(c, "sim", "c").RequestSwitchover(context.Background(), req)
	if err != nil && !errors.Is(err, store.ErrSwitchover) {
		s.truth.fail("operator: switchover: %v", err)
	}
}

func (n *nemesis) changeSpec() {
	small := func(k int) *uint16 { x := uint16(k); return &x }
	switch n.dice.intN(5) {
	case 0:
		on := n.dice.chance(60)
		n.s.operator(fmt.Sprintf("synchronousReplication %t", on), func(cd *cluster.ClusterData) { cd.Cluster.Spec.SynchronousReplication = &on })
	case 1:
		least := n.dice.intN(2)
		most := max(1, least+n.dice.intN(2))
		n.s.operator(fmt.Sprintf("synchronous standbys %d to %d", least, most), func(cd *cluster.ClusterData) {
			cd.Cluster.Spec.MinSynchronousStandbys, cd.Cluster.Spec.MaxSynchronousStandbys = small(least), small(most)
		})
	case 2:
		k := 1 + n.dice.intN(3)
		if n.s.plan.noSync != "" {
			k = max(k, 2) // the only standby might be the one that can't be synchronous
		}
		n.s.operator(fmt.Sprintf("maxStandbysPerSender %d", k), func(cd *cluster.ClusterData) { cd.Cluster.Spec.MaxStandbysPerSender = small(k) })
	case 3:
		k := 100 + n.dice.intN(50)
		n.s.operator(fmt.Sprintf("max_connections %d", k), func(cd *cluster.ClusterData) {
			params := map[string]string{"max_connections": fmt.Sprint(k)}
			for name, value := range cd.Cluster.Spec.PGParameters {
				if name != "max_connections" {
					params[name] = value
				}
			}
			cd.Cluster.Spec.PGParameters = params
		})
	case 4:
		d := n.s.plan.settings.Settings().ProxyCheckInterval.Duration + time.Duration(1+n.dice.intN(4))*time.Second
		n.s.operator(fmt.Sprintf("proxyTimeout %s", d), func(cd *cluster.ClusterData) { cd.Cluster.Spec.ProxyTimeout = &cluster.Duration{Duration: d} })
	}
}
