package postgresqltest

import (
	"maps"
	"slices"

	"stolon/internal/cluster"
	"stolon/internal/postgresql"
	"stolon/internal/postgresql/conf"
	"stolon/internal/postgresql/wal"
)

// A timeline is one history of WAL. Two with the same number are the same only
// if they are the same value: PostgreSQL sees the number (protocols.md K7).
type timeline struct {
	id      uint64
	creator string
	parent  *timeline
	left    wal.LSN // where the parent was left
}

// A record is one piece of WAL. Serials are never used twice, so equal serials
// at one index mean equal WAL up to there.
type record struct {
	end      wal.LSN
	serial   int64
	timeline *timeline
	row      int64 // what a client inserted; 0: something else
}

const (
	firstLSN    = wal.LSN(0x1000000)
	recordSize  = 0x90
	segmentSize = 16 << 20
)

// data is a data directory.
type data struct {
	complete bool
	systemID string
	wal      []record
	flushed  int // records that survive a crash
	timeline *timeline
	newest   uint64 // highest timeline number heard of
	// pg_control.
	state              postgresql.ControlState
	checkpoint         wal.LSN
	checkpointTimeline *timeline

	standbySignal bool
	config        conf.Config // the files
	initParams    map[string]string
	slots         map[string]bool
}

// end is the position behind the last flushed record.
func (d *data) end() wal.LSN {
	if d.flushed == 0 {
		return firstLSN
	}
	return d.wal[d.flushed-1].end
}

// halfway is a position between the last checkpoint and the end.
func (d *data) halfway() wal.LSN {
	n := slices.IndexFunc(d.wal[:d.flushed], func(r record) bool { return r.end > d.checkpoint })
	if n < 0 {
		return d.end()
	}
	return d.wal[(n+d.flushed-1)/2].end
}

// insert writes a record behind all others; it is not flushed.
func (d *data) insert(serial, row int64) int {
	last := firstLSN
	if n := len(d.wal); n > 0 {
		last = d.wal[n-1].end
	}
	d.wal = append(d.wal, record{end: last + recordSize, serial: serial, timeline: d.timeline, row: row})
	return len(d.wal) - 1
}

// note writes and flushes a record that is no row.
func (d *data) note(serial int64) {
	d.flushed = d.insert(serial, 0) + 1
}

// lose drops what was not flushed.
func (d *data) lose() { d.wal = d.wal[:d.flushed] }

// makeCheckpoint records where a recovery would begin.
func (d *data) makeCheckpoint() {
	d.checkpoint, d.checkpointTimeline = d.end(), d.timeline
}

// copyOf is what a base backup makes of d.
func copyOf(d *data) *data {
	return &data{
		complete: true, systemID: d.systemID, wal: d.wal[:d.flushed:d.flushed], flushed: d.flushed,
		timeline: d.timeline, newest: d.newest, state: postgresql.InProduction,
		checkpoint: d.checkpoint, checkpointTimeline: d.checkpointTimeline,
		config: d.config, initParams: maps.Clone(d.initParams), slots: map[string]bool{},
	}
}

// holds reports whether the record is flushed here.
func (d *data) holds(index int, serial int64) bool {
	return d != nil && d.complete && index < d.flushed && d.wal[index].serial == serial
}

// ancestor returns the timeline with the number in t's history, and where it
// was left; ok is false when there is none.
func (t *timeline) ancestor(id uint64) (left wal.LSN, ok bool) {
	for ; t.parent != nil; t = t.parent {
		if t.parent.id == id {
			return t.left, true
		}
	}
	return 0, false
}

// history is the last two lines of the history file.
func (t *timeline) history() []cluster.TimelineHistory {
	var out []cluster.TimelineHistory
	for ; t.parent != nil && len(out) < 2; t = t.parent {
		out = append([]cluster.TimelineHistory{{TimelineID: t.parent.id, SwitchPoint: uint64(t.left), Reason: "no recovery target specified"}}, out...)
	}
	return out
}

// sameWAL reports whether what d has is the beginning of what source has.
func sameWAL(d, source *data) bool {
	n := d.flushed
	return n == 0 || n <= source.flushed && source.wal[n-1].serial == d.wal[n-1].serial
}

// streams tells whether PostgreSQL lets a standby with d stream from source,
// by the numbers that it knows. Why is for the trace.
func streams(d, source *data) (ok bool, why string) {
	own, theirs := d.timeline, source.timeline
	switch {
	case d.systemID != source.systemID:
		return false, "another system identifier"
	case theirs.id < own.id:
		return false, "its timeline is behind"
	case theirs.id == own.id:
		if d.end() > source.end() {
			return false, "ahead of it"
		}
		return true, ""
	}
	left, known := theirs.ancestor(own.id)
	if !known {
		return false, "own timeline is not in its history"
	}
	if left < d.end() {
		return false, "its timeline forked off before the own position"
	}
	return true, ""
}
