package postgresql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// Space is what a copy needs and what there is, in bytes.
type Space struct {
	Path   string // of the file system
	Needed uint64 // by the copy
	Free   uint64
	Own    uint64 // that the present data directory takes
	// Tablespaces of the source that lie outside of its data directory.
	Tablespaces []string
}

// Space tells what a copy of the source needs, which is asked as a superuser.
// It fails where no copy could take the place of the data directory.
func (i *Instance) Space(ctx context.Context, from Source) (Space, error) {
	s := Space{Path: filepath.Dir(i.o.DataDir)}
	err := movable(i.o.DataDir)
	if err != nil {
		return s, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(s.Path, &st); err != nil {
		return s, fmt.Errorf("free space of %s: %w", s.Path, err)
	}
	s.Free = st.Bavail * uint64(st.Bsize)
	if s.Own, err = size(ctx, i.o.DataDir); err != nil {
		return s, err
	}
	server, err := from.session(i.o.RequestTimeout)
	if err != nil {
		return s, err
	}
	err = i.ask(ctx, server, func(ctx context.Context, c *sql.Conn) error {
		var err error
		if s.Tablespaces, err = tablespaces(ctx, c); err != nil {
			return err
		}
		return c.QueryRowContext(ctx, "select (select sum(pg_database_size(oid)) from pg_database)::bigint").Scan(&s.Needed)
	})
	server.close()
	if err != nil {
		// The copy itself needs no superuser; what is here is a fair guess.
		i.log.Warn("cannot ask how much room the copy needs, taking the size of the old data", zap.Error(err))
		s.Needed = s.Own
	}
	return s, nil
}

// movable is nil where dir can be renamed, so that another can take its place.
func movable(dir string) error {
	mounted, err := mountPoint(dir)
	if err == nil && mounted {
		err = fmt.Errorf("%s is a mount point, so that nothing can take its place: mount the file system at %s, and move what is in it to %s", dir, filepath.Dir(dir), dir)
	}
	return err
}

// mountPoint reports whether another file system is mounted at dir.
func mountPoint(dir string) (bool, error) {
	var own, parent unix.Stat_t
	err := unix.Stat(dir, &own)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err := errors.Join(err, unix.Stat(filepath.Dir(dir), &parent)); err != nil {
		return false, fmt.Errorf("look at %s: %w", dir, err)
	}
	return own.Dev != parent.Dev, nil
}

// size of the files below dir on the disk; symbolic links are not followed.
func size(ctx context.Context, dir string) (uint64, error) {
	total := uint64(0)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		total += uint64(st.Blocks) * 512
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", dir, err)
	}
	return total, nil
}
