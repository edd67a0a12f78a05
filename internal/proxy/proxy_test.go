package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"stolon/internal/cluster"
	"stolon/internal/store"
	"stolon/internal/store/memory"
)

const (
	uid   = "aaaaaaaa"
	front = "0.0.0.0:25432"
	m1    = "10.0.0.1:5432"
	m2    = "10.0.0.2:5432"
)

// A world is a proxy on virtual time with a store and a network in memory.
type world struct {
	t      *testing.T
	start  time.Time
	server *memory.Server
	admin  *store.Client // never disturbed
	log    *observer.ObservedLogs
	proxy  *Proxy
	stop   context.CancelFunc
	ended  chan struct{}

	backend  *backend
	registry *prometheus.Registry

	mu       sync.Mutex
	refusing bool        // the masters refuse connections
	hook     memory.Hook // of the proxy's requests
	names    map[string]string
	listener *listener // open, or nil
	dialled  []string
}

// run runs f beside a proxy.
func run(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.begin()
		f(w)
		w.end()
	})
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, start: time.Now(), server: memory.New(), ended: make(chan struct{}), registry: prometheus.NewRegistry()}
	w.admin = store.NewClient(w.server.Client("admin", nil), "stolon/cluster", "c")
	inner := w.server.Client("proxy", w.request)
	w.backend = &backend{Backend: inner, now: inner, told: make(chan store.Change)}
	core, log := observer.New(zap.DebugLevel)
	w.log = log
	n := 0
	p, err := New(Options{
		UID: uid, ListenAddress: "0.0.0.0", Port: "25432", StopListening: true,
		Listen: w.listen, Dial: w.dial, Resolve: w.resolve,
		Store: store.NewClient(w.backend, "stolon/cluster", "c"),
		Clock: w.now,
		NewUID: func() string {
			n++
			return fmt.Sprintf("%08x", n)
		},
		Log: zap.New(core), Metrics: w.registry, StoreTimeout: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.proxy = p
	return w
}

func (w *world) begin() {
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	go func() {
		defer close(w.ended)
		if err := w.proxy.Run(ctx); err != nil {
			w.t.Errorf("Run() = %v", err)
		}
	}()
	synctest.Wait()
}

func (w *world) end() {
	w.stop()
	<-w.ended
	w.proxy.o.Store.Close()
	w.admin.Close()
	if w.open() {
		w.t.Error("listens after Run")
	}
}

func (w *world) now() time.Duration { return time.Since(w.start) }

// pass lets the time pass until at, and what happens then happen.
func (w *world) pass(at time.Duration) {
	w.t.Helper()
	if at < w.now() {
		w.t.Fatalf("it is %s, past %s", w.now(), at)
	}
	time.Sleep(at - w.now())
	synctest.Wait()
}

// A backend is the proxy's store, which can be replaced by another one and can
// tell what didn't happen.
type backend struct {
	store.Backend
	told chan store.Change

	mu  sync.Mutex
	now store.Backend // of what is not the watch
}

func (b *backend) replace(by store.Backend) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = by
}

func (b *backend) current() store.Backend {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (b *backend) Get(ctx context.Context, key string) (*store.KV, error) {
	return b.current().Get(ctx, key)
}

func (b *backend) Grant(ctx context.Context, ttl time.Duration) (store.Lease, error) {
	return b.current().Grant(ctx, ttl)
}

func (b *backend) Commit(ctx context.Context, conds []store.Condition, ops []store.Op) (int64, error) {
	return b.current().Commit(ctx, conds, ops)
}

func (b *backend) Watch(ctx context.Context, prefix string) <-chan store.Change {
	inner, out := b.Backend.Watch(ctx, prefix), make(chan store.Change, 1)
	go func() {
		defer close(out)
		for {
			select {
			case ch, ok := <-inner:
				if !ok {
					return
				}
				store.Offer(out, ch)
			case ch := <-b.told:
				store.Offer(out, ch)
			}
		}
	}()
	return out
}

// hooked makes h the hook of the proxy's requests.
func (w *world) hooked(h memory.Hook) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hook = h
}

