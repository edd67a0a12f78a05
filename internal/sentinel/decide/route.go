package decide

import (
	"slices"
	"time"

	"stolon/internal/cluster"
)

// margin is what clocks may differ by over t, and then some (protocols.md C3).
func margin(t time.Duration) time.Duration { return max(500*time.Millisecond, t/20) }

// oldProxyGrace is how long a silent proxy of 0.17 may lead on: it reads before
// and publishes after, and counts from the end of its check (protocols.md S4).
func oldProxyGrace(t time.Duration) time.Duration { return max(2*t, t+10*time.Second) }

// expiry returns when the proxy has certainly cut by its own deadline, as far
// as this sentinel can tell.
func (p *pass) expiry(s proxySight) time.Duration {
	t := s.info.ProxyTimeout
	switch {
	case s.infoUID == "":
		// Enabled, but never seen by this sentinel.
		return max(s.since, p.mem.route.since) + oldProxyGrace(p.set.ProxyTimeout.Duration)
	case slices.Contains(s.info.Features, cluster.AtomicCheck):
		return s.since + t + margin(t)
	}
	return max(s.since, p.mem.route.since) + oldProxyGrace(t)
}

// cutDone reports whether every proxy that could lead somewhere has cut: it
// published the present generation, whose route is empty, or is past its own
// deadline (protocols.md S4), or has exited, while the master is dead
// (protocols.md S5). A proxy that lives but never applies is waited for and
// shouted about, never skipped.
func (p *pass) cutDone(master *cluster.DB) bool {
	done := true
	for _, uid := range cluster.SortedKeys(p.mem.proxies) {
		s := p.mem.proxies[uid]
		if s.present && s.info.Generation == p.cd.Proxy.Generation || s.exited && p.knownDead(master) {
			continue
		}
		at := p.expiry(s)
		if p.Boot > at {
			continue
		}
		done = false
		p.wakeAt(at)
		level := Info
		if p.Boot-p.mem.route.since > oldProxyGrace(p.set.ProxyTimeout.Duration) {
			level = Error
		}
		p.wait(level, "waiting for proxies to cut", Event{Proxy: uid, Why: "it has not confirmed the present generation and may still lead to the old master"})
	}
	return done
}

// route leads the proxies to the master, and keeps the list of those that may
// lead. It reports whether it changed anything.
func (p *pass) route(master *cluster.DB) bool {
	px := p.cd.Proxy
	at := Event{DB: master.UID, Keeper: master.Spec.KeeperUID}
	switch px.Spec.MasterDBUID {
	case master.UID:
		enabled := p.livingProxies()
		if cluster.SameSet(enabled, px.Spec.EnabledProxies) {
			return false
		}
		px.Spec.EnabledProxies = enabled
		px.Generation++
		p.event(Info, "enabled proxies changed", Event{Details: map[string]any{"proxies": enabled}})
		return true
	case "":
		if !p.serving(master) {
			p.wait(Info, "waiting for the master to serve before leading proxies to it", at)
			return false
		}
		if !p.returns(master) && !p.cutForElection(master) && !p.cutDone(master) {
			return false
		}
		px.Spec.MasterDBUID = master.UID
		px.Generation++
		p.event(Info, "leading proxies to the master", at)
		return true
	}
	px.Spec.MasterDBUID = ""
	px.Generation++
	at.Why = "they lead to another db than the elected master"
	p.event(Warn, "cutting the proxies off", at)
	return true
}

// cutForElection: when the master was elected nobody was led anywhere, and
// since then nobody can have been: no check succeeds with an older route.
func (p *pass) cutForElection(master *cluster.DB) bool {
	r := p.election(master)
	return r != nil && r.Cut != 0 && r.Cut == p.cd.Proxy.Generation
}

// returns: clients were cut from this very master and nobody was elected since,
// so a proxy that has not cut leads to no other.
func (p *pass) returns(master *cluster.DB) bool {
	st, q := p.Switchover, p.mem.inquiry
	return st != nil && st.Master == master.UID && st.Phase == cluster.RollingBack || q.dead && q.db == master.UID
}

// serving: the master is a running primary, or in a standby cluster a standby, with everything in force that its
// present generation asks for (protocols.md S12).
func (p *pass) serving(master *cluster.DB) bool {
	rep := p.report(master)
	return rep != nil && rep.Healthy && rep.Generation == master.Generation && master.Status.Healthy && converged(master) &&
		(rep.Primary == (master.Spec.Role == cluster.RoleMaster) || !p.ours(master))
}

// livingProxies returns the proxies that may lead: those within the time for
// which their last promise holds, or nearly so. One that this sentinel hasn't
// seen alive is kept if it was enabled, but not added.
func (p *pass) livingProxies() []string {
	var out []string
	for _, uid := range cluster.SortedKeys(p.mem.proxies) {
		s := p.mem.proxies[uid]
		enabled := slices.Contains(p.cd.Proxy.Spec.EnabledProxies, uid)
		at := p.expiry(s)
		if p.Boot > at || !enabled && (!s.proven || !s.present) {
			continue
		}
		out = append(out, uid)
		p.wakeAt(at)
	}
	return out
}
