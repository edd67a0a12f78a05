package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// A fakeClock stands still unless set.
type fakeClock struct{ now atomic.Int64 }

func (c *fakeClock) Now() time.Duration      { return time.Duration(c.now.Load()) }
func (c *fakeClock) Advance(d time.Duration) { c.now.Add(int64(d)) }

func dialTCP(ctx context.Context, address string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", address)
}

// A world is a Forwarder between real sockets.
type world struct {
	t      *testing.T
	f      *Forwarder
	clock  *fakeClock
	front  net.Listener // of the Forwarder
	back   net.Listener // the master
	target string
}

func newWorld(t *testing.T, dial func(context.Context, string) (net.Conn, error)) *world {
	t.Helper()
	w := &world{t: t, clock: &fakeClock{}, front: listenTCP(t), back: listenTCP(t)}
	w.clock.Advance(time.Hour)
	w.target = w.back.Addr().String()
	w.f = New(Options{Clock: w.clock.Now, Dial: dial, KeepAlive: net.KeepAliveConfig{Enable: true}, Log: zap.NewNop()})
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() {
		defer close(served)
		w.f.Serve(ctx, w.front)
	}()
	t.Cleanup(func() {
		cancel()
		w.front.Close()
		w.f.Cut()
		<-served
		w.f.Close()
		if n := w.f.Open(); n != 0 {
			t.Errorf("Open() = %d after Close, want 0", n)
		}
	})
	return w
}

func listenTCP(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// lead leads to the master for a long time.
func (w *world) lead() { w.f.Lead(w.target, w.clock.Now()+time.Hour) }

func (w *world) connect() *net.TCPConn {
	w.t.Helper()
	c, err := net.Dial("tcp", w.front.Addr().String())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

func (w *world) accept() *net.TCPConn {
	w.t.Helper()
	w.back.(*net.TCPListener).SetDeadline(time.Now().Add(20 * time.Second))
	c, err := w.back.Accept()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatalf("write %q: %v", text, err)
	}
}

func receive(t *testing.T, c net.Conn, want string) {
	t.Helper()
	buf := make([]byte, len(want))
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != want {
		t.Fatalf("read %q, %v, want %q", buf, err, want)
	}
}

// wantReset wants the connection to end by a reset with nothing before it.
func wantReset(t *testing.T, who string, c net.Conn) {
	t.Helper()
	got, err := io.ReadAll(c)
	if len(got) > 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s read %q, %v, want nothing and a reset", who, got, err)
	}
}

func TestBytesGoBothWays(t *testing.T) {
	w := newWorld(t, dialTCP)
	w.lead()
	client := w.connect()
	server := w.accept()
	send(t, client, "question")
	receive(t, server, "question")
	send(t, server, "answer")
	receive(t, client, "answer")
}

func TestAnAnswerPassesAfterTheClientHasEnded(t *testing.T) {
	w := newWorld(t, dialTCP)
	w.lead()
	client := w.connect()
	server := w.accept()
	send(t, client, "question")
	client.CloseWrite()
	if got, err := io.ReadAll(server); string(got) != "question" || err != nil {
		t.Fatalf("server read %q, %v, want the question and an end", got, err)
	}
	send(t, server, "answer")
	server.Close()
	if got, err := io.ReadAll(client); string(got) != "answer" || err != nil {
		t.Errorf("client read %q, %v, want the answer and an end", got, err)
	}
}

func TestBytesPassAfterTheServerHasEnded(t *testing.T) {
	w := newWorld(t, dialTCP)
	w.lead()
	client := w.connect()
	server := w.accept()
	server.CloseWrite()
	if got, err := io.ReadAll(client); len(got) > 0 || err != nil {
		t.Fatalf("client read %q, %v, want an end", got, err)
	}
	send(t, client, "last words")
	receive(t, server, "last words")
}