func (w *world) request(ctx context.Context, r memory.Request) error {
	w.mu.Lock()
	h := w.hook
	w.mu.Unlock()
	if h == nil {
		return nil
	}
	return h(ctx, r)
}

var errDown = errors.New("down")

func down(context.Context, memory.Request) error { return errDown }

// frozen is a store that answers nothing.
func frozen(ctx context.Context, _ memory.Request) error {
	<-ctx.Done()
	return ctx.Err()
}

// A listener hands out connections in memory.
type listener struct {
	w      *world
	conns  chan net.Conn
	closed chan struct{}
}

func (w *world) listen(_ context.Context, address string) (net.Listener, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if address != front || w.listener != nil {
		w.t.Errorf("listen on %s with %v open", address, w.listener)
	}
	w.listener = &listener{w: w, conns: make(chan net.Conn), closed: make(chan struct{})}
	return w.listener, nil
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }
func (l *listener) Close() error {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	close(l.closed)
	l.w.listener = nil
	return nil
}

// open reports whether the proxy listens.
func (w *world) open() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.listener != nil
}

func (w *world) wantOpen(want bool) {
	w.t.Helper()
	if got := w.open(); got != want {
		w.t.Errorf("at %s: listening = %t, want %t", w.now(), got, want)
	}
}

func (w *world) resolve(_ context.Context, host string) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if net.ParseIP(host) != nil {
		return host, nil
	}
	if ip := w.names[host]; ip != "" {
		return ip, nil
	}
	return "", errors.New("no such host")
}

// name gives a host an address.
func (w *world) name(host, ip string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names = map[string]string{host: ip}
}

// dial is a master that greets with its address and repeats what it hears.
func (w *world) dial(_ context.Context, address string) (net.Conn, error) {
	w.mu.Lock()
	w.dialled = append(w.dialled, address)
	refusing := w.refusing
	w.mu.Unlock()
	if refusing {
		return nil, syscall.ECONNREFUSED
	}
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		if _, err := far.Write([]byte(address)); err == nil {
			io.Copy(far, far)
		}
	}()
	return near, nil
}

// A client is a connection to the proxy.
type client struct {
	net.Conn
	at    string        // who answers, "" nobody
	ended chan struct{} // the connection has
}

// connect opens a connection and learns where it leads.
func (w *world) connect() *client {
	w.t.Helper()
	w.mu.Lock()
	l := w.listener
	w.mu.Unlock()
	if l == nil {
		w.t.Fatalf("at %s: the proxy doesn't listen", w.now())
	}
	near, far := net.Pipe()
	l.conns <- far
	c := &client{Conn: near, ended: make(chan struct{})}
	buf := make([]byte, 64)
	n, _ := near.Read(buf)
	c.at = string(buf[:n])
	go func() {
		defer close(c.ended)
		for {
			if _, err := near.Read(buf); err != nil {
				return
			}
		}
	}()
	return c
}

func (c *client) alive() bool {
	select {
	case <-c.ended:
		return false
	default:
		return true
	}
}

func (w *world) wantAlive(c *client, want bool) {
	w.t.Helper()
	synctest.Wait()
	if got := c.alive(); got != want {
		w.t.Errorf("at %s: connection alive = %t, want %t", w.now(), got, want)
	}
}

func (w *world) wantLed(want string) *client {
	w.t.Helper()
	c := w.connect()
	if c.at != want {
		w.t.Errorf("at %s: a client is led to %q, want %q", w.now(), c.at, want)
	}
	return c
}

// data is cluster data of the generation that leads to db1, with db1 and db2.
func data(generation int64, edits ...func(*cluster.ClusterData)) *cluster.ClusterData {
	mode := cluster.InitNew
	cd := cluster.New("cluster1", &cluster.Spec{InitMode: &mode}, time.Time{})
	for uid, address := range map[string]string{"db1": m1, "db2": m2} {
		host, port, _ := net.SplitHostPort(address)
		cd.DBs[uid] = &cluster.DB{UID: uid, Spec: &cluster.DBSpec{}, Status: cluster.DBStatus{ListenAddress: host, Port: port}}
	}
	cd.Proxy.Generation = generation
	cd.Proxy.Spec = cluster.ProxySpec{MasterDBUID: "db1", EnabledProxies: []string{uid}}
	for _, edit := range edits {
		edit(cd)
	}
	return cd
}

