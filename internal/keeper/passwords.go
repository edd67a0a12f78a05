package keeper

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"stolon/internal/cluster"
	"stolon/internal/keeper/decide"
	"stolon/internal/postgresql"
	"stolon/internal/postgresql/conf"
)

// secrets are the passwords of stolon's roles. An operator changes the files
// that hold them one keeper after the other, while PostgreSQL knows one of them
// at a time: the master's, which gives the roles its own as soon as it reads a
// new one. So every other keeper goes on trying the one before as well, in
// turn, for as long as it does not stream.
type secrets struct {
	superuser, replication secret
	version                int  // counts the changes
	older                  bool // it is the turn of the ones before
}

type secret struct {
	now, before string // before is "" when there was none
}

// in is the one to try.
func (s secret) in(older bool) string {
	if older && s.before != "" {
		return s.before
	}
	return s.now
}

// changed notes what was read.
func (s secret) changed(now string) secret {
	if now == s.now {
		return s
	}
	return secret{now: now, before: s.now}
}

// asReplication and asSuperuser complete a source with who connects there.
func (k *Keeper) asReplication(from postgresql.Source) postgresql.Source {
	s := k.get().secrets
	from.User, from.Password, from.TLS = k.o.Replication.User, s.replication.in(s.older), k.tls(k.o.Replication)
	return from
}

func (k *Keeper) asSuperuser(from postgresql.Source) postgresql.Source {
	s := k.get().secrets
	from.User, from.Password, from.TLS = k.o.Superuser.User, s.superuser.in(s.older), k.tls(k.o.Superuser)
	from.Slot = ""
	return from
}

// savePassfile writes the replication password where only the keeper's user
// reads it, for PostgreSQL's WAL receiver.
func (k *Keeper) savePassfile() error {
	if k.passfile == "" {
		return nil
	}
	s := k.get().secrets
	line := conf.PassfileLine("*", "*", k.o.Replication.User, s.replication.in(s.older))
	if err := k.o.Files.Save(replicationPassfile, []byte(line)); err != nil {
		return fmt.Errorf("save %s: %w", replicationPassfile, err)
	}
	return nil
}

// passwordLoop reads the passwords every sleepInterval.
func (k *Keeper) passwordLoop(ctx context.Context) {
	if k.o.Passwords == nil {
		return
	}
	timer := time.NewTimer(k.get().settings().SleepInterval.Duration)
	defer timer.Stop()
	var last [2]string
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if err := k.readPasswords(&last); err != nil {
			k.tellOnce("passwords", err.Error(), zap.ErrorLevel, "going on with the passwords read before", zap.Error(err))
		} else {
			k.tellOnce("passwords", "", zap.InfoLevel, "passwords can be read again")
		}
		timer.Reset(k.get().settings().SleepInterval.Duration)
	}
}

// readPasswords takes what was read twice: a file may be in the middle of
// being written.
func (k *Keeper) readPasswords(last *[2]string) error {
	superuser, replication, err := k.o.Passwords()
	if err != nil {
		return err
	}
	was := k.get()
	now := was.secrets
	if read := [2]string{superuser, replication}; read != *last {
		*last = read
		return nil
	}
	now.superuser, now.replication = now.superuser.changed(superuser), now.replication.changed(replication)
	changed := now != was.secrets
	switch {
	case changed:
		now.version, now.older = now.version+1, false
		k.o.Instance.SetPassword(now.superuser.now, now.superuser.before)
		k.log.Info("passwords have changed", zap.Bool("superuser", now.superuser != was.secrets.superuser), zap.Bool("replication", now.replication != was.secrets.replication))
	case now.version > 0 && was.misses():
		now.older = !now.older
	default:
		return nil
	}
	k.set(func(s *shared) { s.secrets = now })
	if changed {
		wake(k.wakeConverge)
	}
	return k.savePassfile()
}

// misses: the instance should stream from another and doesn't.
func (s shared) misses() bool {
	db := s.db()
	return db != nil && db.Spec.Role == cluster.RoleStandby && (s.report.sample == nil || !s.report.sample.ReceiverUp)
}

// renewRoles gives the roles of a primary the passwords that were read since
// it last did.
func (k *Keeper) renewRoles(ctx context.Context, in decide.In) {
	s := k.get().secrets
	if s.version == k.applied.passwords || !in.Seen.Primary || !in.Seen.Answers {
		return
	}
	err := k.o.Instance.SetRoles(ctx, k.roles(s))
	switch {
	case err == nil:
		k.applied.passwords = s.version
		k.tellOnce("roles", "", zap.InfoLevel, "")
	case !errors.Is(err, context.Canceled):
		k.tellOnce("roles", err.Error(), zap.ErrorLevel, "cannot give the roles their new passwords", zap.Error(err))
	}
}

func (k *Keeper) roles(s secrets) postgresql.Roles {
	return postgresql.Roles{
		Superuser: k.o.Superuser.User, SuperuserPassword: s.superuser.now,
		Replication: k.o.Replication.User, ReplicationPassword: s.replication.now,
		// md5 in pg_hba.conf takes them too.
		Scram: k.o.Superuser.Method == ScramSHA256 || k.o.Replication.Method == ScramSHA256,
	}
}
