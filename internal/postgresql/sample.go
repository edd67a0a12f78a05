package postgresql

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"stolon/internal/cluster"
	"stolon/internal/postgresql/wal"
)

// historyKept is how many lines of its history an instance reports.
const historyKept = 2

// Sample asks the running instance for everything that is reported. It needs
// nothing but the superuser's own connection: a primary that has no wal sender
// left is a healthy one.
func (i *Instance) Sample(ctx context.Context) (Sample, error) {
	var s Sample
	err := i.ask(ctx, i.asking, func(ctx context.Context, _ *sql.Conn) error {
		c := planned{i.asking}
		state, err := queryState(ctx, c)
		if err != nil {
			return err
		}
		if s, err = i.sample(state); err != nil {
			return err
		}
		if s.Standbys, err = queryStandbys(ctx, c); err != nil {
			return err
		}
		s.FileParameters, err = queryFileParameters(ctx, c)
		return err
	})
	if err != nil {
		return Sample{}, fmt.Errorf("sample: %w", err)
	}
	return s, nil
}

// state is the answer to the first question.
type state struct {
	inRecovery         bool
	systemID           string
	segmentSize        uint64
	flushed            sql.NullString // primary
	segment            sql.NullString // primary: name of the segment being written
	received, replayed sql.NullString // standby
	receivedTimeline   uint64         // standby: 0 when nothing is being received
	minRecoveryEnd     uint64         // standby: timeline up to which it must recover
	checkpointTimeline uint64
	receiver           int  // standby: process of the WAL receiver that streams; 0: none
	starved            bool // standby: replay waits for WAL that isn't there
	syncNames          string
	pendingRestart     bool
}

func queryState(ctx context.Context, c asker) (state, error) {
	rows, err := queryRows(ctx, c, `
		select pg_is_in_recovery(),
			(select system_identifier::text from pg_control_system()),
			(select bytes_per_wal_segment from pg_control_init()),
			case when not pg_is_in_recovery() then pg_current_wal_flush_lsn()::text end,
			case when not pg_is_in_recovery() then pg_walfile_name(pg_current_wal_flush_lsn()) end,
			pg_last_wal_receive_lsn()::text,
			pg_last_wal_replay_lsn()::text,
			coalesce((select received_tli from pg_stat_wal_receiver), 0),
			coalesce((select min_recovery_end_timeline from pg_control_recovery()), 0),
			(select timeline_id from pg_control_checkpoint()),
			coalesce((select pid from pg_stat_wal_receiver where status = 'streaming'), 0),
			exists (select 1 from pg_stat_activity where backend_type = 'startup'
				and wait_event in ('RecoveryRetrieveRetryInterval', 'RecoveryWalStream')),
			current_setting('synchronous_standby_names'),
			exists (select 1 from pg_settings where pending_restart)`,
		func(rows *sql.Rows) (state, error) {
			var s state
			return s, rows.Scan(&s.inRecovery, &s.systemID, &s.segmentSize, &s.flushed, &s.segment, &s.received, &s.replayed,
				&s.receivedTimeline, &s.minRecoveryEnd, &s.checkpointTimeline, &s.receiver, &s.starved, &s.syncNames, &s.pendingRestart)
		})
	if err != nil {
		return state{}, err
	}
	return rows[0], nil // always one
}

// sample makes of the answer what can be told with the help of the files.
func (i *Instance) sample(st state) (Sample, error) {
	s := Sample{
		Primary:        !st.inRecovery,
		SystemID:       st.systemID,
		ReceiverUp:     st.receiver != 0,
		ReceiverGone:   i.receivers.end(st.receiver),
		SyncNames:      st.syncNames,
		PendingRestart: st.pendingRestart,
	}
	files, err := readWALDir(i.walDir(), st.segmentSize)
	if err != nil {
		return Sample{}, err
	}
	s.OldestWAL, s.SegmentSize = files.oldest(), st.segmentSize
	if s.Primary {
		if s.Position, err = wal.ParseLSN(st.flushed.String); err != nil {
			return Sample{}, err
		}
		s.Replayed = s.Position
		if s.TimelineID, _, err = wal.ParseSegmentName(st.segment.String, st.segmentSize); err != nil {
			return Sample{}, err
		}
	} else {
		var received wal.LSN
		if st.received.Valid {
			if received, err = wal.ParseLSN(st.received.String); err != nil {
				return Sample{}, err
			}
		}
		if st.replayed.Valid {
			if s.Replayed, err = wal.ParseLSN(st.replayed.String); err != nil {
				return Sample{}, err
			}
		}
		s.Position = max(received, s.Replayed)
		inFiles, err := i.timelineInFiles(files, s.Position)
		if err != nil {
			return Sample{}, err
		}
		s.TimelineID = max(st.receivedTimeline, st.minRecoveryEnd, st.checkpointTimeline, inFiles)
		s.AtEnd = st.starved && s.Replayed == s.Position && files.newestTimeline() <= s.TimelineID
	}
	s.History, err = i.history(s.TimelineID)
	return s, err
}

