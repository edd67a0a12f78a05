package keeper

import (
	"encoding/json"
	"fmt"

	"stolon/internal/keeper/decide"
	"stolon/internal/postgresql/wal"
)

// Names of the local state files. The first two are 0.17's, with its JSON.
const (
	keeperStateFile     = "keeperstate"
	dbStateFile         = "dbstate"
	replicationPassfile = "replication.pgpass"
	promotionFile       = "promotionstate"
	followedFile        = "followedstate"
	asideFile           = "asidestate"
	doorFile            = "doorstate"
	rejoinFile          = "rejoinstate"
	originFile          = "originstate"
	restoreFile         = "restorestate"
)

// keeperState is whom the data directory belongs to.
type keeperState struct {
	UID        string
	ClusterUID string
}

// promotion is the last promotion that this data directory went through, noted
// before it: from then on the directory may hold a timeline of its own
// (protocols.md K7).
type promotion struct {
	DB       string  `json:"db"`
	Timeline uint64  `json:"timeline"` // that was left
	Position wal.LSN `json:"position"`
	Created  uint64  `json:"created"` // timeline; Timeline + 1 until known better
}

// followed is whom the standby was last pointed at.
type followed struct {
	DB string `json:"db"` // followed DB UID
}

// aside is what is known of the data directory that is, or is about to be, set
// aside for a copy.
type aside struct {
	DB       string  `json:"db"` // that the copy is for
	SystemID string  `json:"systemID"`
	Timeline uint64  `json:"timeline"`
	Position wal.LSN `json:"position"` // that it reaches at least
	Exact    bool    `json:"exact"`    // and at most
	// Checkpoint tells the old directory from the copy.
	Checkpoint wal.LSN `json:"checkpoint"`
	// Promotion is the last one that the data went through.
	Promotion promotion `json:"promotion"`
}

// door is whether users are kept out of a primary that was started before its
// synchronous standbys caught up; it must outlive a keeper that is killed then.
type door struct {
	ClosedFor string `json:"closedFor"` // DB UID, "" when it is open
}

// rejoin is the db that the data directory is to become and that it can still
// become without a copy: nothing has touched it yet.
type rejoin struct {
	DB string `json:"db"`
}

// origin is the cluster that the data directory was made for, or was last seen
// to be part of.
type origin struct {
	ClusterUID string `json:"clusterUID"`
}

// restored is how far the restore of a db's backup has come.
type restored struct {
	DB string `json:"db"`
	// Aside: what was here before is set aside; what is here now may be replaced.
	Aside bool `json:"aside"`
	// Data: the restore command has succeeded and is not run again.
	Data bool `json:"data"`
}

// local is everything that survives the process.
type local struct {
	keeper    keeperState
	db        decide.DBState
	promotion promotion
	followed  followed
	aside     aside
	door      door
	rejoin    rejoin
	origin    origin
	restored  restored
}

func loadLocal(f Files) (l local, err error) {
	for _, x := range []struct {
		name string
		into any
	}{
		{keeperStateFile, &l.keeper}, {dbStateFile, &l.db}, {promotionFile, &l.promotion}, {followedFile, &l.followed}, {asideFile, &l.aside}, {doorFile, &l.door},
		{rejoinFile, &l.rejoin}, {originFile, &l.origin}, {restoreFile, &l.restored},
	} {
		b, err := f.Load(x.name)
		if err != nil {
			return l, fmt.Errorf("read local state %s: %w", x.name, err)
		}
		if b == nil {
			continue
		}
		if err := json.Unmarshal(b, x.into); err != nil {
			return l, fmt.Errorf("read local state %s: %w", x.name, err)
		}
	}
	return l, nil
}

func save(f Files, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		panic("keeper: local state " + name + ": " + err.Error())
	}
	if err := f.Save(name, b); err != nil {
		return fmt.Errorf("save local state %s: %w", name, err)
	}
	return nil
}