func leadingTo(db string) func(*cluster.ClusterData) {
	return func(cd *cluster.ClusterData) { cd.Proxy.Spec.MasterDBUID = db }
}

func notEnabled(cd *cluster.ClusterData) { cd.Proxy.Spec.EnabledProxies = []string{"bbbbbbbb"} }

func timeouts(interval, timeout time.Duration) func(*cluster.ClusterData) {
	return func(cd *cluster.ClusterData) {
		cd.Cluster.Spec.ProxyCheckInterval = &cluster.Duration{Duration: interval}
		cd.Cluster.Spec.ProxyTimeout = &cluster.Duration{Duration: timeout}
	}
}

// put writes the cluster data and lets everybody act on it.
func (w *world) put(cd *cluster.ClusterData) { w.putValue(string(store.Encode(cd))) }

func (w *world) putValue(value string) {
	w.t.Helper()
	_, err := w.admin.Commit(context.Background(), nil, []store.Op{{Key: w.admin.ClusterDataKey(), Value: []byte(value)}})
	if err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

func (w *world) info() *cluster.ProxyInfo {
	w.t.Helper()
	kv, err := w.admin.Get(context.Background(), w.admin.ProxyKey(uid))
	if err != nil {
		w.t.Fatal(err)
	}
	if kv == nil {
		return nil
	}
	var info cluster.ProxyInfo
	if err := json.Unmarshal(kv.Value, &info); err != nil {
		w.t.Fatal(err)
	}
	return &info
}

// wantPublished wants a generation, -1 for none.
func (w *world) wantPublished(want int64) {
	w.t.Helper()
	got := int64(-1)
	if info := w.info(); info != nil {
		got = info.Generation
	}
	if got != want {
		w.t.Errorf("at %s: published generation = %d, want %d", w.now(), got, want)
	}
}

// logged returns the messages of info and above, and forgets them.
func (w *world) logged() []string {
	var all []string
	for _, e := range w.log.TakeAll() {
		if e.Level >= zapcore.InfoLevel {
			all = append(all, e.Message)
		}
	}
	return all
}

func (w *world) wantLogged(want ...string) {
	w.t.Helper()
	if got := w.logged(); !slices.Equal(got, want) {
		w.t.Errorf("at %s: logged\n\t%s\nwant\n\t%s", w.now(), strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestNoClusterDataIsAGoodCheck(t *testing.T) {
	run(t, func(w *world) {
		w.wantOpen(true)
		w.wantPublished(-1)
		w.wantLed("")
		w.pass(time.Hour)
		w.wantOpen(true)
		w.wantLogged("proxy uid", "no clusterdata available, closing connections to master", "Starting proxying")
	})
}

func TestARouteAppearsAtOnce(t *testing.T) {
	run(t, func(w *world) {
		w.put(data(1, notEnabled))
		w.wantPublished(1)
		if now := w.now(); now != 0 {
			t.Errorf("it took %s of waiting, want none", now)
		}
		w.wantLed("") // which takes a while to be told
		then := w.now()
		w.put(data(2))
		w.wantPublished(2)
		w.wantLed(m1)
		if now := w.now(); now != then {
			t.Errorf("it took %s of waiting, want none", now-then)
		}
		w.wantLogged("proxy uid",
			"no clusterdata available, closing connections to master", "Starting proxying",
			"master address", "not proxying to master address since we aren't in the enabled proxies list",
			"master address", "proxying to master address")
		info := w.info()
		want := cluster.ProxyInfo{InfoUID: info.InfoUID, UID: uid, Generation: 2, ProxyTimeout: 15 * time.Second, Features: []cluster.Feature{cluster.AtomicCheck}}
		if fmt.Sprint(*info) != fmt.Sprint(want) || info.InfoUID == "" {
			t.Errorf("ProxyInfo = %+v, want %+v", *info, want)
		}
	})
}

func TestAQuietClusterIsSilentAndAlive(t *testing.T) {
	run(t, func(w *world) {
		w.put(data(1))
		c := w.wantLed(m1)
		w.logged()
		for i := 1; i <= 100; i++ {
			old := w.info().InfoUID
			w.pass(time.Duration(i) * 5 * time.Second)
			if w.info().InfoUID == old {
				t.Fatalf("no new infoUID at %s", w.now())
			}
		}
		w.wantAlive(c, true)
		w.wantLogged()
	})
}

// What ends the route, and the generation that is published then; the
// connection must have ended before the publication was sent.
// A master that refuses newcomers and is heard of all the time is told of all
// the time: the sentinel counts on it while it asks (protocols.md S3).
func TestNewsThatKeepsComingIsToldAllTheTime(t *testing.T) {
	run(t, func(w *world) {
		w.put(data(1))
		w.pass(time.Second)
		last, told := w.info().InfoUID, 0
		for w.now() < 11*time.Second {
			select {
			case w.proxy.noticed <- struct{}{}:
			default:
			}
			w.pass(w.now() + 10*time.Millisecond)
			if now := w.info().InfoUID; now != last {
				last = now
				told++
			}
		}
		if told < 90 || told > 110 {
			t.Errorf("told %d times in 10s, want it each %s", told, noticePause)
		}
	})
}

func TestARouteThatEndsIsCutBeforeItIsSaid(t *testing.T) {
	tests := []struct {
		name  string
		value string
		want  int64 // published
		led   string
	}{
		{"no master", string(store.Encode(data(2, leadingTo("")))), 2, ""},
		{"another master", string(store.Encode(data(2, leadingTo("db2")))), 2, m2},
		{"an unknown master", string(store.Encode(data(2, leadingTo("db3")))), 2, ""},
		{"not enabled", string(store.Encode(data(2, notEnabled))), 2, ""},
		{"another address", string(store.Encode(data(1, func(cd *cluster.ClusterData) { cd.DBs["db1"].Status.Port = "5433" }))), 1, "10.0.0.1:5433"},
		{"no proxy object", string(store.Encode(data(0, func(cd *cluster.ClusterData) { cd.Proxy = nil }))), 0, ""},
		{"null", "null", 1, ""}, // nothing is published: the old one stays
		{"garbage", "{", 1, ""},
		{"another format", `{"FormatVersion":2}`, 1, ""},
		{"an invalid spec", string(store.Encode(data(2, timeouts(5*time.Second, time.Second)))), 1, ""},
	}
	for _, tt := range tests {
		for _, watched := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, watched %t", tt.name, watched), func(t *testing.T) {
				run(t, func(w *world) {
					w.put(data(1))
					c := w.wantLed(m1)
					w.hooked(func(ctx context.Context, r memory.Request) error {
						switch {
						case r.Kind == memory.Event && !watched:
							return frozen(ctx, r)
						case r.Kind == memory.Commit && r.Stage == memory.Before:
							var info cluster.ProxyInfo
							json.Unmarshal(r.Ops[0].Value, &info)
							time.Sleep(time.Millisecond) // the client's goroutine has run
							if c.alive() && (watched || info.Generation == 2) {
								t.Errorf("generation %d is published before the cut", info.Generation)
							}
						}
						return nil
					})
					w.putValue(tt.value)
					if watched {
						w.wantAlive(c, false)
					}
					w.pass(w.now() + 6*time.Second)
					w.wantAlive(c, false)
					w.wantPublished(tt.want)
					w.wantOpen(true)
					w.wantLed(tt.led)
				})
			})
		}
	}
}

func TestUnrelatedChangesKeepConnections(t *testing.T) {
	run(t, func(w *world) {
		w.put(data(1))
		c := w.wantLed(m1)
		w.put(data(2, func(cd *cluster.ClusterData) {
			cd.Proxy.Spec.EnabledProxies = []string{"bbbbbbbb", uid}
			cd.DBs["db1"].Status.XLogPos = 4711
		}))
		w.wantPublished(2)
		w.wantAlive(c, true)
	})
}

func TestNothingFlowsPastTheDeadline(t *testing.T) {
	for name, outage := range map[string]memory.Hook{"down": down, "frozen": frozen} {
		t.Run(name, func(t *testing.T) {
			run(t, func(w *world) {
				w.put(data(1))
				w.pass(11 * time.Second) // the last check was sent at 10s
				c := w.wantLed(m1)
				w.logged()
				w.hooked(outage)
				w.pass(25*time.Second - 1)
				w.wantAlive(c, true)
				w.wantOpen(true)
				w.pass(25 * time.Second)
				w.wantAlive(c, false)
				w.pass(40 * time.Second) // PRX-3: at most twice proxyTimeout
				w.wantOpen(false)
				w.wantLogged("check function error", "check timeout timer fired", "Stopping listening")
				w.pass(5 * time.Minute)
				w.wantLogged()
				w.hooked(nil)
				w.pass(w.now() + 10*time.Second) // PRX-4
				w.wantLed(m1)
				w.wantLogged("proxying to master address", "Starting proxying", "check function succeeds again")
			})
		})
	}
}

func TestWithoutStopListeningOnlyTheSocketStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.proxy.o.StopListening = false
		w.begin()
		w.put(data(1))
		c := w.wantLed(m1)
		w.hooked(down)
		w.pass(time.Minute)
		w.wantAlive(c, false)
		w.wantOpen(true)
		w.wantLed("")
		w.hooked(nil)
		w.pass(w.now() + 5*time.Second)
		w.wantLed(m1)
		w.end()
	})
}

