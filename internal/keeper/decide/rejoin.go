package decide

import (
	"fmt"

	"stolon/internal/cluster"
	"stolon/internal/postgresql/wal"
)

// End is where the data of a stopped instance ends: it holds nothing behind it.
type End struct {
	Timeline uint64
	Position wal.LSN
	History  []cluster.TimelineHistory // last lines, oldest first
}

// mostWAL keeps an instance from removing any WAL.
const mostWAL = "2147483647"

// comparable: the data here and the followed db's are of one system, and
// numbers tell whether they are of one history.
func (in In) comparable(followed *cluster.DB) bool {
	return in.Seen.Initialized && (!in.Own.State.Initializing || in.Own.Untouched) && !in.Apart &&
		in.Seen.SystemID != "" && in.Seen.SystemID == followed.Status.SystemID
}

// findEnd runs the instance by itself until it has recovered all the WAL that
// it has. Only then can be told whether it has more than the followed db, and
// only then can it be rewound. Nothing that a rewind reads may go meanwhile.
func (in In) findEnd(db *cluster.DB) Step {
	config := in.Config(db, Parked, true)
	config.Parameters["wal_keep_size"] = mostWAL
	return Step{Kind: FindEnd, DB: db, Mode: Parked, Config: config, Why: "to learn what the data here holds before it becomes db " + db.UID}
}

// fits reports whether the data here is a beginning of the followed db's, so
// that it can simply follow. PostgreSQL looks at this again, with the whole
// history, when it connects.
func (in In) fits(followed *cluster.DB) bool {
	e := in.Own.End
	if e == nil || in.Own.Unfit || !in.comparable(followed) {
		return false
	}
	timeline, position := in.FollowedAt(followed)
	history, oldest := followed.Status.TimelinesHistory, followed.Status.OlderWalFile
	if r := in.Followed; r != nil && r.UID == followed.UID && r.Healthy {
		history, oldest = r.TimelinesHistory, r.OlderWalFile
	}
	theirs := branch(timeline, position, history)
	if timeline == e.Timeline && position < e.Position {
		return false
	}
	if _, has, err := wal.ParseSegmentName(oldest, in.Followed.SegmentSize()); err == nil && e.Position < has {
		return false // what comes behind the end is gone there
	}
	return !wal.Diverged(theirs, branch(e.Timeline, e.Position, e.History))
}

func branch(timeline uint64, position wal.LSN, history []cluster.TimelineHistory) wal.Branch {
	b := wal.Branch{Timeline: timeline, Position: position}
	for _, h := range history {
		b.History = append(b.History, wal.HistoryEntry{Timeline: h.TimelineID, SwitchPoint: wal.LSN(h.SwitchPoint)})
	}
	return b
}

// reach is how far the data here goes: exactly, or at least.
func (in In) reach() (timeline uint64, position wal.LSN) {
	if e := in.Own.End; e != nil {
		return e.Timeline, e.Position
	}
	return in.Seen.Timeline, in.Seen.Checkpoint
}

// ahead tells why the data here must not be replaced by a copy of followed: it
// is the same history and further on, so the store is not of this cluster's
// present (protocols.md K9). What lies beyond a fork that the cluster asked
// for is another history.
func (in In) ahead(followed *cluster.DB) string {
	s := in.Seen
	if !s.Initialized || in.Apart || s.SystemID == "" || s.SystemID != followed.Status.SystemID {
		return ""
	}
	own, reached := in.reach()
	timeline, position := in.FollowedAt(followed)
	if timeline > own || timeline == own && position >= reached {
		return ""
	}
	return fmt.Sprintf("the data here (timeline %d, at least %s) is ahead of db %s that it shall be replaced by a copy of: "+
		"was the store restored or swapped? To go on all the same, move %s/postgres away", own, reached, followed.UID, in.Own.DataDir)
}
