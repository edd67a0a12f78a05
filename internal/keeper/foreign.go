package keeper

import (
	"context"
	"encoding/json"

	"stolon/internal/cluster"
	"stolon/internal/keeper/decide"
)

// saveOrigin notes that the data directory is the present cluster's.
func (k *Keeper) saveOrigin() error {
	s := k.get()
	if s.data == nil || s.local.origin.ClusterUID == s.data.Cluster.UID {
		return nil
	}
	o := origin{ClusterUID: s.data.Cluster.UID}
	if err := save(k.o.Files, originFile, o); err != nil {
		return err
	}
	k.set(func(s *shared) { s.local.origin = o })
	return nil
}

// asked reads whether an operator asked for this cluster. Only data of another
// one makes that matter.
func (k *Keeper) asked(ctx context.Context, in decide.In) (bool, error) {
	if !in.Foreign() {
		return false, nil
	}
	kv, err := k.getKey(ctx, k.o.Store.ExtKey(cluster.ExtInit))
	if err != nil || kv == nil {
		return false, err
	}
	var r cluster.InitRecord
	return json.Unmarshal(kv.Value, &r) == nil && r.ClusterUID == in.Data.Cluster.UID, nil
}

// foreign is what is told of data that isn't the present cluster's.
func (s shared) foreign() *cluster.ForeignData {
	l := s.report.look
	in := decide.In{Data: s.data, Seen: decide.Seen{Initialized: l.Initialized}, Own: decide.Own{Origin: s.local.origin.ClusterUID, State: s.local.db}}
	if !in.Foreign() {
		return nil
	}
	return &cluster.ForeignData{ClusterUID: s.local.origin.ClusterUID, SystemID: l.SystemID, TimelineID: l.CheckpointTimeline,
		Checkpoint: uint64(l.Checkpoint), Standby: l.StandbySignal}
}