func TestAShortOutageIsNotFelt(t *testing.T) {
	run(t, func(w *world) {
		w.put(data(1))
		c := w.wantLed(m1)
		for i := range 20 {
			w.hooked(down)
			w.pass(w.now() + 9*time.Second)
			w.hooked(nil)
			w.pass(w.now() + 2*time.Second)
			w.wantAlive(c, true)
			if t.Failed() {
				t.Fatalf("in outage %d", i)
			}
		}
		w.wantOpen(true)
	})
}

func TestAStoreThatIsDownAtTheStartIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.put(data(1))
		w.hooked(down)
		w.begin()
		w.pass(time.Minute)
		w.wantOpen(false)
		w.wantLogged("proxy uid", "check function error")
		w.hooked(nil)
		w.pass(w.now() + 2*time.Second)
		w.wantLed(m1)
		w.end()
	})
}

// P2: the time counts from the sending, not from the answer.
func TestASlowAnswerGivesNoMoreTime(t *testing.T) {
	run(t, func(w *world) {
		w.put(data(1))
		c := w.wantLed(m1)
		w.hooked(func(ctx context.Context, r memory.Request) error {
			if r.Kind == memory.Commit && r.Stage == memory.After {
				time.Sleep(2 * time.Second)
				w.hooked(down)
			}
			return nil
		})
		// Sent at 5s, answered at 7s.
		w.pass(20*time.Second - 1)
		w.wantAlive(c, true)
		w.pass(20 * time.Second)
		w.wantAlive(c, false)
	})
}

