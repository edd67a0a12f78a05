package postgresql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"stolon/internal/postgresql/wal"
)

const (
	// handOverLook is how often pg_control is looked at.
	handOverLook = 5 * time.Millisecond
	// leaveBehind bounds the question that ends hopeless connections.
	leaveBehind = time.Second
)

// HandOver begins a fast stop and waits until pg_control tells that the
// shutdown checkpoint is written, and where. That is before the postmaster
// ends, which waits for every standby, for wal_sender_timeout if need be, and
// for the archiver (protocols.md W3).
func (i *Instance) HandOver(ctx context.Context, to string) (wal.LSN, error) {
	p, err := i.current()
	if err != nil {
		return 0, fmt.Errorf("hand over: %w", err)
	}
	if p == nil {
		return 0, errors.New("hand over: postgres is not running")
	}
	// The checkpoint itself waits until every WAL sender has noticed, and one
	// that is stuck in a full socket doesn't.
	lctx, cancel := context.WithTimeout(ctx, leaveBehind)
	err = i.ask(lctx, i.working, func(ctx context.Context, c *sql.Conn) error {
		_, err := c.ExecContext(ctx, `
			select pg_terminate_backend(pid) from pg_stat_replication
			where application_name <> $1
				and (reply_time < now() - interval '1 second' or pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn) > $2)`, to, farBehind)
		return err
	})
	cancel()
	if err != nil {
		i.log.Warn("could not look for standbys that don't keep up", zap.Error(err))
	}
	if err := p.signal(unix.SIGINT); err != nil {
		return 0, fmt.Errorf("hand over: %w", err)
	}
	for {
		if l, err := lookAt(i.o.DataDir); err == nil && l.State == ShutDown {
			return l.Checkpoint, nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("postmaster %d has not shut down: %w", p.pid, ctx.Err())
		case <-time.After(handOverLook):
		}
	}
}

// farBehind is how many bytes behind a standby is not waited for.
const farBehind = 16 << 20
