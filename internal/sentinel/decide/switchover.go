package decide

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"stolon/internal/cluster"
	"stolon/internal/postgresql/wal"
)

// A switchover is a planned change of master that loses no acknowledged commit,
// also with asynchronous replication: the proxies cut, the old master shuts
// down, which ships all of its WAL, the target has replayed the last record,
// and only then is it elected (protocols.md section 5). Until then the old
// master can take over again, and does when anything fails or takes too long.
const (
	mostBehind  = 16 << 20 // bytes, of a target when it is chosen
	nearlyThere = 1 << 20  // bytes left to replay when the proxies cut

	// How long the phases may take.
	cuttingLimit  = time.Second
	stoppingLimit = 7 * time.Second // the keeper gives up after 5 s and says so
	answerLimit   = time.Second     // of a failed master's keeper, for its word
	shippingLimit = 5 * time.Second
)

// handoverSight is since when the present phase of a switchover is known.
type handoverSight struct {
	id    string
	phase cluster.SwitchoverPhase // "" for a request
	since time.Duration
}

func (m *Memory) observeHandover(mem Memory, v View, now time.Duration) {
	var seen handoverSight
	switch {
	case v.Switchover != nil:
		seen = handoverSight{id: v.Switchover.ID, phase: v.Switchover.Phase}
	case v.Request != nil:
		seen = handoverSight{id: v.Request.ID}
	}
	m.handover = mem.handover
	if seen.id != mem.handover.id || seen.phase != mem.handover.phase {
		seen.since = now
		m.handover = seen
	}
}

// switchover takes the next step of a switchover. It reports whether nothing
// else may be done meanwhile.
func (p *pass) switchover(master *cluster.DB) bool {
	st := p.Switchover
	switch {
	case st == nil:
		return p.beginSwitchover(master)
	case st.ClusterUID != p.cd.Cluster.UID || st.Master != master.UID && st.Target != master.UID:
		p.endSwitchover(st.ID, false, "another master was elected meanwhile")
		return false
	case st.Target == master.UID:
		if p.cd.Proxy.Spec.MasterDBUID == master.UID {
			p.endSwitchover(st.ID, true, "")
		}
		return false
	case p.keeperOf(master).Status.Healthy && (p.forced[master.Spec.KeeperUID] == st.Failed):
	default:
		// Its keeper is silent, or an operator wants it gone now.
		p.endSwitchover(st.ID, false, "the old master failed meanwhile")
		return false
	}
	target := p.cd.DBs[st.Target]
	if target == nil {
		return p.rollBack(st, "the target's db was removed")
	}
	took := p.Boot - p.mem.handover.since
	switch st.Phase {
	case cluster.Preparing:
		return p.preparing(master, target, st, took)
	case cluster.Cutting:
		return p.cutting(master, st, took)
	case cluster.Stopping:
		return p.stopping(master, target, st, took)
	case cluster.Shipping:
		return p.shipping(master, target, st, took)
	case cluster.RollingBack:
		if p.cd.Proxy.Spec.MasterDBUID == master.UID && p.serving(master) {
			p.endSwitchover(st.ID, false, st.Why)
		}
	}
	return false
}

// beginSwitchover looks at what was asked for: by a request, or by failing the
// keeper of a master that still answers.
func (p *pass) beginSwitchover(master *cluster.DB) bool {
	if p.forced[master.Spec.KeeperUID] {
		return p.beginFailed(master)
	}
	req := p.Request
	if req == nil {
		return false
	}
	if p.masterFailed(master) != "" {
		p.endSwitchover(req.ID, false, "the master has failed")
		return false
	}
	target, why, lags := p.mayHandOver(master, req)
	// What was last reported of two instances is of two moments: a standby that
	// seems to lag may not.
	if soon := p.mem.handover.since + 2*p.set.SleepInterval.Duration; lags && p.Boot <= soon {
		p.wait(Info, "waiting for the target of a switchover", Event{DB: master.UID, Why: why})
		p.wakeAt(soon)
		return false
	}
	if why != "" {
		p.event(Warn, "switchover refused", Event{DB: master.UID, Keeper: master.Spec.KeeperUID, Why: why})
		p.endSwitchover(req.ID, false, why)
		return false
	}
	p.event(Info, "switchover begins", Event{DB: target.UID, Keeper: target.Spec.KeeperUID, Why: "to replace " + master.UID + " of keeper " + master.Spec.KeeperUID})
	p.putSwitchover(cluster.Switchover{
		ID: req.ID, ClusterUID: p.cd.Cluster.UID, Master: master.UID, Target: target.UID, Phase: cluster.Preparing, Timeout: req.Timeout, Force: req.Force,
	})
	return true
}

