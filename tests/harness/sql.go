package harness

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lib/pq"
)

// queryTime is how long a statement may take where nothing else is said.
const queryTime = 10 * time.Second

// A Server is where SQL goes: an instance or a proxy, as some user.
type Server struct {
	Host     string
	Port     string
	User     string
	Password string

	mode string // sslmode, "" for disable
	t    testing.TB
}

// As is the server as another user.
func (s Server) As(user, password string) Server {
	s.User, s.Password = user, password
	return s
}

// TLS is the server over TLS.
func (s Server) TLS() Server {
	s.mode = "require"
	return s
}

func (s Server) dsn() string {
	password := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s.Password)
	return fmt.Sprintf("host=%s port=%s user=%s password='%s' dbname=postgres sslmode=%s connect_timeout=5", s.Host, s.Port, s.User, password, cmp.Or(s.mode, "disable"))
}

// Try runs one statement on a new connection and returns its rows, columns
// separated by "|" and rows by newlines.
func (s Server) Try(timeout time.Duration, statement string) (string, error) {
	var out string
	err := s.connect(timeout, func(conn *sql.Conn) error {
		rows, err := conn.QueryContext(context.Background(), statement)
		if err != nil {
			return err
		}
		defer rows.Close()
		out, err = text(rows)
		return err
	})
	return out, err
}

// Connect begins a session and ends it.
func (s Server) Connect(timeout time.Duration) error {
	return s.connect(timeout, func(*sql.Conn) error { return nil })
}

func (s Server) connect(timeout time.Duration, use func(*sql.Conn) error) error {
	c, err := pq.NewConnector(s.dsn())
	if err != nil {
		return err
	}
	// A deadline rather than a context: lib/pq answers the end of a context by
	// a cancel request, which ends a wait for synchronous replication.
	c.Dialer(&deadlineDialer{timeout: timeout})
	db := sql.OpenDB(c)
	defer db.Close()
	// Pinned, so that database/sql does not run a statement a second time.
	conn, err := db.Conn(context.Background())
	if err != nil {
		return err
	}
	defer conn.Close()
	return use(conn)
}

// Hold runs statements on a connection that stays open until the test ends.
func (s Server) Hold(statements string) {
	s.t.Helper()
	db, err := sql.Open("postgres", s.dsn())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { db.Close() })
	if _, err := db.Exec(statements); err != nil {
		s.t.Fatalf("port %s: %s: %v", s.Port, statements, err)
	}
}

func text(rows *sql.Rows) (string, error) {
	cols, err := rows.Columns()
	if err != nil {
		return "", err
	}
	var lines []string
	for rows.Next() {
		values := make([]sql.NullString, len(cols))
		into := make([]any, len(cols))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return "", err
		}
		var row []string
		for _, v := range values {
			row = append(row, v.String)
		}
		lines = append(lines, strings.Join(row, "|"))
	}
	return strings.Join(lines, "\n"), rows.Err()
}

// Query is Try that must succeed.
func (s Server) Query(statement string) string {
	s.t.Helper()
	got, err := s.Try(queryTime, statement)
	if err != nil {
		s.t.Fatalf("port %s: %s: %v", s.Port, statement, err)
	}
	return got
}

// AwaitQuery waits until the statement succeeds with want.
func (s Server) AwaitQuery(timeout time.Duration, statement, want string) {
	s.t.Helper()
	Await(s.t, timeout, fmt.Sprintf("port %s answers %q with %q", s.Port, statement, want), func() (string, bool) {
		return s.answers(statement, want)
	})
}

// answers asks once, and tells what it saw.
func (s Server) answers(statement, want string) (saw string, ok bool) {
	got, err := s.Try(queryTime, statement)
	if err != nil {
		return fmt.Sprintf("port %s: %v", s.Port, err), false
	}
	return fmt.Sprintf("port %s answers %q with %q", s.Port, statement, got), got == want
}

// deadlineDialer makes connections that end by themselves.
type deadlineDialer struct {
	timeout time.Duration // from the dial; 0 is none
}

func (d *deadlineDialer) Dial(network, address string) (net.Conn, error) {
	return d.DialTimeout(network, address, 5*time.Second)
}

func (d *deadlineDialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	c, err := net.DialTimeout(network, address, timeout)
	if err != nil || d.timeout == 0 {
		return c, err
	}
	return &deadlineConn{Conn: c, until: time.Now().Add(d.timeout)}, nil
}

// deadlineConn ignores deadlines set by others, that is by lib/pq.
type deadlineConn struct {
	net.Conn
	until time.Time
}

func (c *deadlineConn) SetDeadline(time.Time) error { return c.Conn.SetDeadline(c.until) }

// A Writer commits numbered rows one after the other, reconnecting at once
// when its connection ends, and remembers what was acknowledged.
type Writer struct {
	servers []Server
	stop    context.CancelFunc
	done    chan struct{}

	mu    sync.Mutex
	acked []int       // numbers
	times []time.Time // of the acknowledgements
	conns int         // connections that have ended
	fails int         // of those, the ones that never were
	fail  error       // of the last of these
	last  error
}

const (
	writePause   = 10 * time.Millisecond
	writeTimeout = 10 * time.Second // silence after which a connection is given up
)

// StartWriter makes table written and writes through the servers, one after
// the other when one fails, until the test ends or Stop is called.
func StartWriter(servers ...Server) *Writer { return StartWriterFrom(0, servers...) }

