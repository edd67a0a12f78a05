package decide

import (
	"fmt"

	"stolon/internal/cluster"
)

// Foreign reports whether the data here is not the present cluster's, as far as
// its keeper knows: it was made for another one, or nobody noted for which; or
// it was in use, and the cluster is to be made only now.
func (in In) Foreign() bool {
	if in.Data == nil || !in.Seen.Initialized || in.Data.DBs[in.Own.State.UID] != nil {
		return false
	}
	again := in.Data.Cluster.Status.Phase == cluster.Initializing && in.Own.State.Generation > 0
	return in.Own.Origin != in.Data.Cluster.UID || again
}

// whose data it is.
func (in In) whose() string {
	switch in.Own.Origin {
	case "":
		return "an unknown cluster"
	case in.Data.Cluster.UID:
		return "an earlier life of this cluster"
	}
	return "cluster " + in.Own.Origin
}

// swapped tells why the db, which should have its data, is not run with what is
// here.
func (in In) swapped(db *cluster.DB) string {
	why := fmt.Sprintf("the data directory belongs to db %q, not to %s that this keeper was given: ", in.Own.State.UID, db.UID)
	if in.Foreign() && in.Own.Origin != "" {
		return why + fmt.Sprintf("it is that of %s, and the store holds cluster %s: was the store swapped? To go on with this data, "+
			"restore its cluster data by \"stolonctl clusterdata write\", or run stolonctl init '%s'", in.whose(), in.Data.Cluster.UID, cluster.AdoptSpec(in.Own.KeeperUID))
	}
	return why + fmt.Sprintf("it was lost or swapped, or the store was restored. Restore the newest cluster data by \"stolonctl clusterdata write\"; "+
		"or, once another db is master, \"stolonctl removekeeper %s\" gives this keeper a new copy", in.Own.KeeperUID)
}

// foreign tells why the data here must not be replaced for the db: it is
// another cluster's, and nobody said that it may go. The store was wiped, or
// another cluster's store was put in its place.
func (in In) foreign(db *cluster.DB) string {
	if !in.Foreign() || in.Asked {
		return ""
	}
	whose := in.whose()
	switch db.Spec.InitMode {
	case cluster.InitNew:
		return fmt.Sprintf("the data here belongs to %s, not to %s that is to be made new: was the store wiped or swapped? "+
			"Nothing is done to it. To go on with this data, restore the cluster data by \"stolonctl clusterdata write\", or run stolonctl init '%s'; "+
			"to start with an empty database, move %s/postgres away or run \"stolonctl init\"",
			whose, in.Data.Cluster.UID, cluster.AdoptSpec(in.Own.KeeperUID), in.Own.DataDir)
	case cluster.InitResync:
		f := db.Spec.FollowConfig
		if f == nil || in.Data.DBs[f.DBUID] == nil || in.Data.DBs[f.DBUID].Status.SystemID == in.Seen.SystemID || in.Own.Origin == "" {
			return ""
		}
		return fmt.Sprintf("the data here belongs to %s, not to %s whose db %s it is to be replaced by a copy of: was the store swapped? "+
			"Nothing is done to it. To go on all the same, move %s/postgres away", whose, in.Data.Cluster.UID, f.DBUID, in.Own.DataDir)
	}
	return ""
}

// newerPrimary tells why the primary that runs is left alone whatever the
// cluster data says: it was elected after that was written. The leading
// sentinel sees it too and cuts the proxies off.
func (in In) newerPrimary() string {
	master := in.Data.Master()
	if master == nil || !in.Seen.Answers || !in.Seen.Primary || in.Own.State.UID == master.UID || in.Seen.SystemID != master.Status.SystemID {
		return ""
	}
	if in.Own.Origin != in.Data.Cluster.UID {
		return "" // of another cluster: an operator may have made this one of an older copy
	}
	stored := in.Data.DBs[in.Own.State.UID]
	if stored != nil && in.Own.State.Generation <= stored.Generation || stored == nil && in.Seen.Timeline <= master.Status.TimelineID {
		return ""
	}
	return fmt.Sprintf("the primary here, on timeline %d, is newer than the master that the store names (db %s, timeline %d): "+
		"was the store restored or swapped? It is left running, and nobody is led to it. Restore the newest cluster data by \"stolonctl clusterdata write\", or run stolonctl init '%s' with the rest of the spec",
		in.Seen.Timeline, master.UID, master.Status.TimelineID, cluster.AdoptSpec(in.Own.KeeperUID))
}