func TestALostAnswerIsNoGoodCheck(t *testing.T) {
	run(t, func(w *world) {
		w.put(data(1))
		c := w.wantLed(m1)
		w.hooked(func(_ context.Context, r memory.Request) error {
			if r.Kind == memory.Commit && r.Stage == memory.After {
				return errDown
			}
			return nil
		})
		w.pass(15 * time.Second)
		w.wantAlive(c, false)
	})
}

// A write whose answer was lost may be what the sentinel goes by.
func TestALostAnswerCanShortenThePromise(t *testing.T) {
	run(t, func(w *world) {
		w.put(data(1, timeouts(5*time.Second, time.Minute)))
		w.put(data(2, timeouts(5*time.Second, 15*time.Second)))
		c := w.wantLed(m1)
		if got := w.info().ProxyTimeout; got != time.Minute {
			t.Errorf("first promise after the change is for %s, want the longer, 1m0s", got)
		}
		w.hooked(func(_ context.Context, r memory.Request) error {
			if r.Kind == memory.Commit && r.Stage == memory.After {
				w.hooked(down)
				return errDown
			}
			return nil
		})
		w.pass(6 * time.Second) // promised 15s at 5s
		if got := w.info().ProxyTimeout; got != 15*time.Second {
			t.Errorf("second promise after the change is for %s, want 15s", got)
		}
		w.pass(20 * time.Second)
		w.wantAlive(c, false)
	})
}

