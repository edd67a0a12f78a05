package decide

import (
	"maps"
	"slices"
	"time"

	"stolon/internal/cluster"
)

// Memory is what one sentinel has seen and when, by its own clock. Leader and
// followers keep it alike, so a new leader needn't start every timer from
// nothing.
type Memory struct {
	read      bool          // a linearizable read has succeeded
	lastRead  time.Duration // when the last one did
	keepers   map[string]keeperSight
	dbs       map[string]dbSight
	proxies   map[string]proxySight
	route     routeSight
	inquiry   inquiry       // into the death of the master
	noInquiry time.Duration // no other one before this
	handover  handoverSight
}

// keeperSight is the last sign of life of a keeper.
type keeperSight struct {
	infoUID string
	since   time.Duration // infoUID first seen, or silence started anew
	proven  bool          // infoUID was seen to change, so the keeper lived then
	info    cluster.KeeperInfo
}

// dbSight is what was seen of a DB over time.
type dbSight struct {
	failing      bool // its keeper reports something else than this DB in health
	failingSince time.Duration

	// last report in health: where the DB stood, though it has failed since.
	last *cluster.PostgresState

	generation      int64 // wanted
	unappliedSince  time.Duration
	generationFirst uint64 // position in the first report that had applied generation; 0: none yet

	position      uint64
	positionSince time.Duration

	cutOff      bool // its instance is a healthy standby that receives nothing
	cutOffSince time.Duration
}

// proxySight is the last promise of a proxy. It outlives the proxy's key: a
// missing key proves nothing (protocols.md S4).
type proxySight struct {
	infoUID string
	since   time.Duration // infoUID first seen
	proven  bool          // infoUID was seen to change, or to appear
	present bool
	exited  bool // its lifeline has ended
	info    cluster.ProxyInfo
}

// routeSight is since when the present route is known.
type routeSight struct {
	generation int64
	since      time.Duration
}

// readGap is how long linearizable reads may be apart for silence to go on
// counting: one scheduled read, each sleepInterval, may be late but not fail.
func readGap(sleepInterval time.Duration) time.Duration { return sleepInterval * 3 / 2 }

// Observe returns mem with the view added to it. Linearizable tells a read of
// the store itself from a watch's copy, which may be behind.
//
// Silence counts only while this sentinel can read: after a gap in its reads
// every silence starts again, since the store may have been away for all
// (protocols.md S7).
func Observe(mem Memory, v View, now time.Duration, linearizable bool) Memory {
	out := Memory{
		read:     mem.read || linearizable,
		lastRead: mem.lastRead,
		keepers:  map[string]keeperSight{},
		dbs:      map[string]dbSight{},
		proxies:  maps.Clone(mem.proxies),
		route:    mem.route,
		inquiry:  mem.inquiry, noInquiry: mem.noInquiry,
	}
	if out.proxies == nil {
		out.proxies = map[string]proxySight{}
	}
	if v.Data == nil {
		out.lastRead = now
		return out
	}
	set := v.Data.Cluster.Spec.Settings()
	restart := false
	if linearizable {
		restart = mem.read && now-mem.lastRead > readGap(set.SleepInterval.Duration)
		out.lastRead = now
	}
	if restart {
		out.inquiry = inquiry{}
	}
	out.observeHandover(mem, v, now)
	out.observeKeepers(mem, v, now, restart)
	out.heard(now)
	out.observeDBs(mem, v, now, restart)
	out.observeProxies(mem, v, now)
	return out
}

// Contact returns mem with the news that the store answered a quorum request
// of this sentinel at now, which shows no keeper but that the store is there.
func Contact(mem Memory, set cluster.Settings, now time.Duration) Memory {
	if mem.read && now-mem.lastRead > readGap(set.SleepInterval.Duration) {
		out := mem
		out.inquiry = inquiry{}
		out.keepers, out.dbs = maps.Clone(mem.keepers), maps.Clone(mem.dbs)
		for uid, s := range out.keepers {
			s.since, s.proven = now, false
			out.keepers[uid] = s
		}
		for uid, s := range out.dbs {
			s.failingSince, s.unappliedSince, s.positionSince, s.cutOffSince = now, now, now, now
			out.dbs[uid] = s
		}
		mem = out
	}
	mem.read, mem.lastRead = true, now
	return mem
}