func TestWithoutARouteClientsAreClosed(t *testing.T) {
	w := newWorld(t, func(context.Context, string) (net.Conn, error) {
		t.Error("dialled without a route")
		return nil, errors.New("no route")
	})
	if got, err := io.ReadAll(w.connect()); len(got) > 0 || err != nil {
		t.Errorf("client read %q, %v, want an end", got, err)
	}
	// A route whose time is over is none either, whether the timer ran or not.
	w.lead()
	w.clock.Advance(2 * time.Hour)
	if got, err := io.ReadAll(w.connect()); len(got) > 0 || err != nil {
		t.Errorf("client read %q, %v, want an end", got, err)
	}
}

func TestAnUnreachableMasterClosesTheClient(t *testing.T) {
	w := newWorld(t, dialTCP)
	w.back.Close()
	w.lead()
	if got, err := io.ReadAll(w.connect()); len(got) > 0 || err != nil {
		t.Errorf("client read %q, %v, want an end", got, err)
	}
}

func TestCutResetsBothSides(t *testing.T) {
	w := newWorld(t, dialTCP)
	w.lead()
	client := w.connect()
	server := w.accept()
	send(t, client, "hello")
	receive(t, server, "hello")
	w.f.Cut()
	wantReset(t, "client", client)
	wantReset(t, "server", server)
	if got := w.f.Target(); got != "" {
		t.Errorf("Target() after Cut = %q, want none", got)
	}
	if got := w.f.CutOff(); got != 1 {
		t.Errorf("CutOff() = %d, want 1", got)
	}
}

// A reader that doesn't read keeps a write waiting; a cut ends that as well.
func TestCutEndsAStuckWrite(t *testing.T) {
	w := newWorld(t, dialTCP)
	w.lead()
	client := w.connect()
	w.accept()
	client.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	for chunk := make([]byte, 1<<20); ; {
		if _, err := client.Write(chunk); err != nil {
			break // all buffers are full
		}
	}
	w.f.Cut()
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("client read %v, want a reset", err)
	}
}

func TestAnotherTargetCutsAndTheSameDoesNot(t *testing.T) {
	w := newWorld(t, dialTCP)
	w.lead()
	client := w.connect()
	server := w.accept()
	w.f.Lead(w.target, w.clock.Now()+2*time.Hour)
	send(t, client, "still there")
	receive(t, server, "still there")
	w.f.Lead("127.0.0.1:1", w.clock.Now()+2*time.Hour)
	wantReset(t, "client", client)
}

// The process was stopped: the timer has not run, the clock has gone on. What
// waits in the sockets must not pass.
func TestBytesThatWereReadAreNotWrittenAfterTheDeadline(t *testing.T) {
	for _, direction := range []string{"answer", "question"} {
		t.Run(direction, func(t *testing.T) {
			w := newWorld(t, dialTCP)
			w.lead()
			client := w.connect()
			server := w.accept()
			send(t, client, "hello")
			receive(t, server, "hello")
			w.clock.Advance(time.Hour) // the deadline itself is too late
			from := server
			if direction == "question" {
				from = client
			}
			send(t, from, "late")
			wantReset(t, "client", client)
			wantReset(t, "server", server)
		})
	}
}

func TestAPromiseAfterTheDeadlineRevivesNoConnection(t *testing.T) {
	w := newWorld(t, dialTCP)
	w.lead()
	client := w.connect()
	send(t, client, "old")
	receive(t, w.accept(), "old")
	w.clock.Advance(2 * time.Hour)
	w.lead()
	wantReset(t, "client", client)
	client = w.connect()
	send(t, client, "new")
	receive(t, w.accept(), "new")
}

func TestCutEndsADialUnderWay(t *testing.T) {
	for _, tt := range []struct {
		name string
		wins bool // the dial succeeds all the same
	}{{"given up", false}, {"won at the last moment", true}} {
		t.Run(tt.name, func(t *testing.T) {
			dialling, given, cut := make(chan struct{}), make(chan struct{}), make(chan struct{})
			w := newWorld(t, func(ctx context.Context, address string) (net.Conn, error) {
				close(dialling)
				<-ctx.Done()
				close(given)
				if !tt.wins {
					return nil, ctx.Err()
				}
				<-cut
				return dialTCP(context.Background(), address)
			})
			w.lead()
			client := w.connect()
			<-dialling
			w.f.Cut()
			select {
			case <-given:
			case <-time.After(dialTimeout / 2):
				t.Error("the dial goes on after the cut")
			}
			close(cut)
			if got, _ := io.ReadAll(client); len(got) > 0 {
				t.Errorf("client read %q, want nothing", got)
			}
			if tt.wins {
				wantReset(t, "server", w.accept())
			}
		})
	}
}