// beginFailed has a master that an operator failed shut down in order, if its
// keeper still answers: then nothing is lost.
func (p *pass) beginFailed(master *cluster.DB) bool {
	cands := p.candidates(master)
	rep := p.report(master)
	px := p.cd.Proxy
	if len(cands) == 0 || px.Spec.MasterDBUID != master.UID || rep == nil || !rep.Healthy || !p.handsOver(master) || !p.handsOver(cands[0]) ||
		p.set.Role != cluster.RoleMaster || p.mem.handover.id != "" && p.mem.handover.phase != "" {
		return false
	}
	px.Spec.MasterDBUID = ""
	px.Generation++
	p.event(Warn, "master failed, cutting the proxies off", Event{DB: master.UID, Keeper: master.Spec.KeeperUID, Why: "master failed by an operator; it is to shut down in order"})
	p.putSwitchover(cluster.Switchover{
		ID: p.NewUID(), ClusterUID: p.cd.Cluster.UID, Master: master.UID, Target: cands[0].UID, Phase: cluster.Cutting, Failed: true,
	})
	return true
}

// handsOver: the DB's keeper takes part in switchovers.
func (p *pass) handsOver(db *cluster.DB) bool {
	s := p.mem.keepers[db.Spec.KeeperUID]
	return s.proven && !s.info.Stopping && slices.Contains(s.info.Features, cluster.HandOver)
}

// mayHandOver chooses the target, or tells why there can be none; lags: that
// may be over with the next reports.
func (p *pass) mayHandOver(master *cluster.DB, req *cluster.SwitchoverRequest) (target *cluster.DB, why string, lags bool) {
	switch {
	case req.ClusterUID != p.cd.Cluster.UID || req.Master != master.UID:
		return nil, "the cluster has another master than when the switchover was asked for; ask again", false
	case p.set.Role != cluster.RoleMaster || master.Spec.Role != cluster.RoleMaster:
		return nil, "a standby cluster takes no writes, so there is nothing to hand over; use stolonctl failkeeper", false
	case p.cd.Proxy.Spec.MasterDBUID != master.UID || !p.serving(master):
		return nil, "the master does not serve at present; see stolonctl status", false
	case !p.handsOver(master):
		return nil, fmt.Sprintf("keeper %s of the master does not know switchovers (is it of 0.17?); use stolonctl failkeeper", master.Spec.KeeperUID), false
	}
	if delay := p.set.PGParameters["recovery_min_apply_delay"]; strings.ContainsAny(delay, "123456789") {
		return nil, fmt.Sprintf("recovery_min_apply_delay (%s) holds back what a standby replays, while nobody could write; set it to 0 first", delay), false
	}
	if uid := p.unsureProxy(); uid != "" && !req.Force {
		return nil, fmt.Sprintf("proxy %s is silent or of 0.17: its clients would see the change only when it looks at the store again; --force goes on all the same", uid), false
	}
	cands := p.candidates(master)
	if req.Target == "" {
		for _, db := range cands {
			if p.cannotTakeOver(db, master) == "" {
				return db, "", false
			}
		}
		return nil, "no standby can take over" + p.whyNobody(master), true
	}
	k, db := p.cd.Keepers[req.Target], p.cd.DBOf(req.Target)
	switch {
	case k == nil:
		return nil, fmt.Sprintf("keeper %q does not exist; stolonctl status lists them", req.Target), false
	case db == master:
		return nil, fmt.Sprintf("keeper %s has the master already", req.Target), false
	case db == nil:
		return nil, fmt.Sprintf("keeper %s has no db", req.Target), false
	case !canBeMaster(k):
		return nil, fmt.Sprintf("keeper %s can't be master (--can-be-master=false)", req.Target), false
	case !k.Status.Healthy || !db.Status.Healthy || !converged(db):
		return nil, fmt.Sprintf("the db of keeper %s is not healthy or still applies a change", req.Target), false
	case master.Spec.SynchronousReplication && !slices.Contains(cluster.Intersect(master.Spec.SynchronousStandbys, master.Status.SynchronousStandbys), db.UID):
		return nil, fmt.Sprintf("the db of keeper %s is not one of the synchronous standbys that are in sync", req.Target), false
	}
	if why := p.cannotTakeOver(db, master); why != "" {
		return nil, fmt.Sprintf("the db of keeper %s %s", req.Target, why), p.handsOver(db)
	}
	if !slices.Contains(cands, db) {
		return nil, fmt.Sprintf("the db of keeper %s could not be elected: it lags or is on another timeline", req.Target), true
	}
	return db, "", false
}