func (i *Instance) walDir() string { return filepath.Join(i.o.DataDir, "pg_wal") }

// history reads the last lines of a timeline's history; none on timeline 1,
// which has no file.
func (i *Instance) history(timeline uint64) ([]cluster.TimelineHistory, error) {
	if timeline <= 1 {
		return nil, nil
	}
	entries, err := readHistory(i.walDir(), timeline)
	if err != nil {
		return nil, err
	}
	var out []cluster.TimelineHistory
	for _, e := range wal.Last(entries, historyKept) {
		out = append(out, cluster.TimelineHistory{TimelineID: e.Timeline, SwitchPoint: uint64(e.SwitchPoint), Reason: e.Reason})
	}
	return out, nil
}

func readHistory(walDir string, timeline uint64) ([]wal.HistoryEntry, error) {
	path := filepath.Join(walDir, wal.HistoryFileName(timeline))
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("history of timeline %d: %w", timeline, err)
	}
	entries, err := wal.ParseHistory(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return entries, nil
}

// timelineInFiles tells a standby's timeline from its WAL: the newest timeline
// that has a segment for the position and was begun before it. No function of
// PostgreSQL tells a standby's timeline while nothing is received, and
// pg_control learns of a new one only at the next restart point; a standby that
// has passed the switch would look as if it had written past the fork.
func (i *Instance) timelineInFiles(files walFiles, pos wal.LSN) (uint64, error) {
	if pos == 0 {
		return 0, nil
	}
	for _, timeline := range files.timelinesAt(pos - 1) {
		if timeline == 1 {
			return 1, nil
		}
		entries, err := readHistory(i.walDir(), timeline)
		if errors.Is(err, fs.ErrNotExist) {
			continue // not one that this server knows
		}
		if err != nil {
			return 0, err
		}
		if n := len(entries); n > 0 && entries[n-1].SwitchPoint < pos {
			return timeline, nil
		}
	}
	return 0, nil
}

// walFiles are the segments in a pg_wal directory.
type walFiles struct {
	names       []string
	segmentSize uint64
}

func readWALDir(dir string, segmentSize uint64) (walFiles, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return walFiles{}, err
	}
	files := walFiles{segmentSize: segmentSize}
	for _, e := range entries {
		if e.Type().IsRegular() && wal.IsSegmentName(e.Name()) {
			files.names = append(files.names, e.Name())
		}
	}
	return files, nil
}

// oldest is the name of the segment with the lowest position; "" without any.
func (f walFiles) oldest() string {
	if len(f.names) == 0 {
		return ""
	}
	return slices.MinFunc(f.names, func(a, b string) int {
		return cmp.Or(cmp.Compare(wal.WithoutTimeline(a), wal.WithoutTimeline(b)), cmp.Compare(a, b))
	})
}

// newestTimeline is the latest that a segment is of.
func (f walFiles) newestTimeline() uint64 {
	newest := uint64(0)
	for _, name := range f.names {
		if timeline, err := strconv.ParseUint(name[:8], 16, 32); err == nil {
			newest = max(newest, timeline)
		}
	}
	return newest
}

// timelinesAt lists the timelines with a segment for the byte, newest first.
func (f walFiles) timelinesAt(pos wal.LSN) []uint64 {
	want := wal.WithoutTimeline(wal.SegmentName(1, pos, f.segmentSize))
	var out []uint64
	for _, name := range f.names {
		if wal.WithoutTimeline(name) == want {
			timeline, err := strconv.ParseUint(name[:8], 16, 32)
			if err == nil {
				out = append(out, timeline)
			}
		}
	}
	slices.Sort(out)
	slices.Reverse(out)
	return out
}

func queryStandbys(ctx context.Context, c asker) ([]ReplicationRow, error) {
	return queryRows(ctx, c, `
		select coalesce(application_name, ''), coalesce(state, ''), coalesce(sync_state, ''), coalesce(flush_lsn, '0/0')::text
		from pg_stat_replication order by 1, pid`,
		func(rows *sql.Rows) (ReplicationRow, error) {
			var r ReplicationRow
			var flush string
			if err := rows.Scan(&r.ApplicationName, &r.State, &r.SyncState, &flush); err != nil {
				return r, err
			}
			var err error
			r.Flush, err = wal.ParseLSN(flush)
			return r, err
		})
}

func queryFileParameters(ctx context.Context, c asker) (map[string]string, error) {
	type setting struct{ name, value string }
	settings, err := queryRows(ctx, c, `
		select name, setting from pg_file_settings
		where name is not null and setting is not null order by seqno`,
		func(rows *sql.Rows) (setting, error) {
			var s setting
			return s, rows.Scan(&s.name, &s.value)
		})
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, s := range settings { // later ones win
		out[s.name] = s.value
	}
	return out, nil
}

// queryRows reads all rows, or fails: a list that was cut short by a broken
// connection is none.
func queryRows[T any](ctx context.Context, c asker, query string, scan func(*sql.Rows) (T, error)) ([]T, error) {
	rows, err := c.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}
