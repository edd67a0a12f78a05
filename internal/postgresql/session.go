package postgresql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/lib/pq"
)

// ourName is the application_name of the keeper's own sessions.
const ourName = "stolon keeper"

// session is one superuser connection that lives from question to question. It
// is made when it is first needed and made anew when it broke. Users of one
// session take turns.
type session struct {
	server pq.Config
	turn   chan struct{} // holds a token while somebody has his turn
	// passwords are tried one after the other.
	passwords func() []string

	// Of the one that has his turn.
	db       *sql.DB
	conn     *sql.Conn
	raw      net.Conn
	prepared map[string]*sql.Stmt // by their text, of this connection
}

// asker is a connection, or prepared statements of one.
type asker interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// planned asks what is asked again and again: PostgreSQL plans it once for each
// connection, which for its own views is most of the work.
type planned struct{ s *session }

func (p planned) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	stmt := p.s.prepared[query]
	if stmt == nil {
		var err error
		if stmt, err = p.s.conn.PrepareContext(ctx, query); err != nil {
			return nil, err
		}
		p.s.prepared[query] = stmt
	}
	return stmt.QueryContext(ctx, args...)
}

// localSession connects by the socket. It needs no TLS there.
func (i *Instance) localSession() (*session, error) {
	s, err := newSession(i.o.SocketDir, i.o.Port, i.o.Superuser, i.superuserPasswords, i.o.RequestTimeout)
	if err != nil {
		return nil, err
	}
	s.server.SSLMode = pq.SSLModeDisable
	return s, nil
}

// session connects to the source as its user.
func (s Source) session(timeout time.Duration) (*session, error) {
	out, err := newSession(s.Host, s.Port, s.User, func() []string { return []string{s.Password} }, timeout)
	if err != nil {
		return nil, err
	}
	tls := s.TLS.Settings()
	out.server.SSLMode, out.server.SSLRootCert = pq.SSLMode(tls["sslmode"]), tls["sslrootcert"]
	out.server.SSLCert, out.server.SSLKey = tls["sslcert"], tls["sslkey"]
	return out, nil
}

// newSession makes a session that isn't connected yet; the caller says what TLS
// it needs. Its own writes never
// wait for a standby, nothing in public schemas can pose as a system function,
// what users set for everybody doesn't bind it, and it doesn't fill their log.
func newSession(host, port, user string, passwords func() []string, timeout time.Duration) (*session, error) {
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("port %q is not a number from 0 to 65535", port)
	}
	return &session{
		turn:      make(chan struct{}, 1),
		passwords: passwords,
		server: pq.Config{
			Host:               host,
			Port:               uint16(number),
			Database:           "postgres",
			User:               user,
			Passfile:           "/dev/null",
			SSLSNI:             true,
			ConnectTimeout:     timeout,
			ApplicationName:    ourName,
			ClientEncoding:     "UTF8",
			MinProtocolVersion: "3.0",
			MaxProtocolVersion: "3.0",
			Options: fmt.Sprintf("-c synchronous_commit=local -c search_path=pg_catalog"+
				" -c default_transaction_read_only=off -c lock_timeout=0 -c log_statement=none -c log_min_duration_statement=-1"+
				" -c statement_timeout=%d", timeout.Milliseconds()),
		},
	}, nil
}

// do runs f with the connection when it is this caller's turn. When ctx ends,
// the connection is cut, so that even a server that is stopped can't hold the
// caller. f may run twice: when the connection from the time before turned out
// broken.
func (s *session) do(ctx context.Context, f func(context.Context, *sql.Conn) error) error {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.turn }()

	old := s.conn != nil
	err := s.try(ctx, f)
	if old && s.conn == nil && ctx.Err() == nil {
		err = s.try(ctx, f)
	}
	return err
}

func (s *session) try(ctx context.Context, f func(context.Context, *sql.Conn) error) error {
	if s.conn == nil {
		if err := s.open(ctx); err != nil {
			return fmt.Errorf("connect to PostgreSQL at %s port %d: %w", s.server.Host, s.server.Port, err)
		}
	}
	raw := s.raw
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	err := f(context.WithoutCancel(ctx), s.conn)
	if !stop() {
		s.close()
		if err != nil {
			return fmt.Errorf("%w (%w)", ctx.Err(), err)
		}
		return nil
	}
	if breaks(err) {
		s.close()
	}
	return err
}

// open connects, with the first password that is taken.
func (s *session) open(ctx context.Context) error {
	var err error
	for _, password := range s.passwords() {
		server := s.server
		server.Password = password
		if err = s.connect(ctx, server); !refused(err) {
			break
		}
	}
	return err
}

// refused reports whether the server would have nothing of this password.
func refused(err error) bool {
	var answer *pq.Error
	return errors.As(err, &answer) && answer.Code.Class() == "28"
}

func (s *session) connect(ctx context.Context, server pq.Config) error {
	connector, err := pq.NewConnectorConfig(server)
	if err != nil {
		return err
	}
	// The handshake has no context: its connection is cut when ctx ends.
	var raw atomic.Pointer[net.Conn]
	stop := context.AfterFunc(ctx, func() {
		if c := raw.Load(); c != nil {
			(*c).Close()
		}
	})
	defer stop()
	connector.Dialer(dialer{ctx: ctx, made: func(c net.Conn) {
		raw.Store(&c)
		if ctx.Err() != nil {
			c.Close()
		}
	}})
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(1)
	conn, err := db.Conn(context.WithoutCancel(ctx))
	if err != nil {
		db.Close()
		return errors.Join(ctx.Err(), err)
	}
	s.db, s.conn, s.raw, s.prepared = db, conn, *raw.Load(), map[string]*sql.Stmt{}
	return nil
}

// close ends the connection, if there is one. The caller has his turn.
func (s *session) close() {
	if s.conn == nil {
		return
	}
	_ = s.raw.SetReadDeadline(time.Now()) // lib/pq waits for answers when it closes statements
	s.conn.Close()
	s.db.Close()
	s.raw.Close()
	s.db, s.conn, s.raw, s.prepared = nil, nil, nil, nil
}

// breaks reports whether a connection is of no more use after err. Only an
// error that the server answered with, and then went on, leaves it whole.
func breaks(err error) bool {
	if err == nil {
		return false
	}
	var answer *pq.Error
	if !errors.As(err, &answer) {
		return true
	}
	return answer.Severity == "FATAL" || answer.Severity == "PANIC" || answer.Code.Class() == "57"
}

// dialer connects under the context of the session's user, and tells of the
// connection.
type dialer struct {
	ctx  context.Context
	made func(net.Conn)
}

func (d dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialTimeout(network, address, 0)
}

func (d dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: timeout}).DialContext(d.ctx, network, address)
	if err == nil {
		d.made(c)
	}
	return c, err
}