func TestCutLeavesNoDescriptor(t *testing.T) {
	fds := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(entries)
	}
	w := newWorld(t, dialTCP)
	w.lead()
	w.connect().Close() // the poller's own
	w.accept().Close()
	before := fds()
	var ours []net.Conn
	for range 100 {
		ours = append(ours, w.connect(), w.accept())
	}
	w.f.Cut()
	for _, c := range ours {
		c.Close()
	}
	if after := fds(); after > before+20 { // some are not ours
		t.Errorf("%d descriptors after the cut, %d before", after, before)
	}
}

// A pipeListener hands out one end of each connection in memory.
type pipeListener struct {
	conns  chan net.Conn
	errs   chan error
	closed chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), errs: make(chan error), closed: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case err := <-l.errs:
		return nil, err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { close(l.closed); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *pipeListener) connect() net.Conn {
	near, far := net.Pipe()
	l.conns <- far
	return near
}

// virtual runs f with a Forwarder on virtual time whose master takes all it is sent.
func virtual(t *testing.T, f func(t *testing.T, fwd *Forwarder, l *pipeListener, clock func() time.Duration)) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		clock := func() time.Duration { return time.Since(start) }
		fwd := New(Options{Clock: clock, Log: zap.NewNop(), Dial: func(context.Context, string) (net.Conn, error) {
			near, far := net.Pipe()
			go io.Copy(io.Discard, far)
			return near, nil
		}})
		l := newPipeListener()
		served := make(chan struct{})
		go func() {
			defer close(served)
			fwd.Serve(t.Context(), l)
		}()
		f(t, fwd, l, clock)
		l.Close()
		<-served
		fwd.Close()
	})
}

func TestCutOfAThousandLeavesNoGoroutine(t *testing.T) {
	virtual(t, func(t *testing.T, fwd *Forwarder, l *pipeListener, clock func() time.Duration) {
		fwd.Lead("master", time.Hour)
		synctest.Wait()
		before := runtime.NumGoroutine()
		clients := make([]net.Conn, 1000)
		for i := range clients {
			clients[i] = l.connect()
		}
		synctest.Wait()
		if got := fwd.Open(); got != 1000 {
			t.Errorf("Open() = %d, want 1000", got)
		}
		fwd.Cut()
		for i, c := range clients {
			if _, err := c.Read(make([]byte, 1)); err != io.EOF {
				t.Fatalf("client %d read %v, want its end", i, err)
			}
		}
		synctest.Wait()
		if after := runtime.NumGoroutine(); after > before+10 { // some are not ours
			t.Errorf("%d goroutines after the cut, %d before", after, before)
		}
		if open, cut := fwd.Open(), fwd.CutOff(); open != 0 || cut != 1000 {
			t.Errorf("%d open and %d cut, want 0 and 1000", open, cut)
		}
	})
}

// A slowConn takes its time to close.
type slowConn struct {
	net.Conn
	closing, closed chan struct{}
	once            sync.Once
}

func (c *slowConn) Close() error {
	c.once.Do(func() { close(c.closing) })
	<-c.closed
	return c.Conn.Close()
}

// The proxy publishes after a cut: also after one that found another at work.
func TestACutWaitsForTheOneAtWork(t *testing.T) {
	virtual(t, func(t *testing.T, fwd *Forwarder, l *pipeListener, clock func() time.Duration) {
		fwd.Lead("master", time.Hour)
		_, far := net.Pipe()
		c := &slowConn{Conn: far, closing: make(chan struct{}), closed: make(chan struct{})}
		l.conns <- c
		synctest.Wait()
		first, second := make(chan struct{}), make(chan struct{})
		go func() { defer close(first); fwd.Cut() }()
		<-c.closing
		go func() { defer close(second); fwd.Cut() }()
		for range 1000 {
			runtime.Gosched()
		}
		select {
		case <-second:
			t.Error("the second cut returned while the first was closing")
		default:
		}
		close(c.closed)
		<-first
		<-second
	})
}