// StartWriterFrom is StartWriter for one of several: its rows have the numbers
// after first.
func StartWriterFrom(first int, servers ...Server) *Writer {
	t := servers[0].t
	t.Helper()
	servers[0].Query("create table if not exists written (n int primary key)")
	ctx, cancel := context.WithCancel(context.Background())
	w := &Writer{servers: servers, stop: cancel, done: make(chan struct{})}
	t.Cleanup(w.Stop)
	go w.run(ctx, first)
	return w
}

// Stop ends the writing.
func (w *Writer) Stop() {
	w.stop()
	<-w.done
}

func (w *Writer) run(ctx context.Context, n int) {
	defer close(w.done)
	for i := 0; ctx.Err() == nil; i++ {
		err := w.session(ctx, w.servers[i%len(w.servers)], &n)
		w.mu.Lock()
		w.conns, w.last = w.conns+1, err
		w.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(writePause):
		}
	}
}

// session writes over one connection until it fails.
func (w *Writer) session(ctx context.Context, s Server, n *int) error {
	c, err := pq.NewConnector(s.dsn())
	if err != nil {
		return err
	}
	dial := &trackedDialer{}
	c.Dialer(dial)
	unsure := false
	noticed := pq.ConnectorWithNoticeHandler(c, func(e *pq.Error) {
		// Acknowledged without the standbys' confirmation (protocols.md C5).
		unsure = unsure || strings.Contains(e.Message, "synchronous replication")
	})
	db := sql.OpenDB(noticed)
	defer db.Close()
	conn, err := db.Conn(context.Background())
	if err != nil {
		w.mu.Lock()
		w.fails, w.fail = w.fails+1, err
		w.mu.Unlock()
		return err
	}
	defer conn.Close()
	for {
		*n++
		dial.extend()
		if _, err := conn.ExecContext(context.Background(), "insert into written values ("+strconv.Itoa(*n)+")"); err != nil {
			return err
		}
		if unsure {
			return fmt.Errorf("row %d was acknowledged without synchronous replication", *n)
		}
		w.mu.Lock()
		w.acked, w.times = append(w.acked, *n), append(w.times, time.Now())
		w.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(writePause):
		}
	}
}

// trackedDialer gives a connection a deadline that each statement extends.
type trackedDialer struct{ conn net.Conn }

func (d *trackedDialer) Dial(network, address string) (net.Conn, error) {
	return d.DialTimeout(network, address, 5*time.Second)
}

func (d *trackedDialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	c, err := net.DialTimeout(network, address, timeout)
	d.conn = c
	return c, err
}

func (d *trackedDialer) extend() { _ = d.conn.SetDeadline(time.Now().Add(writeTimeout)) }

// Acked is how many rows were acknowledged.
func (w *Writer) Acked() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// Connections is how many connections have ended.
func (w *Writer) Connections() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.conns
}

// FailedConnects is how many connections could not be made, and why not the
// last of them.
func (w *Writer) FailedConnects() (n int, last error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fails, w.fail
}

// FirstSince is when the first row after then was acknowledged, or zero.
func (w *Writer) FirstSince(then time.Time) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, at := range w.times {
		if at.After(then) {
			return at
		}
	}
	return time.Time{}
}

// AwaitRows waits until n more rows are acknowledged.
func (w *Writer) AwaitRows(t testing.TB, timeout time.Duration, n int) {
	t.Helper()
	want := w.Acked() + n
	Await(t, timeout, fmt.Sprintf("%d more rows are written", n), func() (string, bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return fmt.Sprintf("%d of %d; last error: %v", len(w.acked), want, w.last), len(w.acked) >= want
	})
}

// AwaitRowsSince waits until n rows are acknowledged after then.
func (w *Writer) AwaitRowsSince(t testing.TB, timeout time.Duration, then time.Time, n int) {
	t.Helper()
	Await(t, timeout, fmt.Sprintf("%d rows are written again", n), func() (string, bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		i := len(w.times)
		for i > 0 && w.times[i-1].After(then) {
			i--
		}
		return fmt.Sprintf("%d; last error: %v", len(w.times)-i, w.last), len(w.times)-i >= n
	})
}

// Gap is the longest time without an acknowledgement since then.
func (w *Writer) Gap(since time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	var gap time.Duration
	last := since
	for _, at := range w.times {
		if at.Before(since) {
			continue
		}
		gap, last = max(gap, at.Sub(last)), at
	}
	return max(gap, time.Since(last))
}

// Lost returns the acknowledged rows that the server hasn't got.
func (w *Writer) Lost(s Server) []int {
	s.t.Helper()
	w.mu.Lock()
	acked := append([]int(nil), w.acked...)
	w.mu.Unlock()
	have := map[string]bool{}
	for _, n := range strings.Split(s.Query("select n from written"), "\n") {
		have[n] = true
	}
	var lost []int
	for _, n := range acked {
		if !have[strconv.Itoa(n)] {
			lost = append(lost, n)
		}
	}
	return lost
}

// WantAll stops the writing and fails the test if the server lacks an
// acknowledged row.
func (w *Writer) WantAll(t testing.TB, s Server) {
	t.Helper()
	w.Stop()
	if lost := w.Lost(s); len(lost) > 0 {
		t.Errorf("of %d acknowledged rows %d are lost: %v", w.Acked(), len(lost), lost)
	}
}