// cannotTakeOver tells what a candidate lacks for a switchover, "" for nothing.
func (p *pass) cannotTakeOver(db, master *cluster.DB) string {
	rep, m := p.report(db), p.report(master)
	switch {
	case !p.handsOver(db):
		return "has a keeper that does not know switchovers (is it of 0.17?)"
	case rep == nil || !rep.Healthy || !rep.ReceiverUp:
		return "does not stream from the master"
	case m.XLogPos > rep.ReplayPos && m.XLogPos-rep.ReplayPos > mostBehind:
		return fmt.Sprintf("is %d MiB behind, at most %d are allowed", (m.XLogPos-rep.ReplayPos)>>20, mostBehind>>20)
	}
	return ""
}

// unsureProxy returns a proxy whose cut would take long, "" for none.
func (p *pass) unsureProxy() string {
	for _, uid := range cluster.SortedKeys(p.mem.proxies) {
		s := p.mem.proxies[uid]
		if p.Boot > p.expiry(s) {
			continue // nothing depends on it
		}
		if !s.present || !slices.Contains(s.info.Features, cluster.AtomicCheck) || p.Boot > s.since+2*p.set.ProxyCheckInterval.Duration+time.Second {
			return uid
		}
	}
	return ""
}

func (p *pass) preparing(master, target *cluster.DB, st *cluster.Switchover, took time.Duration) bool {
	why := p.masterFailed(master)
	if why == "" && !p.able(target) {
		why = "the target can't be elected any more"
	}
	if why == "" && took > st.Timeout {
		why = fmt.Sprintf("the checkpoint, or the target's replay of what it lacked, took longer than %s (--timeout)", st.Timeout)
	}
	if why != "" {
		p.endSwitchover(st.ID, false, why)
		return false
	}
	p.wakeAt(p.mem.handover.since + st.Timeout)
	rep, m := p.report(target), p.report(master)
	h := p.handover(master, st)
	if h == nil || !h.Prepared || rep == nil || m == nil || m.XLogPos > rep.ReplayPos && m.XLogPos-rep.ReplayPos > nearlyThere ||
		!slices.Contains(p.candidates(master), target) {
		p.wait(Debug, "waiting for the switchover's preparation", Event{DB: target.UID})
		return false
	}
	if p.cd.Proxy.Spec.MasterDBUID != master.UID {
		return false
	}
	p.cd.Proxy.Spec.MasterDBUID = ""
	p.cd.Proxy.Generation++
	p.event(Info, "cutting the proxies off for a switchover", Event{DB: master.UID, Keeper: master.Spec.KeeperUID})
	p.nextPhase(st, cluster.Cutting)
	return true
}

// cutting waits for the proxies, but not long: the old master is shut down
// next, and one that hasn't cut leads to nothing then. The old master's keeper
// starts it as a primary again only when the leader says so or has lost its
// lead, and neither elects any more by what it knew (protocols.md S6, W1).
func (p *pass) cutting(master *cluster.DB, st *cluster.Switchover, took time.Duration) bool {
	if p.cutDone(master) || took > cuttingLimit {
		p.nextPhase(st, cluster.Stopping)
	}
	p.wakeAt(p.mem.handover.since + cuttingLimit)
	return true
}