func TestTheTimerCutsAtTheDeadline(t *testing.T) {
	virtual(t, func(t *testing.T, fwd *Forwarder, l *pipeListener, clock func() time.Duration) {
		fwd.Lead("master", 10*time.Second)
		c := l.connect()
		time.Sleep(9 * time.Second)
		fwd.Lead("master", 20*time.Second)
		fwd.Shorten(30 * time.Second) // no shorter
		fwd.Shorten(15 * time.Second)
		_, err := c.Read(make([]byte, 1))
		if now := clock(); err != io.EOF || now != 15*time.Second {
			t.Errorf("cut at %s (%v), want 15s", now, err)
		}
		if got := fwd.Target(); got != "" {
			t.Errorf("Target() = %q after the deadline, want none", got)
		}
	})
}

// The timer runs on another clock than the deadline, here one that is ahead.
func TestATimerThatRingsEarlyIsSetAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		fwd := New(Options{Clock: func() time.Duration { return time.Since(start) / 2 }, Log: zap.NewNop()})
		fwd.Lead("master", 10*time.Second)
		time.Sleep(19 * time.Second)
		if got := fwd.Target(); got != "master" {
			t.Errorf("Target() = %q before the deadline, want master", got)
		}
		time.Sleep(2 * time.Second)
		if got := fwd.Target(); got != "" {
			t.Errorf("Target() = %q after the deadline, want none", got)
		}
		fwd.Close()
	})
}

func TestAcceptErrorsAreWaitedOut(t *testing.T) {
	virtual(t, func(t *testing.T, fwd *Forwarder, l *pipeListener, clock func() time.Duration) {
		fwd.Lead("master", time.Hour)
		old := l.connect()
		for range 20 {
			l.errs <- &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
		}
		if took := clock(); took < 5*time.Second || took > 20*time.Second {
			t.Errorf("20 errors took %s: neither a busy loop nor a standstill is wanted", took)
		}
		for i, c := range []net.Conn{old, l.connect()} {
			if _, err := fmt.Fprint(c, "served"); err != nil {
				t.Errorf("connection %d: %v, want it served", i, err)
			}
		}
	})
}

func TestAClientThatDoesNotNoticeItsMastersEndIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		client, far := newHalfPipe()
		near, server := newHalfPipe()
		fwd := New(Options{
			Clock: func() time.Duration { return time.Since(start) }, Log: zap.NewNop(),
			Dial: func(context.Context, string) (net.Conn, error) { return near, nil },
		})
		fwd.Lead("master", 24*time.Hour)
		l := newPipeListener()
		served := make(chan struct{})
		go func() {
			defer close(served)
			fwd.Serve(t.Context(), l)
		}()
		l.conns <- far
		synctest.Wait()
		server.CloseWrite()
		if _, err := client.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("client read %v, want the end", err)
		}
		time.Sleep(halfOpen - time.Second)
		if got := fwd.Open(); got != 1 {
			t.Errorf("Open() = %d, want 1 while the client may still send", got)
		}
		time.Sleep(2 * time.Second)
		if got := fwd.Open(); got != 0 {
			t.Errorf("Open() = %d, want 0", got)
		}
		l.Close()
		<-served
		fwd.Close()
	})
}

// A halfPipe is one end of a connection in memory that knows half-close.
type halfPipe struct {
	net.Conn // nil; for the methods not needed
	r        *io.PipeReader
	w        *io.PipeWriter
}

func newHalfPipe() (a, b *halfPipe) {
	ar, bw := io.Pipe()
	br, aw := io.Pipe()
	return &halfPipe{r: ar, w: aw}, &halfPipe{r: br, w: bw}
}

func (p *halfPipe) Read(b []byte) (int, error)  { return p.r.Read(b) }
func (p *halfPipe) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p *halfPipe) CloseWrite() error           { return p.w.Close() }
func (p *halfPipe) Close() error {
	p.r.Close()
	return p.w.Close()
}
