package postgresql

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"stolon/internal/postgresql/conf"
)

// Beside the data directory there may be: the copy that is being made, what
// was set aside, and what is on its way out.
func (i *Instance) newDir() string   { return i.o.DataDir + ".new" }
func (i *Instance) asideDir() string { return i.o.DataDir + ".aside" }

// progressEvery is how often the progress of a base backup is told.
const progressEvery = 5 * time.Second

// InitDB makes a new data directory. There must be none.
func (i *Instance) InitDB(ctx context.Context, o InitDB) error {
	if err := i.absent(); err != nil {
		return err
	}
	args := []string{"-D", i.o.DataDir, "-U", o.Superuser}
	if o.Password != "" {
		if strings.ContainsAny(o.Password, "\r\n") {
			return errors.New("the superuser's password contains a line break")
		}
		args = append(args, "--pwfile", secretPath)
	}
	if o.Scram {
		args = append(args, "--auth=scram-sha-256") // what it says of pg_hba.conf is replaced
	}
	if i.o.WALDir != "" {
		args = append(args, "--waldir", ownDir(i.o.WALDir))
	}
	if o.Config.Locale != "" {
		args = append(args, "--locale", o.Config.Locale)
	}
	if o.Config.Encoding != "" {
		args = append(args, "--encoding", o.Config.Encoding)
	}
	if o.Config.DataChecksums {
		args = append(args, "--data-checksums")
	}
	p := program{name: "initdb", args: args}
	if o.Password != "" {
		p.secret = o.Password + "\n"
	}
	if err := i.run(ctx, p); err != nil {
		return errors.Join(err, i.remove(context.WithoutCancel(ctx), i.o.DataDir))
	}
	return syncDir(filepath.Dir(i.o.DataDir))
}

// absent is nil when the data directory is missing or empty.
func (i *Instance) absent() error {
	entries, err := os.ReadDir(i.o.DataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty", i.o.DataDir)
	}
	return nil
}

// BaseBackup copies the source's data into a directory beside the data
// directory and, only once that is complete, sets the old one aside and puts
// the copy in its place. progress is told lines worth logging.
func (i *Instance) BaseBackup(ctx context.Context, from Source, progress func(string)) error {
	if err := i.stopped("base backup"); err != nil {
		return err
	}
	if err := i.remove(ctx, i.newDir()); err != nil { // of an attempt that was interrupted
		return err
	}
	passfile, err := from.passfile()
	if err != nil {
		return err
	}
	args := []string{"-v", "-P", "-Xs", "--no-password", "--checkpoint=fast", "-D", i.newDir(), "-d", from.conninfo("")}
	more, err := i.elsewhere(ctx, from)
	if err != nil {
		return err
	}
	args = append(args, more...)
	if from.Slot != "" {
		args = append(args, "--slot", from.Slot)
	}
	var told time.Time
	err = i.run(ctx, program{
		name:   "pg_basebackup",
		args:   args,
		secret: passfile,
		env:    []string{"PGPASSFILE=" + secretPath},
		line: func(line string) {
			if progress != nil && time.Since(told) >= progressEvery {
				told = time.Now()
				progress(line)
			}
		},
	})
	if err != nil {
		return err
	}
	complete, err := initialized(i.newDir())
	if err != nil {
		return err
	}
	if !complete {
		return fmt.Errorf("pg_basebackup made no complete data directory in %s", i.newDir())
	}
	if err := i.SetAside(ctx); err != nil {
		return err
	}
	if err := os.Rename(i.newDir(), i.o.DataDir); err != nil {
		return err
	}
	return errors.Join(removeFile(i.madeFile()), syncDir(filepath.Dir(i.o.DataDir)))
}

// SetAside moves the data directory aside, replacing one set aside before. A
// data directory that isn't complete replaces none: it is removed.
func (i *Instance) SetAside(ctx context.Context) error {
	if err := i.stopped("set aside"); err != nil {
		return err
	}
	if !exists(i.o.DataDir) {
		return nil
	}
	if err := endOrphans(ctx, i.o.DataDir); err != nil {
		return err
	}
	complete, err := initialized(i.o.DataDir)
	if err != nil {
		return err
	}
	empty := i.absent() == nil
	if err := movable(i.o.DataDir); err != nil {
		if empty {
			return nil // it is in nobody's way
		}
		return err
	}
	if !complete && (exists(i.asideDir()) || empty) {
		return i.remove(ctx, i.o.DataDir)
	}
	if err := i.remove(ctx, i.asideDir()); err != nil {
		return err
	}
	if err := os.Rename(i.o.DataDir, i.asideDir()); err != nil {
		return err
	}
	return syncDir(filepath.Dir(i.o.DataDir))
}

// DropAside removes the directory that was set aside.
func (i *Instance) DropAside(ctx context.Context) error {
	return i.remove(ctx, i.asideDir())
}

// remove removes a directory with all that is in it. It goes by another name
// from the first moment, so that what is left of it after an interruption is
// never taken for data. What it has elsewhere goes too.
func (i *Instance) remove(ctx context.Context, dir string) error {
	doomed := dir + ".removed"
	end := func() error { return errors.Join(i.removeLinked(ctx, doomed), removeAll(ctx, doomed)) }
	if err := end(); err != nil { // of an attempt that was interrupted
		return err
	}
	if err := os.Rename(dir, doomed); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return end()
}

// removeAll is os.RemoveAll that ends with ctx.
func removeAll(ctx context.Context, dir string) error {
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if e.IsDir() {
			return nil
		}
		return os.Remove(path)
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return os.RemoveAll(dir)
}

func (i *Instance) stopped(what string) error {
	p, err := i.current()
	if err != nil {
		return err
	}
	if p != nil {
		return fmt.Errorf("%s: postmaster %d runs", what, p.pid)
	}
	return nil
}

// conninfo is how PostgreSQL's programs reach the source. A connection to a
// host that vanished ends within half a minute.
func (s Source) conninfo(database string) string {
	values := s.TLS.Settings()
	maps.Copy(values, map[string]string{
		"application_name":    s.ApplicationName,
		"connect_timeout":     "10",
		"dbname":              database,
		"host":                s.Host,
		"keepalives_count":    "3",
		"keepalives_idle":     "10",
		"keepalives_interval": "5",
		"options":             "-c synchronous_commit=local",
		"port":                s.Port,
		"user":                s.User,
	})
	return conf.Conninfo(values)
}

// passfile is the password file for the source. It is never empty: without one
// the programs would take the operator's.
func (s Source) passfile() (string, error) {
	if strings.ContainsAny(s.Password, "\r\n") {
		return "", fmt.Errorf("the password of %s contains a line break", s.User)
	}
	if s.Password == "" {
		return "# no password\n", nil
	}
	return conf.PassfileLine(s.Host, s.Port, s.User, s.Password), nil
}
