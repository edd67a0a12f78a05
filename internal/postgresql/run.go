package postgresql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"stolon/internal/postgresql/conf"
)

const (
	standbySignal  = "standby.signal"
	recoverySignal = "recovery.signal"
	// firstConf is the configuration of a first start, by 0.17's name.
	firstConf = "stolon-temp-postgresql.conf"

	pollFile     = 10 * time.Millisecond  // how often postmaster.pid is read while waiting
	wakeRecovery = 100 * time.Millisecond // how often recovery is reminded of a promotion
	pollReady    = 50 * time.Millisecond  // how often the instance is asked while waiting
	// loadTimeout is how long Reload waits for the configuration to be read.
	loadTimeout = time.Second
	// quitGrace is how long a start that is given up has to end by itself.
	quitGrace = 5 * time.Second
)

// Start writes the configuration and starts the postmaster; it returns once
// that owns the data directory and listens, which is before it takes
// connections. With firstStart the settings that initdb or a restore left
// behind stay in force below c's.
//
// It refuses to start a standby's data as a primary: without a promotion it
// would go on writing its old primary's timeline.
func (i *Instance) Start(ctx context.Context, c conf.Config, firstStart bool) error {
	if p, err := i.current(); err != nil {
		return err
	} else if p != nil {
		return fmt.Errorf("postmaster %d runs already", p.pid)
	}
	look, err := lookAt(i.o.DataDir)
	if err != nil {
		return err
	}
	if !look.Initialized {
		return fmt.Errorf("%s is not a complete data directory", i.o.DataDir)
	}
	if c.Recovery == nil && look.StandbySignal && (look.State == ShutDownInRecovery || look.State == InArchiveRecovery) {
		return fmt.Errorf("%s is a standby's (%s): start it as one and promote it", i.o.DataDir, look.State)
	}
	if err := endOrphans(ctx, i.o.DataDir); err != nil {
		return err
	}
	if err := i.prepare(c, firstStart); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	p, err := i.launch(firstStart)
	if err != nil {
		return err
	}
	if err := i.awaitOwner(ctx, p); err != nil {
		if p.alive() {
			i.giveUp(p)
		}
		return err
	}
	return nil
}

// prepare makes the files in the data directory say what c says.
func (i *Instance) prepare(c conf.Config, firstStart bool) error {
	dir := i.o.DataDir
	if err := linkToNothing(dir, "postgresql.auto.conf"); err != nil {
		return err
	}
	wanted := map[string]bool{
		standbySignal:  c.Recovery != nil && c.Recovery.Standby,
		recoverySignal: c.Recovery != nil && !c.Recovery.Standby,
	}
	for _, name := range []string{standbySignal, recoverySignal} {
		var err error
		if wanted[name] {
			err = writeFile(dir, name, "")
		} else {
			err = removeFile(filepath.Join(dir, name))
		}
		if err != nil {
			return err
		}
	}
	return i.writeConfig(c, firstStart)
}

func (i *Instance) writeConfig(c conf.Config, firstStart bool) error {
	dir := i.o.DataDir
	name, text := "postgresql.conf", conf.File(c)
	if firstStart {
		if exists(filepath.Join(dir, name)) {
			text = "include 'postgresql.conf'\n" + text
		}
		name = firstConf
	}
	if err := writeFile(dir, name, text); err != nil {
		return err
	}
	if err := writeFile(dir, "pg_hba.conf", conf.HBAFile(c)); err != nil {
		return err
	}
	return syncDir(dir)
}

