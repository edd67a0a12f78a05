package postgresqltest

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"stolon/internal/postgresql/wal"
)

// The client protocol: a start-up as PostgreSQL's without a password, and then
// one line asks, one line answers.
//
//	I <row>   A                       committed and acknowledged
//	R         V <host> <index> <serial>   the last row that is visible; index -1: none
//	          E <why>                 not done
//
// A connection that ends without an answer leaves it open.

// A backend serves one client. Guarded by World.mu.
type backend struct {
	i      *Instance
	name   string
	conn   net.Conn
	n      uint64
	busy   bool          // in the middle of a statement
	killed chan struct{} // closed by end
}

// end kills the process.
func (b *backend) end() {
	select {
	case <-b.killed:
	default:
		close(b.killed)
		b.conn.Close()
	}
}

func (b *backend) delay(lo, hi time.Duration) time.Duration {
	b.n++
	return between(draw(b.i.w.o.Seed, b.n, b.name), lo, hi)
}

// Serve serves a client that has connected; name seeds its delays. It returns
// at once.
func (i *Instance) Serve(conn net.Conn, name string) {
	b := &backend{i: i, name: name, conn: conn, killed: make(chan struct{})}
	i.w.mu.Lock()
	pm := i.pm
	if pm == nil {
		i.w.mu.Unlock()
		conn.Close()
		return
	}
	pm.backends = append(pm.backends, b)
	i.w.mu.Unlock()
	i.w.wg.Go(func() {
		b.run(pm)
		conn.Close()
		i.w.mu.Lock()
		defer i.w.mu.Unlock()
		is := func(x *backend) bool { return x == b }
		pm.backends = slices.DeleteFunc(pm.backends, is)
		i.orphans = slices.DeleteFunc(i.orphans, is)
	})
}

// pause lets d pass in the process; false when it was killed.
func (b *backend) pause(d time.Duration) bool {
	return b.i.w.sleep(d, b.killed) && b.i.thawed(b.killed)
}

func (b *backend) run(pm *postmaster) {
	if !b.pause(b.delay(300*time.Microsecond, 3*time.Millisecond)) {
		return
	}
	b.i.w.mu.Lock()
	code, refusal := "57P03", ""
	switch {
	case pm.over():
		refusal = "terminated"
	case !pm.ready || pm.stopping:
		refusal = "the database system is starting up or shutting down"
	case !letsUsersIn(pm.config.HBA):
		code, refusal = "28000", "no pg_hba.conf entry"
	}
	b.i.w.mu.Unlock()
	if !b.begin(code, refusal) {
		return
	}
	var buf [64]byte
	for {
		n, err := b.conn.Read(buf[:])
		if err != nil || !b.pause(b.delay(50*time.Microsecond, 500*time.Microsecond)) {
			return
		}
		words := strings.Fields(string(buf[:n]))
		if len(words) == 0 {
			return
		}
		answer := ""
		switch words[0] {
		case "I":
			var row int64
			fmt.Sscan(words[1], &row)
			answer = b.insert(pm, row)
		case "R":
			answer = b.read(pm)
		}
		if answer == "" {
			return
		}
		if _, err := b.conn.Write([]byte(answer)); err != nil {
			return
		}
		b.i.w.mu.Lock()
		b.busy = false
		over := pm.over()
		b.i.w.mu.Unlock()
		if over {
			return // an orphan ends after its statement
		}
	}
}

// begin answers the client's start-up as PostgreSQL does, and reports whether
// there is a session.
func (b *backend) begin(code, refusal string) bool {
	var head [8]byte
	if _, err := io.ReadFull(b.conn, head[:]); err != nil {
		return false
	}
	if _, err := io.CopyN(io.Discard, b.conn, int64(binary.BigEndian.Uint32(head[:]))-int64(len(head))); err != nil {
		return false
	}
	if !b.pause(b.delay(50*time.Microsecond, 500*time.Microsecond)) {
		return false
	}
	kind, body := "R", string([]byte{0, 0, 0, 0})
	if refusal != "" {
		kind, body = "E", "SFATAL\x00C"+code+"\x00M"+refusal+"\x00\x00"
	}
	answer := append([]byte(kind), binary.BigEndian.AppendUint32(nil, uint32(4+len(body)))...)
	_, err := b.conn.Write(append(answer, body...))
	return err == nil && refusal == ""
}

