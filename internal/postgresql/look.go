package postgresql

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"stolon/internal/postgresql/conf"
)

// Look tells what is there. It starts no program and sends no query.
func (i *Instance) Look(ctx context.Context) (Look, error) {
	if err := ctx.Err(); err != nil {
		return Look{}, err
	}
	l, err := lookAt(i.o.DataDir)
	if err != nil {
		return Look{}, err
	}
	l.Aside = exists(i.asideDir())
	p, err := i.current()
	if err != nil {
		return Look{}, err
	}
	if p != nil {
		l.Running, l.PID = true, p.pid
		return l, nil
	}
	file, err := readPostmasterFile(i.o.DataDir)
	if err != nil {
		return Look{}, err
	}
	if pid := max(file.pid, -file.pid); zombie(pid) {
		l.Lingering = pid
	}
	return l, nil
}

// lookAt reads a data directory's files.
func lookAt(dir string) (Look, error) {
	var l Look
	complete, err := initialized(dir)
	if err != nil || !complete {
		return l, err
	}
	text, err := os.ReadFile(filepath.Join(dir, "PG_VERSION"))
	if err != nil {
		return l, err
	}
	major, _, err := conf.ParseVersion(string(text))
	if err != nil {
		return l, fmt.Errorf("%s: %w", filepath.Join(dir, "PG_VERSION"), err)
	}
	c, err := readControl(filepath.Join(dir, "global", "pg_control"))
	if err != nil {
		return l, err
	}
	return Look{
		Initialized:        true,
		MajorVersion:       major,
		SystemID:           c.systemID,
		State:              c.state,
		Checkpoint:         c.checkpoint,
		CheckpointTimeline: c.checkpointTimeline,
		StandbySignal:      exists(filepath.Join(dir, standbySignal)),
		RecoverySignal:     exists(filepath.Join(dir, recoverySignal)),
	}, nil
}

// parts are what a complete data directory has.
var parts = []string{
	"PG_VERSION", "base", "global", "global/pg_control", "pg_dynshmem", "pg_logical", "pg_multixact", "pg_notify",
	"pg_replslot", "pg_serial", "pg_snapshots", "pg_stat", "pg_stat_tmp", "pg_subtrans", "pg_tblspc", "pg_twophase",
	"pg_wal", "pg_xact",
}

// initialized reports whether dir is a complete data directory. A part that
// can't be looked at is an error: taken for missing, it would have the
// directory replaced.
func initialized(dir string) (bool, error) {
	for _, part := range parts {
		_, err := os.Stat(filepath.Join(dir, part))
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
