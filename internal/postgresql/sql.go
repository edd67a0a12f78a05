package postgresql

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/lib/pq"
	"go.uber.org/zap"
)

// ask runs f within the time that a question may take.
func (i *Instance) ask(ctx context.Context, s *session, f func(context.Context, *sql.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, i.o.RequestTimeout)
	defer cancel()
	return s.do(ctx, f)
}

// checkpoint has a server write a checkpoint, which takes what it takes, on a
// session that is used for nothing else.
func checkpoint(ctx context.Context, s *session) error {
	defer s.close()
	return s.do(ctx, func(ctx context.Context, c *sql.Conn) error {
		if _, err := c.ExecContext(ctx, "set statement_timeout = 0"); err != nil {
			return err
		}
		_, err := c.ExecContext(ctx, "checkpoint")
		return err
	})
}

// Close ends the connections to the instance, which goes on running.
func (i *Instance) Close() {
	for _, s := range []*session{i.asking, i.working} {
		s.turn <- struct{}{}
		s.close()
		<-s.turn
	}
}

// Show returns a setting as a new connection sees it.
func (i *Instance) Show(ctx context.Context, name string) (string, error) {
	s, err := i.localSession()
	if err != nil {
		return "", err
	}
	defer s.close()
	var value string
	err = i.ask(ctx, s, func(ctx context.Context, c *sql.Conn) error {
		return c.QueryRowContext(ctx, "select current_setting($1)", name).Scan(&value)
	})
	if err != nil {
		return "", fmt.Errorf("show %s: %w", name, err)
	}
	return value, nil
}