// P1: between this proxy's look and its transaction the master was unset; the
// watch has not told.
func TestTheCheckIsAtomic(t *testing.T) {
	run(t, func(w *world) {
		w.put(data(1))
		c := w.wantLed(m1)
		changed := false
		w.hooked(func(ctx context.Context, r memory.Request) error {
			switch {
			case r.Kind == memory.Event:
				return frozen(ctx, r)
			case r.Kind == memory.Commit && r.Stage == memory.Before && !changed:
				changed = true
				_, err := w.admin.Commit(context.Background(), nil, []store.Op{{Key: w.admin.ClusterDataKey(), Value: store.Encode(data(2, leadingTo("")))}})
				return err
			}
			return nil
		})
		w.pass(5 * time.Second)
		w.wantPublished(2)
		w.wantAlive(c, false)
		w.wantLed("")
	})
}

// C6: what the watch shows may take permission away and never extends any.
func TestTheWatchGivesNoMoreTime(t *testing.T) {
	run(t, func(w *world) {
		w.put(data(1))
		c := w.wantLed(m1)
		w.hooked(func(_ context.Context, r memory.Request) error {
			if r.Kind == memory.Event {
				return nil
			}
			return errDown
		})
		for i := range 14 {
			w.pass(time.Duration(i+1) * time.Second)
			w.put(data(int64(i + 2)))
			w.wantAlive(c, true)
		}
		w.pass(15 * time.Second)
		w.wantAlive(c, false)
		w.put(data(100, leadingTo("db2")))
		w.wantPublished(1)
		w.wantOpen(false)
	})
}

// P7: a late event of an older revision takes nothing back.
func TestAnOldEventIsDropped(t *testing.T) {
	run(t, func(w *world) {
		w.put(data(1, leadingTo("")))
		old, err := w.admin.Get(context.Background(), w.admin.ClusterDataKey())
		if err != nil {
			t.Fatal(err)
		}
		w.put(data(2))
		c := w.wantLed(m1)
		w.backend.told <- store.Change{Reset: true, Puts: []store.KV{*old}, Revision: old.Revision}
		w.wantAlive(c, true)
		w.wantPublished(2)
		w.pass(time.Minute)
		w.wantAlive(c, true)
	})
}

func TestARestoredStoreIsFollowedOnceTheDeadlineHasPassed(t *testing.T) {
	run(t, func(w *world) {
		for generation := range int64(6) {
			w.put(data(generation))
		}
		c := w.wantLed(m1)
		w.pass(time.Second)
		backup := memory.New()
		w.admin = store.NewClient(backup.Client("admin", nil), "stolon/cluster", "c")
		w.put(data(3))
		w.backend.replace(backup.Client("proxy", w.request))
		w.pass(15*time.Second - 1)
		w.wantAlive(c, true)
		w.wantPublished(-1)
		w.pass(17 * time.Second)
		w.wantAlive(c, false)
		w.wantPublished(3)
		w.wantLed(m1)
	})
}

func TestALostLeaseIsGrantedAnew(t *testing.T) {
	run(t, func(w *world) {
		w.put(data(1))
		c := w.wantLed(m1)
		w.pass(time.Second)
		w.server.ExpireAll()
		w.wantPublished(-1)
		w.pass(5 * time.Second)
		w.wantPublished(1)
		w.wantAlive(c, true)
	})
}

