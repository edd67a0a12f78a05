package postgresql

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"stolon/internal/postgresql/wal"
)

// ErrCannotRewind reports that pg_rewind can't work on this data directory.
var ErrCannotRewind = errors.New("cannot be rewound")

// PrepareRewind finds out whether the stopped data directory can be rewound
// (ErrCannotRewind), and has the source write a checkpoint: without it a newly
// promoted one still shows its old timeline and pg_rewind sees nothing to do.
func (i *Instance) PrepareRewind(ctx context.Context, from Source) error {
	if err := i.stopped("rewind"); err != nil {
		return err
	}
	look, err := lookAt(i.o.DataDir)
	if err != nil {
		return err
	}
	if !look.Initialized {
		return fmt.Errorf("%w: %s is not a complete data directory", ErrCannotRewind, i.o.DataDir)
	}
	if err := i.hints(ctx); err != nil {
		return err
	}
	return i.checkpointSource(ctx, from)
}

// hints looks for what pg_rewind asks for: that every change of a block has
// left a trace in the WAL.
func (i *Instance) hints(ctx context.Context) error {
	control, err := i.controlData(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCannotRewind, err)
	}
	if control["wal_log_hints setting"] == "on" || control["Data page checksum version"] != "0" {
		return nil
	}
	return fmt.Errorf("%w: it was written with neither data checksums nor wal_log_hints; "+
		"usePgrewind sets the latter, which counts from the next restart of the instance on", ErrCannotRewind)
}

// controlData is what pg_controldata prints.
func (i *Instance) controlData(ctx context.Context) (map[string]string, error) {
	out := map[string]string{}
	err := i.run(ctx, program{
		name: "pg_controldata",
		args: []string{"-D", i.o.DataDir},
		env:  []string{"LC_ALL=C"},
		line: func(line string) {
			name, value, _ := strings.Cut(line, ":")
			out[name] = strings.TrimSpace(value)
		},
	})
	return out, err
}

// Rewind makes the stopped data directory a past state of the source's, which
// must be a primary. PrepareRewind comes first.
func (i *Instance) Rewind(ctx context.Context, from Source) (err error) {
	if err := i.stopped("rewind"); err != nil {
		return err
	}
	look, err := lookAt(i.o.DataDir)
	if err != nil {
		return err
	}
	if err := endOrphans(ctx, i.o.DataDir); err != nil {
		return err
	}
	passfile, err := from.passfile()
	if err != nil {
		return err
	}
	// pg_rewind takes no symbolic link where the source has a file.
	if err := removeFile(filepath.Join(i.o.DataDir, "postgresql.auto.conf")); err != nil {
		return err
	}
	if look.StandbySignal {
		defer func() {
			if err != nil { // still a standby's data: it must not look like a primary's
				err = errors.Join(err, writeFile(i.o.DataDir, standbySignal, ""), syncDir(i.o.DataDir))
			}
		}()
	}
	if err := i.checkpointOwn(ctx, look); err != nil {
		return err
	}
	kept, err := i.keepWAL(ctx)
	if err != nil {
		return err
	}
	var fork wal.LSN
	err = i.run(ctx, program{
		name:   "pg_rewind",
		args:   []string{"--progress", "-D", i.o.DataDir, "--source-server=" + from.conninfo("postgres")},
		secret: passfile,
		env:    []string{"PGPASSFILE=" + secretPath, "LC_ALL=C"},
		line: func(line string) {
			i.log.Debug("pg_rewind", zap.String("line", line))
			if _, at, ok := strings.Cut(line, "servers diverged at WAL location "); ok {
				at, _, _ = strings.Cut(at, " ")
				fork, _ = wal.ParseLSN(at) // 0: nothing is given back
			}
		},
	})
	if err != nil {
		return err
	}
	return i.giveBackWAL(ctx, kept, fork)
}

// checkpointOwn makes pg_control tell the timeline that the data is on. Before
// PostgreSQL 16 pg_rewind reads the WAL of the last checkpoint's only, which is
// an earlier one where the instance had just been promoted when it ended.
// What a single-user server writes for that lies past the fork.
//
// After a crash pg_rewind has such a server recover; either refuses to be a
// standby.
func (i *Instance) checkpointOwn(ctx context.Context, look Look) error {
	if !look.StandbySignal {
		return nil
	}
	control, err := i.controlData(ctx)
	if err != nil {
		return err
	}
	clean := look.State == ShutDown || look.State == ShutDownInRecovery
	behind := clean && timelineIn(control, "Min recovery ending loc's timeline") > timelineIn(control, "Latest checkpoint's TimeLineID")
	if clean && !behind {
		return nil
	}
	if err := removeFile(filepath.Join(i.o.DataDir, standbySignal)); err != nil || !behind {
		return err
	}
	return i.run(ctx, program{name: "postgres", args: []string{"--single", "-D", i.o.DataDir, "template1"}})
}

func timelineIn(control map[string]string, name string) uint64 {
	n, err := strconv.ParseUint(control[name], 10, 32)
	if err != nil {
		return 0
	}
	return n
}

// keepWAL keeps the WAL segments aside that pg_rewind, before PostgreSQL 17,
// removes because the source has them no more: a rewound instance recovers from
// the last checkpoint before the fork on, and may need them for that. They are
// links: what pg_rewind writes over is written over in both places, but that is
// not what is given back.
func (i *Instance) keepWAL(ctx context.Context) (dir string, err error) {
	from, err := filepath.EvalSymlinks(i.walDir())
	if err != nil {
		return "", err
	}
	dir = i.o.DataDir + ".wal"
	if from != i.walDir() { // elsewhere, where a link from here may not lead to
		dir = from + ".kept"
	}
	if err := removeAll(ctx, dir); err != nil { // of an attempt that was interrupted
		return "", err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	files, err := readWALDir(from, 0)
	for _, name := range files.names {
		err = errors.Join(err, os.Link(filepath.Join(from, name), filepath.Join(dir, name)))
	}
	return dir, err
}

// giveBackWAL puts those segments back that are missing and lie before the
// fork, so that they are the source's too. Later ones could be taken for the
// source's by a recovery.
func (i *Instance) giveBackWAL(ctx context.Context, dir string, fork wal.LSN) error {
	control, err := i.controlData(ctx)
	if err != nil {
		return err
	}
	size, err := strconv.ParseUint(control["Bytes per WAL segment"], 10, 64)
	if err != nil {
		return fmt.Errorf("size of the WAL segments: %w", err)
	}
	files, err := readWALDir(dir, size)
	if err != nil {
		return err
	}
	before := wal.WithoutTimeline(wal.SegmentName(1, fork, size))
	for _, name := range files.names {
		to := filepath.Join(i.walDir(), name)
		if wal.WithoutTimeline(name) < before && !exists(to) {
			if err := os.Rename(filepath.Join(dir, name), to); err != nil {
				return err
			}
			i.log.Debug("WAL kept over the rewind", zap.String("segment", name))
		}
	}
	return errors.Join(syncDir(i.walDir()), removeAll(ctx, dir))
}

func (i *Instance) checkpointSource(ctx context.Context, from Source) error {
	s, err := from.session(i.o.RequestTimeout)
	if err != nil {
		return err
	}
	if err := checkpoint(ctx, s); err != nil {
		return fmt.Errorf("checkpoint on %s:%s: %w", from.Host, from.Port, err)
	}
	return nil
}