func (p *pass) stopping(master, target *cluster.DB, st *cluster.Switchover, took time.Duration) bool {
	h := p.handover(master, st)
	switch {
	case h != nil && h.Failed != "":
		return p.rollBack(st, "the old master could not be shut down: "+h.Failed)
	case h != nil && h.Stopped:
		next := *st
		next.Position = h.Position
		if p.takeOver(master, target, &next) {
			return true
		}
		p.nextPhase(&next, cluster.Shipping)
		return true
	case took > stoppingLimit:
		return p.rollBack(st, fmt.Sprintf("the old master did not shut down within %s", stoppingLimit))
	case st.Failed && h == nil && took > answerLimit:
		return p.rollBack(st, "the keeper of the failed master does not answer")
	}
	p.wakeAt(p.mem.handover.since + answerLimit)
	p.wakeAt(p.mem.handover.since + stoppingLimit)
	return true
}

func (p *pass) shipping(master, target *cluster.DB, st *cluster.Switchover, took time.Duration) bool {
	if p.takeOver(master, target, st) {
		return true
	}
	if took > shippingLimit {
		return p.rollBack(st, fmt.Sprintf("the target did not replay the old master's last record within %s", shippingLimit))
	}
	p.wakeAt(p.mem.handover.since + shippingLimit)
	return true
}

// takeOver elects the target once it has replayed the old master's last record.
func (p *pass) takeOver(master, target *cluster.DB, st *cluster.Switchover) bool {
	rep := p.report(target)
	if rep == nil || rep.ReplayPos <= st.Position || !slices.Contains(p.candidates(master), target) {
		return false
	}
	if p.set.SynchronousReplication && !master.Spec.SynchronousReplication {
		return false
	}
	p.elect(target, master, fmt.Sprintf("shut down at %s", wal.LSN(st.Position)))
	p.nextPhase(st, cluster.Electing)
	return true
}

// handover is what the master's keeper says of this switchover, nil: nothing.
func (p *pass) handover(master *cluster.DB, st *cluster.Switchover) *cluster.Handover {
	h := p.mem.keepers[master.Spec.KeeperUID].info.Handover
	if h == nil || h.ID != st.ID {
		return nil
	}
	return h
}

// rollBack lets the old master serve again; one that was failed is replaced
// without its help.
func (p *pass) rollBack(st *cluster.Switchover, why string) bool {
	if st.Failed {
		p.endSwitchover(st.ID, false, why)
		return false
	}
	p.event(Warn, "switchover given up", Event{DB: st.Target, Why: why})
	next := *st
	next.Why = why
	p.nextPhase(&next, cluster.RollingBack)
	return true
}

func (p *pass) nextPhase(st *cluster.Switchover, phase cluster.SwitchoverPhase) {
	next := *st
	next.Phase = phase
	p.putSwitchover(next)
}

func (p *pass) putSwitchover(st cluster.Switchover) {
	p.out.Ext = append(p.out.Ext, ExtWrite{Name: cluster.ExtSwitchover, Value: st})
}

// endSwitchover forgets what was under way and tells how it ended.
func (p *pass) endSwitchover(id string, done bool, why string) {
	if p.Switchover != nil {
		p.out.Ext = append(p.out.Ext, ExtWrite{Name: cluster.ExtSwitchover})
	}
	if p.Request != nil {
		p.out.Ext = append(p.out.Ext, ExtWrite{Name: cluster.ExtSwitchoverRequest})
	}
	if p.Switchover != nil && p.Switchover.Failed { // nobody asked for it by this name
		if !done {
			p.event(Warn, "the failed master did not shut down in order", Event{Why: why})
		}
		return
	}
	p.out.Ext = append(p.out.Ext, ExtWrite{Name: cluster.ExtSwitchoverOutcome, Value: cluster.SwitchoverOutcome{ID: id, Done: done, Why: why}})
	level, what := Info, "switchover done"
	if !done {
		level, what = Warn, "switchover not done"
	}
	p.event(level, what, Event{Why: why})
}