// launch starts the server as our child, in a session of its own: what a
// terminal sends the keeper doesn't reach it, and it outlives a killed keeper.
func (i *Instance) launch(firstStart bool) (*postmaster, error) {
	path, err := i.program("postgres")
	if err != nil {
		return nil, err
	}
	args := []string{"-D", i.o.DataDir, "-c", "unix_socket_directories=" + i.o.SocketDir}
	if firstStart {
		args = append(args, "-c", "config_file="+filepath.Join(i.o.DataDir, firstConf))
	}
	cmd := exec.Command(path, args...)
	cmd.Env = environment()
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	// It can't be reaped, so the number is its own, until watch waits for it.
	pidfd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, fmt.Errorf("open process %d: %w", cmd.Process.Pid, err)
	}
	p := newPostmaster(cmd.Process.Pid, pidfd, cmd)
	i.mu.Lock()
	i.postmaster = p
	i.mu.Unlock()
	return p, nil
}

// awaitOwner waits until the new postmaster says in postmaster.pid that it is
// starting up: then it has read its configuration and listens.
func (i *Instance) awaitOwner(ctx context.Context, p *postmaster) error {
	tick := time.NewTicker(pollFile)
	defer tick.Stop()
	for {
		file, err := readPostmasterFile(i.o.DataDir)
		if err != nil {
			return err
		}
		if file.pid == p.pid && file.status != "" && p.alive() {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("postgres exited unexpectedly: %s", p.why)
		case <-ctx.Done():
			return fmt.Errorf("instance still starting: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// giveUp ends a postmaster that did not come up in time, so that a start that
// failed leaves nothing running.
func (i *Instance) giveUp(p *postmaster) {
	_ = p.signal(unix.SIGQUIT)
	select {
	case <-p.exited:
		return
	case <-time.After(quitGrace):
	}
	_ = p.signal(unix.SIGKILL)
	<-p.exited
}

// Ready waits until the instance takes connections.
func (i *Instance) Ready(ctx context.Context) error {
	tick := time.NewTicker(pollFile)
	defer tick.Stop()
	var last error
	var asked time.Time
	for {
		p, err := i.current()
		if err != nil {
			return err
		}
		if p == nil {
			return errors.New("postgres is not running")
		}
		file, err := readPostmasterFile(i.o.DataDir)
		if err != nil {
			return err
		}
		// Asking earlier would only fill PostgreSQL's log with refusals.
		if file.status == "ready" && time.Since(asked) >= pollReady {
			asked = time.Now()
			if last = i.ask(ctx, i.working, func(ctx context.Context, c *sql.Conn) error {
				_, err := c.ExecContext(ctx, "select 1")
				return err
			}); last == nil {
				return nil
			}
		}
		select {
		case <-p.exited:
			return errors.New("postgres exited unexpectedly")
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("wait until postgres takes connections: %w", ctx.Err()), last)
		case <-tick.C:
		}
	}
}

// Reload writes the configuration and has it read. It returns when that has
// happened, so that the next Sample tells what needs a restart, or after a
// moment: a file with an error in it never counts as read. The signal files
// stay as they are: what the instance is doesn't change while it runs.
func (i *Instance) Reload(ctx context.Context, c conf.Config) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p, err := i.current()
	if err != nil {
		return err
	}
	if p == nil {
		return errors.New("reload: postgres is not running")
	}
	before, asked := i.loadTime(ctx)
	if err := i.writeConfig(c, false); err != nil {
		return err
	}
	if err := p.signal(unix.SIGHUP); err != nil || asked != nil {
		return err // one that can't answer is only told
	}
	timeout := time.After(loadTimeout)
	for {
		if now, err := i.loadTime(ctx); err != nil || now != before {
			return ctx.Err()
		}
		select {
		case <-timeout:
			return nil
		case <-p.exited:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollFile):
		}
	}
}

// loadTime is when the postmaster last read its configuration. A connection
// that was there before may not have followed it yet, a new one has.
func (i *Instance) loadTime(ctx context.Context) (string, error) {
	s, err := i.localSession()
	if err != nil {
		return "", err
	}
	defer s.close()
	var at string
	err = i.ask(ctx, s, func(ctx context.Context, c *sql.Conn) error {
		return c.QueryRowContext(ctx, "select pg_conf_load_time()::text").Scan(&at)
	})
	return at, err
}

// Promote makes a standby a primary and waits until it is one. It needs no
// connection to give the order, only to see it carried out.
func (i *Instance) Promote(ctx context.Context) error {
	p, err := i.current()
	if err != nil {
		return err
	}
	if p == nil {
		return errors.New("promote: postgres is not running")
	}
	look, err := lookAt(i.o.DataDir)
	if err != nil {
		return err
	}
	if look.StandbySignal { // else it has been promoted
		if err := writeFile(i.o.DataDir, "promote", ""); err != nil {
			return err
		}
		if err := p.signal(unix.SIGUSR1); err != nil {
			return err
		}
	}
	tick := time.NewTicker(pollFile)
	defer tick.Stop()
	// Recovery that takes the order just before it begins to wait for its lost
	// primary waits on, for all of wal_retrieve_retry_interval. Any signal to
	// it ends that wait, and a reload is one that changes nothing.
	stuck := time.NewTicker(wakeRecovery)
	defer stuck.Stop()
	var last error
	for {
		var inRecovery bool
		last = i.ask(ctx, i.working, func(ctx context.Context, c *sql.Conn) error {
			return c.QueryRowContext(ctx, "select pg_is_in_recovery()").Scan(&inRecovery)
		})
		if last == nil && !inRecovery {
			return nil
		}
		select {
		case <-p.exited:
			return errors.New("promote: postgres exited unexpectedly")
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("promote: %w", ctx.Err()), last)
		case <-stuck.C:
			if err := p.signal(unix.SIGHUP); err != nil {
				return fmt.Errorf("promote: %w", err)
			}
			// Nor does recovery end before it has replayed everything.
			i.endConflicts(ctx)
		case <-tick.C:
		}
	}
}