// P6: a proxy that doesn't check goes silent, and not before its deadline.
func TestTheKeyOutlivesThePromise(t *testing.T) {
	run(t, func(w *world) {
		w.put(data(1))
		w.hooked(down)
		w.pass(29 * time.Second)
		w.wantPublished(1)
		w.pass(31 * time.Second)
		w.wantPublished(-1)
	})
}

// The process was stopped between the renewal and the transaction: the key goes
// 30s after the renewal, and 0.17's sentinel forgets a proxy without key.
func TestAPromiseEndsBeforeItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.proxy.reads.Timeout = 10 * time.Minute // the call isn't abandoned
		w.backend.Backend.(*memory.Client).SetTimeout(time.Minute)
		w.put(data(1))
		w.hooked(func(_ context.Context, r memory.Request) error {
			switch {
			case r.Kind == memory.Grant && r.Stage == memory.After:
				time.Sleep(25 * time.Second)
			case r.Kind == memory.Renew:
				return errDown // no second check
			}
			return nil
		})
		w.begin()
		w.pass(25 * time.Second)
		w.wantPublished(1)
		if got, most := w.proxy.fwd.Deadline(), 30*time.Second; got >= most {
			t.Errorf("deadline %s, want it before the key goes at %s", got, most)
		}
		w.end()
	})
}

func TestANameIsResolvedOncePerRoute(t *testing.T) {
	run(t, func(w *world) {
		named := func(cd *cluster.ClusterData) { cd.DBs["db1"].Status.ListenAddress = "pg1" }
		w.put(data(1, named))
		w.wantPublished(-1)
		w.wantOpen(true)
		w.wantLed("")
		w.pass(time.Minute)
		w.wantOpen(true)
		w.wantLogged("proxy uid", "no clusterdata available, closing connections to master", "Starting proxying", "cannot resolve db address")
		w.name("pg1", "10.0.0.1")
		w.pass(w.now() + 5*time.Second)
		w.wantPublished(1)
		c := w.wantLed(m1)
		w.name("pg1", "10.0.0.2")
		w.pass(w.now() + time.Minute)
		w.wantAlive(c, true)
		w.wantLed(m1)
		w.put(data(2, leadingTo("")))
		w.put(data(3, named))
		w.wantLed(m2)
	})
}

func TestUnusableClusterDataIsAFailedCheck(t *testing.T) {
	run(t, func(w *world) {
		w.put(data(1))
		w.logged()
		w.putValue("{")
		w.pass(14 * time.Second)
		w.wantOpen(true)
		w.pass(16 * time.Second)
		w.wantOpen(false)
		w.pass(time.Hour)
		w.wantOpen(false)
		w.wantLogged("cluster data can't be used, closing connections to master", "check function error", "check timeout timer fired", "Stopping listening",
			"cluster data can't be used, closing connections to master")
		w.put(data(2))
		w.wantLed(m1)
	})
}

func TestADeletedKeyEndsTheRouteAtOnce(t *testing.T) {
	run(t, func(w *world) {
		w.put(data(1))
		c := w.wantLed(m1)
		if _, err := w.admin.Commit(context.Background(), nil, []store.Op{{Key: w.admin.ClusterDataKey(), Delete: true}}); err != nil {
			t.Fatal(err)
		}
		w.wantAlive(c, false)
		w.wantOpen(true)
	})
}

func TestAnOrderlyStopWithdrawsTheKeyLast(t *testing.T) {
	run(t, func(w *world) {
		w.put(data(1))
		c := w.wantLed(m1)
		w.hooked(func(_ context.Context, r memory.Request) error {
			time.Sleep(time.Millisecond)
			if r.Kind == memory.Revoke && (c.alive() || w.open()) {
				t.Errorf("the lease is revoked before everything is closed")
			}
			return nil
		})
		w.stop()
		<-w.ended
		w.wantAlive(c, false)
		w.wantPublished(-1)
	})
}