// Checkpoint runs CHECKPOINT and waits for it.
func (i *Instance) Checkpoint(ctx context.Context) error {
	s, err := i.localSession()
	if err != nil {
		return err
	}
	if err := checkpoint(ctx, s); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

// WakeStandbys has standbys that are connected tell how far they are.
//
// A commit that waits is released by what a standby tells, not by a change of
// synchronous_standby_names: where every client waits already, nothing new is
// written, and a standby that has everything tells so only when
// wal_receiver_status_interval (10 s) is over. Any record makes it answer, once
// that is flushed, which only a transaction's end sees to before PostgreSQL 17.
func (i *Instance) WakeStandbys(ctx context.Context) error {
	if err := i.exec(ctx, "select pg_logical_emit_message(true, 'stolon', '')"); err != nil {
		return fmt.Errorf("write a record for the standbys: %w", err)
	}
	return nil
}

// EndConflicts ends the transactions on a standby that its replay waits for, as
// PostgreSQL does after max_standby_streaming_delay, and reports how many; 0
// when replay waits for none. What a single statement holds goes with that, what
// an idle transaction holds goes with its connection.
//
// PostgreSQL tells that replay waits, but not for whom in each case: all
// transactions of clients are ended. A reload with a shorter delay would come
// too late, recovery doesn't see it while it waits.
func (i *Instance) EndConflicts(ctx context.Context) (int, error) {
	var ended []bool
	err := i.ask(ctx, i.working, func(ctx context.Context, c *sql.Conn) error {
		var err error
		ended, err = queryRows(ctx, c, `
			select case when state like 'idle in transaction%' then pg_terminate_backend(pid) else pg_cancel_backend(pid) end
			from pg_stat_activity
			where backend_type = 'client backend' and xact_start is not null and pid <> pg_backend_pid() and application_name <> '`+ourName+`'
				and exists (select from pg_stat_activity where backend_type = 'startup'
					and (wait_event like 'RecoveryConflict%' or wait_event_type in ('Lock', 'BufferPin')))`,
			func(rows *sql.Rows) (bool, error) {
				var done bool
				return done, rows.Scan(&done)
			})
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("end what replay waits for: %w", err)
	}
	return len(ended), nil
}

// Slots lists the replication slots that aren't temporary.
func (i *Instance) Slots(ctx context.Context) ([]Slot, error) {
	var slots []Slot
	err := i.ask(ctx, i.working, func(ctx context.Context, c *sql.Conn) error {
		var err error
		slots, err = queryRows(ctx, c, `
			select slot_name, active, slot_type = 'physical',
				coalesce((to_jsonb(s)->>'failover')::bool, false), coalesce((to_jsonb(s)->>'synced')::bool, false) -- since 17
			from pg_replication_slots s
			where not temporary order by slot_name`,
			func(rows *sql.Rows) (Slot, error) {
				var s Slot
				return s, rows.Scan(&s.Name, &s.Active, &s.Physical, &s.Failover, &s.Copied)
			})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list replication slots: %w", err)
	}
	return slots, nil
}

// CreateSlot makes a physical slot that reserves WAL at once.
func (i *Instance) CreateSlot(ctx context.Context, name string) error {
	if err := i.exec(ctx, "select pg_create_physical_replication_slot($1, true)", name); err != nil {
		return fmt.Errorf("create replication slot %s: %w", name, err)
	}
	return nil
}

// DropSlot drops a replication slot; one in use is not dropped.
func (i *Instance) DropSlot(ctx context.Context, name string) error {
	if err := i.exec(ctx, "select pg_drop_replication_slot($1)", name); err != nil {
		return fmt.Errorf("drop replication slot %s: %w", name, err)
	}
	return nil
}

func (i *Instance) exec(ctx context.Context, statement string, args ...any) error {
	return i.ask(ctx, i.working, func(ctx context.Context, c *sql.Conn) error {
		_, err := c.ExecContext(ctx, statement, args...)
		return err
	})
}

// SetRoles makes or updates the roles. It logs what it did in 0.17's words.
func (i *Instance) SetRoles(ctx context.Context, r Roles) error {
	i.log.Info("setting roles")
	var done []func()
	err := i.ask(ctx, i.working, func(ctx context.Context, c *sql.Conn) error {
		tx, err := c.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		done, err = i.setRoles(ctx, tx, r)
		if err != nil {
			return err
		}
		return tx.Commit()
	})
	if err != nil {
		return fmt.Errorf("set roles: %w", err)
	}
	for _, tell := range done {
		tell()
	}
	return nil
}

// setRoles returns what is to be told once it is committed.
func (i *Instance) setRoles(ctx context.Context, tx *sql.Tx, r Roles) (done []func(), err error) {
	// The statements hold passwords: PostgreSQL's log must not.
	statements := []string{
		"set local log_statement = 'none'",
		"set local log_min_duration_statement = -1",
		"set local log_min_error_statement = 'panic'",
	}
	if r.Scram {
		statements = append(statements, "set local password_encryption = 'scram-sha-256'")
	}
	if r.Superuser == r.Replication {
		statements = append(statements, "alter role "+pq.QuoteIdentifier(r.Superuser)+" with login replication"+password(r.SuperuserPassword))
		done = append(done, func() { i.log.Info("replication role added to superuser") })
	} else {
		if r.SuperuserPassword != "" {
			statements = append(statements, "alter role "+pq.QuoteIdentifier(r.Superuser)+" with login"+password(r.SuperuserPassword))
			done = append(done, func() { i.log.Info("superuser password set") })
		}
		var there bool
		if err := tx.QueryRowContext(ctx, "select exists (select 1 from pg_roles where rolname = $1)", r.Replication).Scan(&there); err != nil {
			return nil, err
		}
		verb, words := "create", "replication role created"
		if there {
			verb, words = "alter", "replication role updated"
		}
		statements = append(statements, verb+" role "+pq.QuoteIdentifier(r.Replication)+" with login replication"+password(r.ReplicationPassword))
		done = append(done, func() { i.log.Info(words, zap.String("role", r.Replication)) })
	}
	for _, s := range statements {
		if _, err := tx.ExecContext(ctx, s); err != nil {
			return nil, err
		}
	}
	return done, nil
}

// password has the server store a password by its password_encryption.
func password(p string) string {
	if p == "" {
		return ""
	}
	return " encrypted password " + pq.QuoteLiteral(p)
}
