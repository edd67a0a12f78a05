package decide

import (
	"stolon/internal/cluster"
)

// initialize makes the first master.
func (p *pass) initialize() {
	p.consumeForced(nil)
	cl := p.cd.Cluster
	if mode := p.set.InitMode; mode == nil || *mode != cluster.InitNew {
		p.wait(Error, "init mode not supported yet", Event{Why: "this version initialises clusters with initMode \"new\" only"})
		return
	}
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

// chooseFirstMaster picks any keeper that lives and may be master. Which one
// doesn't matter: there is no data yet.
func (p *pass) chooseFirstMaster() {
	if p.foreignData() {
		return
	}
	if len(p.cd.Keepers) == 0 {
		p.wait(Error, "cannot choose initial master: no keepers registered", Event{})
		return
	}
	var able []string
	for _, uid := range cluster.SortedKeys(p.cd.Keepers) {
		if k := p.cd.Keepers[uid]; k.Status.Healthy && canBeMaster(k) {
			able = append(able, uid)
		}
	}
	if len(able) == 0 {
		p.wait(Error, "cannot choose initial master: no keeper is healthy and can be master", Event{})
		return
	}
	keeperUID := able[p.Pick(len(able))]
	db := &cluster.DB{
		UID:        p.NewUID(),
		Generation: 1,
		Spec: &cluster.DBSpec{
			KeeperUID:             keeperUID,
			InitMode:              cluster.InitNew,
			NewConfig:             p.cd.Cluster.Spec.NewConfig,
			Role:                  cluster.RoleMaster,
			Followers:             []string{},
			IncludePreviousConfig: p.set.MergePgParameters,
		},
	}
	p.cd.DBs[db.UID] = db
	p.cd.Cluster.Status.Master = db.UID
	p.event(Info, "initialising cluster", Event{DB: db.UID, Keeper: keeperUID})
}