// endConflicts is EndConflicts for who goes on without.
func (i *Instance) endConflicts(ctx context.Context) {
	n, err := i.EndConflicts(ctx)
	if err != nil {
		i.log.Debug("cannot look for what replay waits for", zap.Error(err))
	}
	if n > 0 {
		i.log.Warn("queries ended that replay waited for", zap.Int("transactions", n))
	}
}

// Version of the programs in the binary directory, asked once: major, minor.
func (i *Instance) Version(ctx context.Context) (major, minor int, err error) {
	i.mu.Lock()
	major, minor = i.major, i.minor
	i.mu.Unlock()
	if major != 0 {
		return major, minor, nil
	}
	path, err := i.program("postgres")
	if err != nil {
		return 0, 0, err
	}
	cmd := exec.CommandContext(ctx, path, "-V")
	cmd.Env = environment()
	out, err := cmd.Output()
	if err != nil {
		return 0, 0, fmt.Errorf("run %s -V: %w", path, err)
	}
	if major, minor, err = conf.ParseVersion(string(out)); err != nil {
		return 0, 0, err
	}
	i.mu.Lock()
	i.major, i.minor = major, minor
	i.mu.Unlock()
	return major, minor, nil
}

// program is the path of one of PostgreSQL's programs.
func (i *Instance) program(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil // not PostgreSQL's
	}
	if i.o.BinDir == "" {
		path, err := exec.LookPath(name)
		if err != nil {
			return "", fmt.Errorf("PostgreSQL's programs are not in $PATH (--pg-bin-path tells where they are): %w", err)
		}
		return path, nil
	}
	path := filepath.Join(i.o.BinDir, name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("PostgreSQL's programs are not in %s (--pg-bin-path): %w", i.o.BinDir, err)
	}
	return path, nil
}

// environment is ours without what would lead PostgreSQL's programs to another
// server, directory or password, and without the keeper's own passwords.
func environment() []string {
	var env []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		misleads := strings.HasPrefix(name, "PG") && !strings.HasPrefix(name, "PGSSL")
		if !misleads && !(strings.HasPrefix(name, "STKEEPER_") && strings.HasSuffix(name, "_PASSWORD")) {
			env = append(env, v)
		}
	}
	return env
}