func TestTheSpecsTimesAreKept(t *testing.T) {
	run(t, func(w *world) {
		w.put(data(1, timeouts(time.Second, 4*time.Second)))
		w.pass(5 * time.Second) // the first promise was still for 15s, but the second not
		c := w.wantLed(m1)
		old := w.info()
		w.pass(6 * time.Second)
		if info := w.info(); info.InfoUID == old.InfoUID || info.ProxyTimeout != 4*time.Second {
			t.Errorf("ProxyInfo %+v after %+v, want a new one each second, for 4s", info, old)
		}
		w.hooked(down)
		w.pass(10 * time.Second)
		w.wantAlive(c, false)
	})
}

// A master that refuses newcomers while others hear of it lives, and the
// sentinel has half a second to learn that: however much is heard, and for
// however long, what is published is never older.
func TestAMasterThatIsHeardOfWhileItRefusesIsToldOfAllTheTime(t *testing.T) {
	run(t, func(w *world) {
		w.put(data(1))
		c := w.wantLed(m1)
		w.mu.Lock()
		w.refusing = true
		w.mu.Unlock()
		w.connect()
		if info := w.info(); info.Suspect != "db1" {
			t.Fatalf("ProxyInfo = %+v after a refusal, want db1 suspect", *info)
		}
		told, at := w.info().InfoUID, w.now()
		for range 2000 {
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			w.pass(w.now() + 10*time.Millisecond)
			info := w.info()
			if info.InfoUID != told {
				told, at = info.InfoUID, w.now()
			}
			if age := w.now() - at; age > 2*noticePause || info.MasterSeen > 2*noticePause {
				t.Fatalf("at %s: told %s ago that the master was seen %s before", w.now(), age, info.MasterSeen)
			}
		}
	})
}

func TestAnIntervalOfZeroIsNoBusyLoop(t *testing.T) {
	run(t, func(w *world) {
		w.put(data(1, timeouts(0, time.Second)))
		checks := 0
		w.hooked(func(_ context.Context, r memory.Request) error {
			if checks++; checks > 10000 {
				w.hooked(frozen)
			}
			return nil
		})
		w.pass(2 * time.Second)
		if checks > 1000 {
			t.Errorf("%d store requests within 2s", checks)
		}
	})
}

func TestMetrics(t *testing.T) {
	run(t, func(w *world) {
		value := func(name string) float64 {
			families, err := w.registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				if f.GetName() == name {
					m := f.GetMetric()[0]
					return m.GetGauge().GetValue() + m.GetCounter().GetValue()
				}
			}
			t.Errorf("no metric %s", name)
			return -1
		}
		want := func(connections, accepted, cut, age float64) {
			t.Helper()
			got := [...]float64{
				value("stolon_proxy_connections"), value("stolon_proxy_connections_accepted_total"),
				value("stolon_proxy_connections_cut_total"), value("stolon_proxy_last_check_success_age_seconds"),
			}
			if got != [...]float64{connections, accepted, cut, age} {
				t.Errorf("at %s: open, accepted, cut and age are %v, want %v %v %v %v", w.now(), got, connections, accepted, cut, age)
			}
		}
		w.put(data(1))
		w.wantLed(m1)
		w.wantLed(m1)
		w.pass(3 * time.Second)
		want(2, 2, 0, 3)
		w.put(data(2, leadingTo("")))
		want(0, 2, 2, 0)
	})
}

func TestNewNamesTheFieldAtFault(t *testing.T) {
	if _, err := New(Options{}); err == nil || !strings.Contains(err.Error(), "UID") {
		t.Errorf("New(Options{}) = %v, want an error that names the UID", err)
	}
	o := Options{UID: uid, Store: &store.Client{}, Clock: func() time.Duration { return 0 }, NewUID: func() string { return "" }, Log: zap.NewNop()}
	if _, err := New(o); err == nil || !strings.Contains(err.Error(), "StoreTimeout") {
		t.Errorf("New() = %v, want an error that names StoreTimeout", err)
	}
}
