package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"stolon/internal/keeper/decide"
	"stolon/internal/store"
)

func (k *Keeper) savePromotion(p promotion) error {
	if k.get().local.promotion == p {
		return nil
	}
	if err := save(k.o.Files, promotionFile, p); err != nil {
		return err
	}
	k.set(func(s *shared) { s.local.promotion = p })
	return nil
}

// creators returns the key that lists who may have created the timeline.
func (k *Keeper) creators(clusterUID string, timeline uint64) string {
	return k.o.Store.ExtKey("timelines/" + clusterUID + "/" + strconv.FormatUint(timeline, 10))
}

// note tells the cluster which timeline the running primary created, if that
// was not told before its promotion or turned out to be another.
func (k *Keeper) note(ctx context.Context, in decide.In) error {
	ctx, cancel := context.WithTimeout(ctx, k.o.StoreTimeout)
	defer cancel()
	if p := k.get().local.promotion; p.Created != in.Seen.Timeline {
		p.Created = in.Seen.Timeline
		if err := k.savePromotion(p); err != nil {
			return err
		}
	}
	if err := k.noteCreator(ctx, in.Data.Cluster.UID, in.Seen.Timeline, in.Own.Promoted); err != nil {
		return fmt.Errorf("note who created timeline %d: %w", in.Seen.Timeline, err)
	}
	k.applied.noted = in.Seen.Timeline
	return nil
}

// noteCreator adds the db to those that may have created the timeline.
func (k *Keeper) noteCreator(ctx context.Context, clusterUID string, timeline uint64, dbUID string) error {
	key := k.creators(clusterUID, timeline)
	for {
		kv, err := k.o.Store.Get(ctx, key)
		if err != nil {
			return err
		}
		list, revision := []string{}, int64(0)
		if kv != nil {
			list, revision = decodeCreators(kv.Value), kv.Revision
		}
		if slices.Contains(list, dbUID) {
			return nil
		}
		_, err = k.o.Store.Commit(ctx, []store.Condition{{Key: key, Revision: revision}}, []store.Op{{Key: key, Value: store.Encode(append(list, dbUID))}})
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// decodeCreators reads a list of creators; what can't be read stands for some
// unknown one.
func decodeCreators(value []byte) []string {
	var list []string
	if err := json.Unmarshal(value, &list); err != nil {
		return []string{"unknown"}
	}
	return list
}

// errNotPromoted: whether the followed db's next timeline is the one here can't
// be known before it has created it.
var errNotPromoted = errors.New("waiting for the followed db's timeline")

// apart tells whether the data here and the followed db's may be different
// histories under one timeline number (protocols.md K7).
//
// The rule: a db adds itself to the timeline's list before it is promoted. So
// whoever is on a timeline finds all that may have created it on its list, but
// for one that is to create it yet: whoever follows somebody new waits until
// that is no longer on an earlier timeline.
func (k *Keeper) apart(ctx context.Context, in decide.In) (bool, error) {
	if in.Data == nil || !in.Seen.Initialized {
		return false, nil
	}
	db := in.Data.DBOf(k.uid)
	if db == nil || db.Spec.FollowConfig == nil {
		return false, nil
	}
	followed := in.Data.DBs[db.Spec.FollowConfig.DBUID]
	copying := db.UID != in.Own.State.UID || in.Own.State.Initializing
	if followed == nil || !copying && (in.Own.Followed == "" || in.Own.Followed == followed.UID) {
		return false, nil
	}
	from, to := in.Seen.Timeline, in.Seen.Timeline
	theirs, _ := in.FollowedAt(followed)
	switch {
	case !in.Seen.Answers:
		// Its last timeline may be a later one, and only those matter that the
		// followed db has too.
		from, to = min(from, theirs), max(to, theirs)
	case theirs < to && !copying:
		// It was elected before it heard of this timeline, and creates another one
		// of the same number: then both are on the list.
		return false, fmt.Errorf("%w: db %s is on timeline %d, here is %d", errNotPromoted, followed.UID, theirs, to)
	}
	return k.ambiguous(ctx, in.Data.Cluster.UID, from, to, k.get().local.promotion)
}

// ambiguous reports whether one of the timelines may have been created by more
// than one db, or by another than the one that this data directory was when it
// created it.
func (k *Keeper) ambiguous(ctx context.Context, clusterUID string, from, to uint64, own promotion) (bool, error) {
	for timeline := max(from, 2); timeline <= to; timeline++ {
		kv, err := k.getKey(ctx, k.creators(clusterUID, timeline))
		if err != nil {
			return false, fmt.Errorf("read who created timeline %d: %w", timeline, err)
		}
		var list []string
		if kv != nil {
			list = decodeCreators(kv.Value)
		}
		if len(list) > 1 || own.DB != "" && own.Created == timeline && !slices.Equal(list, []string{own.DB}) {
			return true, nil
		}
	}
	return false, nil
}

// followedBy is whom the step's configuration makes the instance follow.
func followedBy(step decide.Step) followed {
	if step.Mode == decide.Standby && step.DB.Spec.FollowConfig != nil {
		return followed{DB: step.DB.Spec.FollowConfig.DBUID}
	}
	return followed{}
}

// saveFollowed remembers whom the standby is pointed at, before it is.
func (k *Keeper) saveFollowed(f followed) error {
	if k.get().local.followed == f {
		return nil
	}
	if err := save(k.o.Files, followedFile, f); err != nil {
		return err
	}
	k.set(func(s *shared) { s.local.followed = f })
	return nil
}
