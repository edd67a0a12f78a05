package decide

import (
	"bytes"
	"encoding/json"
	"maps"
	"time"

	"stolon/internal/cluster"
)

// copySpec copies what every DB takes from the cluster's spec.
func (p *pass) copySpec() {
	for _, uid := range cluster.SortedKeys(p.cd.DBs) {
		db := p.cd.DBs[uid]
		s := db.Spec
		s.RequestTimeout = p.set.RequestTimeout
		s.MaxStandbys = p.set.MaxStandbys
		s.UsePgrewind = p.set.UsePgrewind
		s.PGParameters = p.set.PGParameters
		s.PGHBA = p.set.PGHBA
		s.AdditionalWalSenders = p.set.AdditionalWalSenders
		s.AdditionalReplicationSlots = nil
		if masterType(db) {
			s.AdditionalReplicationSlots = p.set.AdditionalMasterReplicationSlots
		}
	}
}

// bumpGenerations raises the generation of every DB whose spec changed, and of
// an elected one in any case: a former master that is elected again has the
// same spec as ever, but must still show that it has become a primary.
func (p *pass) bumpGenerations() {
	for uid, db := range p.cd.DBs {
		old := p.old.DBs[uid]
		elected := p.elected != nil && p.elected.DB == uid
		if old != nil && db.Generation == old.Generation && (elected || !same(db.Spec, old.Spec)) {
			db.Generation++
		}
	}
}

// keepRecords keeps the record of the last election as long as it holds, and
// the marks of forked DBs as long as these exist.
func (p *pass) keepRecords() {
	for _, uid := range p.Forked {
		if p.cd.DBs[uid] == nil {
			p.out.Ext = append(p.out.Ext, ExtWrite{Name: ExtForked + uid})
		}
	}
	master := p.cd.Master()
	r := p.elected
	if r == nil && master != nil {
		r = p.election(master)
	}
	if r == nil || !cluster.SameSet(r.SynchronousStandbys, master.Spec.SynchronousStandbys) {
		if p.Election != nil {
			p.out.Ext = append(p.out.Ext, ExtWrite{Name: ExtElection})
		}
		return
	}
	next := *r
	next.Generation = master.Generation
	next.Routed = r.Routed || p.cd.Proxy.Spec.MasterDBUID == master.UID
	if p.Election == nil || !same(&next, p.Election) {
		p.out.Ext = append(p.out.Ext, ExtWrite{Name: ExtElection, Value: next})
	}
}

// refreshAfter is how old the recorded time of health may get. It decides
// nothing sooner than deadKeeperRemovalInterval.
func (p *pass) refreshAfter() time.Duration {
	return min(10*time.Minute, p.set.DeadKeeperRemovalInterval.Duration/4)
}

// finish decides whether there is anything to write. Positions and times of
// health alone aren't, unless what is recorded got old: a quiet cluster writes
// heartbeats only.
func (p *pass) finish() {
	if same(steady(p.cd), steady(p.old)) && len(p.out.Ext) == 0 && !p.stale() {
		return
	}
	p.stamp()
	p.out.Data = p.cd
}

// steady returns cd without what moves by itself. It shares the rest with cd.
func steady(cd *cluster.ClusterData) *cluster.ClusterData {
	out, cl := *cd, *cd.Cluster
	out.ChangeTime, cl.ChangeTime, out.Cluster = time.Time{}, time.Time{}, &cl
	if cd.Proxy != nil {
		px := *cd.Proxy
		px.ChangeTime, out.Proxy = time.Time{}, &px
	}
	out.Keepers, out.DBs = maps.Clone(cd.Keepers), maps.Clone(cd.DBs)
	for uid, k := range cd.Keepers {
		if k != nil {
			k := *k
			k.ChangeTime, k.Status.LastHealthyTime, out.Keepers[uid] = time.Time{}, time.Time{}, &k
		}
	}
	for uid, db := range cd.DBs {
		if db != nil {
			db := *db
			db.ChangeTime, db.Status.XLogPos, db.Status.OlderWalFile, out.DBs[uid] = time.Time{}, 0, "", &db
		}
	}
	return &out
}

// stale: what is recorded is too old for a successor to rely on.
func (p *pass) stale() bool {
	for uid, k := range p.cd.Keepers {
		if old := p.old.Keepers[uid]; old != nil && k.Status.Healthy && k.Status.LastHealthyTime.Sub(old.Status.LastHealthyTime) > p.refreshAfter() {
			return true
		}
	}
	master := p.cd.Master()
	if master == nil {
		return false
	}
	old := p.old.DBs[master.UID]
	moved := old != nil && master.Status.XLogPos-old.Status.XLogPos > uint64(p.set.MaxStandbyLag)/2
	age := p.Wall.Sub(p.old.ChangeTime)
	return moved && (age < 0 || age >= p.set.SleepInterval.Duration)
}

// stamp sets the change times of what differs.
func (p *pass) stamp() {
	p.cd.ChangeTime = p.Wall
	if !same(p.cd.Cluster, p.old.Cluster) {
		p.cd.Cluster.ChangeTime = p.Wall
	}
	if !same(p.cd.Proxy, p.old.Proxy) {
		p.cd.Proxy.ChangeTime = p.Wall
	}
	for uid, k := range p.cd.Keepers {
		if !same(k, p.old.Keepers[uid]) {
			k.ChangeTime = p.Wall
		}
	}
	for uid, db := range p.cd.DBs {
		if !same(db, p.old.DBs[uid]) {
			db.ChangeTime = p.Wall
		}
	}
}

// same compares stored forms, so null and empty lists differ as they do for 0.17.
func same[T any](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, err := json.Marshal(a)
	if err != nil {
		panic("decide: compare: " + err.Error())
	}
	y, err := json.Marshal(b)
	if err != nil {
		panic("decide: compare: " + err.Error())
	}
	return bytes.Equal(x, y)
}
