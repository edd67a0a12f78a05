package decide

import (
	"cmp"
	"fmt"
	"slices"

	"stolon/internal/cluster"
	"stolon/internal/postgresql/wal"
)

// heard lists the keepers that have just been heard of.
func (p *pass) heard() []cluster.KeeperInfo {
	var out []cluster.KeeperInfo
	for _, uid := range cluster.SortedKeys(p.mem.keepers) {
		if s := p.mem.keepers[uid]; s.proven && !s.info.Stopping && p.Boot <= s.since+p.silenceLimit(s.info) {
			out = append(out, s.info)
		}
	}
	return out
}

// contradicted looks for a primary that was elected after the cluster data was
// written: the store was restored from an older state, or swapped. To go on
// from there would stop the real master and elect one with older data.
func (p *pass) contradicted() bool {
	master := p.cd.Master()
	if p.cd.Cluster.Status.Phase != cluster.Normal || master == nil {
		return false
	}
	for _, info := range p.heard() {
		st := info.PostgresState
		if st == nil || info.Foreign != nil || !st.Healthy || !st.Primary || st.UID == master.UID || st.SystemID != master.Status.SystemID {
			continue
		}
		stored := p.old.DBs[st.UID]
		if stored != nil && st.Generation <= stored.Generation || stored == nil && st.TimelineID <= master.Status.TimelineID {
			continue
		}
		p.wait(Error, "store and data contradict each other", Event{DB: st.UID, Keeper: info.UID, Why: fmt.Sprintf(
			"keeper %s runs a primary on timeline %d at %s, but the store names db %s of keeper %s on timeline %d as master: was the store restored or swapped? "+
				"Nothing is decided until that ends. Restore the newer cluster data by \"stolonctl clusterdata write\", or run stolonctl init '%s' with the rest of the spec",
			info.UID, st.TimelineID, wal.LSN(st.XLogPos), master.UID, master.Spec.KeeperUID, master.Status.TimelineID, cluster.AdoptSpec(info.UID))})
		return true
	}
	return false
}

// holdStill decides nothing but to lead the proxies nowhere: the master that
// the store names would take writes beside the real one.
func (p *pass) holdStill() Decision {
	out := Decision{Waiting: p.out.Waiting, Wake: p.out.Wake}
	p.out.Events = nil
	if px := p.old.Proxy; px != nil && px.Spec.MasterDBUID != "" {
		p.cd = p.old.Clone()
		p.cd.Proxy.Spec.MasterDBUID = ""
		p.cd.Proxy.Generation++
		p.event(Error, "cutting the proxies off", Event{Why: "store and data contradict each other"})
		p.stamp()
		out.Data, out.Events = p.cd, p.out.Events
	}
	return out
}

// foreignData reports whether a keeper holds another cluster's data, so that no
// new database may be made beside it: the store was wiped or swapped. An
// operator who asked for the cluster knows what he does.
func (p *pass) foreignData() bool {
	if p.Asked {
		return false
	}
	var found []cluster.KeeperInfo
	for _, info := range p.heard() {
		if info.Foreign != nil {
			found = append(found, info)
		}
	}
	if len(found) == 0 {
		return false
	}
	best := slices.MaxFunc(found, func(a, b cluster.KeeperInfo) int {
		x, y := a.Foreign, b.Foreign
		return cmp.Or(cmp.Compare(x.TimelineID, y.TimelineID), cmp.Compare(x.Checkpoint, y.Checkpoint),
			cmp.Compare(boolInt(!x.Standby), boolInt(!y.Standby)), cmp.Compare(b.UID, a.UID))
	})
	names := ""
	for _, info := range found {
		names += " " + info.UID
	}
	p.wait(Error, "keepers hold data of another cluster", Event{Keeper: best.UID, Why: fmt.Sprintf(
		"no new database is made beside it: was the store wiped or swapped? Held by:%s; keeper %s's looks newest, on timeline %d. "+
			"To go on with it, restore the cluster data by \"stolonctl clusterdata write\", or run stolonctl init '%s'; to start with an empty database run \"stolonctl init\"",
		names, best.UID, best.Foreign.TimelineID, cluster.AdoptSpec(best.UID))})
	return true
}

// refusals tells which keepers refuse what they are asked.
func (p *pass) refusals() {
	for _, info := range p.heard() {
		if info.Refuses != "" {
			p.wait(Error, keeperRefuses, Event{Keeper: info.UID, Why: info.Refuses})
		}
	}
}

const keeperRefuses = "keeper refuses what the cluster data asks"

// Problems are the waits that an operator must end, in words. What keepers
// refuse they tell themselves.
func Problems(waiting []Event) []string {
	var out []string
	for _, e := range waiting {
		if e.Level != Error || e.Kind == keeperRefuses {
			continue
		}
		text := e.Kind
		if e.Keeper != "" {
			text += " (" + e.Keeper + ")"
		}
		if e.Why != "" {
			text += ": " + e.Why
		}
		out = append(out, text)
	}
	return out
}