// Login begins a session on the connection with an instance, as a client does.
func Login(conn io.ReadWriter) error {
	body := "\x00\x03\x00\x00user\x00app\x00\x00"
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(4+len(body))), body...)); err != nil {
		return err
	}
	var answer [256]byte
	n, err := conn.Read(answer[:])
	if err != nil {
		return err
	}
	if answer[0] != 'R' {
		return fmt.Errorf("not let in: %q", answer[:n])
	}
	return nil
}

func (b *backend) read(pm *postmaster) string {
	b.i.w.mu.Lock()
	defer b.i.w.mu.Unlock()
	if pm.over() {
		return ""
	}
	d := pm.d
	for n := d.flushed - 1; n >= 0; n-- {
		if r := d.wal[n]; r.row != 0 && !pm.hidden[r.serial] {
			return fmt.Sprintf("V %s %d %d\n", b.i.host, n, r.serial)
		}
	}
	return fmt.Sprintf("V %s -1 0\n", b.i.host)
}

// insert is one statement: its record is written, flushed, shipped; only then
// others see the row and the client has an answer.
func (b *backend) insert(pm *postmaster, row int64) string {
	i, w := b.i, b.i.w
	w.mu.Lock()
	switch {
	case pm.over():
		w.mu.Unlock()
		return ""
	case !pm.primary:
		w.mu.Unlock()
		return "E cannot execute INSERT in a read-only transaction\n"
	}
	b.busy = true
	w.mu.Unlock()
	long := 3 * time.Millisecond
	if b.delay(0, 50) == 0 {
		long = 2 * time.Second
	}
	if !b.pause(b.delay(200*time.Microsecond, long)) {
		return ""
	}
	w.mu.Lock()
	if i.data != pm.d || i.pm != nil && i.pm != pm {
		w.mu.Unlock()
		return ""
	}
	serial := w.nextSerial()
	n := pm.d.insert(serial, row)
	pm.hidden[serial] = true
	c := Commit{Host: i.host, Row: row, Index: n, Serial: serial, LSN: pm.d.wal[n].end, Time: time.Now()}
	w.mu.Unlock()
	w.o.Watcher.Committed(c)
	if !b.pause(b.delay(200*time.Microsecond, 2*time.Millisecond)) {
		return ""
	}
	w.mu.Lock()
	if i.data != pm.d || n >= len(pm.d.wal) || pm.d.wal[n].serial != serial {
		w.mu.Unlock()
		return "" // lost with a crash
	}
	pm.d.flushed = max(pm.d.flushed, n+1)
	lsn := c.LSN
	orphan := pm.over()
	if !orphan {
		pm.tell()
	}
	w.mu.Unlock()
	c.Time = time.Now()
	w.o.Watcher.Committed(c)
	confirmed := b.awaitStandbys(pm, lsn)
	w.mu.Lock()
	delete(pm.hidden, serial)
	w.mu.Unlock()
	if !confirmed {
		return ""
	}
	return "A\n"
}

// awaitStandbys waits as a commit does; false: interrupted, not acknowledged.
func (b *backend) awaitStandbys(pm *postmaster, lsn wal.LSN) bool {
	b.i.w.mu.Lock()
	if !pm.defined || lsn <= pm.released {
		b.i.w.mu.Unlock()
		return true
	}
	if pm.over() {
		b.i.w.mu.Unlock()
		return false // nobody is left to confirm: the wait ends with the postmaster's death
	}
	x := &waiter{lsn: lsn, done: make(chan bool, 1)}
	pm.waiters = append(pm.waiters, x)
	pm.release()
	b.i.w.mu.Unlock()
	select {
	case ok := <-x.done:
		return ok && b.pause(b.delay(50*time.Microsecond, time.Millisecond))
	case <-b.killed:
		return false
	}
}
