package decide

import (
	"stolon/internal/cluster"
)

// initialize makes the first master.
func (p *pass) initialize() {
	p.consumeForced(nil)
	cl := p.cd.Cluster
	if cl.Status.Master == "" {
		p.chooseFirstMaster()
		return
	}
	db := p.cd.Master()
	if db == nil || p.convergenceFailed(db) {
		p.event(Error, "first master failed to initialise in time, choosing again", Event{DB: cl.Status.Master})
		p.cd.DBs = map[string]*cluster.DB{}
		cl.Status.Master = ""
		return
	}
	rep := p.report(db)
	if !converged(db) || !db.Status.Healthy || rep == nil || !rep.Healthy {
		if db.Spec.InitMode != cluster.InitNew && !p.keeperOf(db).Status.Healthy {
			p.wait(Error, "keeper of the first master does not answer", Event{DB: db.UID, Keeper: db.Spec.KeeperUID, Why: "no other one can take its place; start it, or run \"stolonctl init\""})
			return
		}
		p.wait(Debug, "waiting for the first master to initialise", Event{DB: db.UID, Keeper: db.Spec.KeeperUID})
		return
	}
	p.event(Info, "cluster initialised", Event{DB: db.UID, Keeper: db.Spec.KeeperUID})
	db.Spec.InitMode = cluster.InitNone
	db.Spec.IncludePreviousConfig = false
	if p.set.MergePgParameters {
		cl.Spec.PGParameters = rep.PGParameters
		p.set = cl.Spec.Settings()
	}
	cl.Status.Phase = cluster.Normal
}

// chooseFirstMaster picks who makes the first data.
func (p *pass) chooseFirstMaster() {
	mode := *p.set.InitMode
	// What is restored or adopted is named by the spec: that is a wish which no
	// store that was wiped can come up with.
	if mode == cluster.InitNew && p.foreignData() {
		return
	}
	keeperUID := p.firstKeeper(mode)
	if keeperUID == "" {
		return
	}
	spec := p.cd.Cluster.Spec
	db := &cluster.DB{
		UID:        p.NewUID(),
		Generation: 1,
		Spec: &cluster.DBSpec{
			KeeperUID:             keeperUID,
			InitMode:              mode,
			Followers:             []string{},
			IncludePreviousConfig: p.set.MergePgParameters,
		},
	}
	switch mode {
	case cluster.InitNew:
		db.Spec.NewConfig = spec.NewConfig
	case cluster.InitPITR:
		db.Spec.PITRConfig = spec.PITRConfig
	}
	p.lead(db, p.set.Role)
	p.cd.DBs[db.UID] = db
	p.cd.Cluster.Status.Master = db.UID
	p.event(Info, "initialising cluster", Event{DB: db.UID, Keeper: keeperUID})
}

// firstKeeper returns who makes the first data: the one that the spec names,
// else any that lives and may be master. Which one doesn't matter then: there
// is no data yet. "" is nobody for now.
func (p *pass) firstKeeper(mode cluster.InitMode) string {
	if mode == cluster.InitExisting {
		uid := p.set.ExistingConfig.KeeperUID
		if k := p.cd.Keepers[uid]; k == nil || !k.Status.Healthy {
			p.wait(Error, "cannot choose initial master: the keeper that existingConfig names does not answer", Event{Keeper: uid, Why: "start it, or run \"stolonctl init\" with another spec"})
			return ""
		}
		return uid
	}
	if len(p.cd.Keepers) == 0 {
		p.wait(Error, "cannot choose initial master: no keepers registered", Event{})
		return ""
	}
	var able []string
	for _, uid := range cluster.SortedKeys(p.cd.Keepers) {
		if k := p.cd.Keepers[uid]; k.Status.Healthy && canBeMaster(k) {
			able = append(able, uid)
		}
	}
	if len(able) == 0 {
		p.wait(Error, "cannot choose initial master: no keeper is healthy and can be master", Event{})
		return ""
	}
	return able[p.Pick(len(able))]
}