// Exited returns mem with the news that the process uid has exited, by its
// lifeline. What it published last is known by then, so anything newer shows
// that it lives.
func Exited(mem Memory, uid string) Memory {
	if s, ok := mem.proxies[uid]; ok {
		mem.proxies = maps.Clone(mem.proxies)
		s.exited = true
		mem.proxies[uid] = s
	}
	return mem
}

func (m *Memory) observeKeepers(mem Memory, v View, now time.Duration, restart bool) {
	known := map[string]bool{}
	for uid := range v.Data.Keepers {
		known[uid] = true
	}
	for uid, info := range v.Keepers {
		if info.ClusterUID == v.Data.Cluster.UID {
			known[uid] = true
		}
	}
	for uid := range known {
		s, seen := mem.keepers[uid]
		if !seen || restart {
			s.since, s.proven = now, false
		}
		info, ok := v.Keepers[uid]
		if ok && info.ClusterUID == v.Data.Cluster.UID && info.InfoUID != s.infoUID {
			// What was there at this sentinel's first look may be a corpse's.
			s = keeperSight{infoUID: info.InfoUID, since: now, proven: seen || mem.read, info: info}
		}
		m.keepers[uid] = s
	}
}

func (m *Memory) observeDBs(mem Memory, v View, now time.Duration, restart bool) {
	for uid, db := range v.Data.DBs {
		if db == nil || db.Spec == nil {
			continue
		}
		s, seen := mem.dbs[uid]
		if !seen || restart {
			s.failingSince, s.unappliedSince, s.positionSince, s.cutOffSince = now, now, now, now
		}
		if !seen || s.generation != db.Generation {
			s.generation, s.unappliedSince, s.generationFirst = db.Generation, now, 0
		}
		rep := m.report(db)
		failing := rep == nil || !rep.Healthy
		if failing && !s.failing {
			s.failingSince = now
		}
		s.failing = failing
		cutOff := !failing && !rep.Primary && !rep.ReceiverUp
		if cutOff && !s.cutOff {
			s.cutOffSince = now
		}
		s.cutOff = cutOff
		if !failing {
			s.last = rep
			if rep.XLogPos != s.position {
				s.position, s.positionSince = rep.XLogPos, now
			}
			if rep.Generation == db.Generation && s.generationFirst == 0 {
				s.generationFirst = rep.XLogPos
			}
		}
		m.dbs[uid] = s
	}
}

func (m *Memory) observeProxies(mem Memory, v View, now time.Duration) {
	var enabled []string
	generation := int64(0)
	if v.Data.Proxy != nil {
		enabled, generation = v.Data.Proxy.Spec.EnabledProxies, v.Data.Proxy.Generation
	}
	if m.route.since == 0 || m.route.generation != generation {
		m.route = routeSight{generation: generation, since: now}
	}
	for uid, s := range m.proxies {
		if _, ok := v.Proxies[uid]; !ok {
			s.present = false
			// Past this nothing may depend on it any more.
			if !slices.Contains(enabled, uid) && now > s.since+2*s.info.ProxyTimeout+20*time.Second {
				delete(m.proxies, uid)
				continue
			}
			m.proxies[uid] = s
		}
	}
	for uid, info := range v.Proxies {
		s, seen := m.proxies[uid]
		if !seen || s.infoUID != info.InfoUID {
			s = proxySight{infoUID: info.InfoUID, since: now, proven: seen || mem.read, info: info}
		}
		s.present = true
		m.proxies[uid] = s
	}
	for _, uid := range enabled {
		if _, seen := m.proxies[uid]; !seen {
			m.proxies[uid] = proxySight{since: now}
		}
	}
}

// report returns what the DB's keeper last said of it; nil when that was about
// another DB or nothing.
func (m *Memory) report(db *cluster.DB) *cluster.PostgresState {
	st := m.keepers[db.Spec.KeeperUID].info.PostgresState
	if st == nil || st.UID != db.UID {
		return nil
	}
	return st
}
