package postgresql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// What belongs to a data directory may lie elsewhere: its WAL below
// Options.WALDir, and its tablespaces where the user put them. Several data
// directories live side by side for a while (the present one, the copy that is
// being made, what was set aside), so each gets a directory of its own there,
// with a name that begins with ownPrefix.

const ownPrefix = "stolon_"

// madeFile lists the directories elsewhere of a copy that is being made, one a
// line, since nothing leads to them before it is complete.
func (i *Instance) madeFile() string { return i.newDir() + ".elsewhere" }

// ownDir is a directory below parent that isn't there yet.
func ownDir(parent string) string {
	for n := 1; ; n++ {
		if dir := filepath.Join(parent, ownPrefix+strconv.Itoa(n)); !exists(dir) {
			return dir
		}
	}
}

// placeFor is where a copy has the tablespace that the source has at location:
// at the same path if nothing is there, else below it.
func placeFor(location string) string {
	if strings.HasPrefix(filepath.Base(location), ownPrefix) {
		location = filepath.Dir(location)
	}
	if entries, err := os.ReadDir(location); errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return location
	}
	return ownDir(location)
}

// tablespaces asks where the server's own lie.
func tablespaces(ctx context.Context, c *sql.Conn) ([]string, error) {
	rows, err := c.QueryContext(ctx, "select pg_tablespace_location(oid) from pg_tablespace order by oid")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var location string
		if err := rows.Scan(&location); err != nil {
			return nil, err
		}
		if filepath.IsAbs(location) { // the others lie in the data directory
			out = append(out, location)
		}
	}
	return out, rows.Err()
}

// elsewhere prepares the directories elsewhere of a copy and returns the
// arguments of pg_basebackup for them.
func (i *Instance) elsewhere(ctx context.Context, from Source) (args []string, err error) {
	if err := i.forgetElsewhere(ctx); err != nil {
		return nil, err
	}
	var made []string
	if i.o.WALDir != "" {
		dir := ownDir(i.o.WALDir)
		made, args = append(made, dir), append(args, "--waldir", dir)
	}
	for _, location := range from.Tablespaces {
		place := placeFor(location)
		made = append(made, place)
		if place != location {
			args = append(args, "--tablespace-mapping", escapeMapping(location)+"="+escapeMapping(place))
		}
	}
	if len(made) == 0 {
		return nil, nil
	}
	return args, writeFile(filepath.Dir(i.madeFile()), filepath.Base(i.madeFile()), strings.Join(made, "\n"))
}

// escapeMapping writes a path as --tablespace-mapping reads it.
func escapeMapping(path string) string { return strings.ReplaceAll(path, "=", `\=`) }

// forgetElsewhere removes what an interrupted copy has left elsewhere.
func (i *Instance) forgetElsewhere(ctx context.Context) error {
	b, err := os.ReadFile(i.madeFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, dir := range strings.Split(string(b), "\n") {
		if err := i.removeElsewhere(ctx, dir); err != nil {
			return err
		}
	}
	return removeFile(i.madeFile())
}

// removeElsewhere removes what a directory elsewhere holds, unless one of our
// data directories uses it.
func (i *Instance) removeElsewhere(ctx context.Context, dir string) error {
	for _, d := range []string{i.o.DataDir, i.newDir(), i.asideDir()} {
		for _, used := range linked(d) {
			if used == dir {
				return nil
			}
		}
	}
	if strings.HasPrefix(filepath.Base(dir), ownPrefix) {
		return removeAll(ctx, dir)
	}
	// A tablespace's: PostgreSQL's directories in it are ours, the rest isn't.
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "PG_") {
			err = errors.Join(err, removeAll(ctx, filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// linked lists the directories elsewhere that the data directory uses.
func linked(dir string) []string {
	links := []string{filepath.Join(dir, "pg_wal")}
	spaces, _ := os.ReadDir(filepath.Join(dir, "pg_tblspc")) // none: nothing there
	for _, s := range spaces {
		links = append(links, filepath.Join(dir, "pg_tblspc", s.Name()))
	}
	var out []string
	for _, l := range links {
		if target, err := os.Readlink(l); err == nil && filepath.IsAbs(target) {
			out = append(out, target)
		}
	}
	return out
}

// removeLinked removes what the doomed data directory has elsewhere. A link of
// pg_wal that somebody else made leads to nothing of ours.
func (i *Instance) removeLinked(ctx context.Context, doomed string) error {
	wal, _ := os.Readlink(filepath.Join(doomed, "pg_wal")) // "": no link
	for _, dir := range linked(doomed) {
		if dir == wal && !(filepath.Dir(dir) == i.o.WALDir && strings.HasPrefix(filepath.Base(dir), ownPrefix)) {
			continue
		}
		if err := i.removeElsewhere(ctx, dir); err != nil {
			return fmt.Errorf("remove %s: %w", dir, err)
		}
	}
	return nil
}
