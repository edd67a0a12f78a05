package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"stolon/internal/cluster"
	"stolon/internal/keeper"
	"stolon/internal/lifeline"
	"stolon/internal/postgresql"
	"stolon/internal/postgresql/conf"
	"stolon/internal/postgresql/wal"
	"stolon/internal/store"
	"stolon/internal/store/memory"
)

// errDead is what a door answers to a process that has been killed.
var errDead = errors.New("this process was killed")

// A proc is one life of a process. Everything it does to the world goes
// through doors that block while it is stopped (SIGSTOP) and that fail once it
// is dead: its goroutines then have no more effect, and end.
type proc struct {
	s    *sim
	kind string // keeper, sentinel, proxy
	name string // keeper1; the same in every life
	id   string // keeper1#2
	n    int    // number of the keeper
	dice dice

	client *memory.Client
	life   context.Context // ends with the process
	die    context.CancelFunc
	stop   context.CancelFunc // SIGTERM
	done   chan struct{}      // Run has returned

	mu      sync.Mutex
	stopped chan struct{} // not nil: SIGSTOP
	since   time.Time     // of stopped
	paused  time.Duration // in all, before
	slow    time.Duration // by how much a plant set the clock back
	late    time.Duration // how much longer the instance takes to start
	draws   map[string]uint64
	began   time.Time // of the last read of the cluster data
	read    time.Time // beginning of the last one that was answered
}

func (s *sim) newProc(kind string, n int) *proc {
	name := kind + strconv.Itoa(n)
	s.mu.Lock()
	s.lives[name]++
	id := fmt.Sprintf("%s#%d", name, s.lives[name])
	s.mu.Unlock()
	p := &proc{s: s, kind: kind, name: name, id: id, n: n, dice: s.dice.of(id), done: make(chan struct{}), draws: map[string]uint64{}}
	p.life, p.die = context.WithCancel(context.Background())
	p.client = s.server.Client(id, p.hook)
	p.client.SetTimeout(storeTimeout)
	return p
}

// run starts the process's Run.
func (p *proc) run(f func(context.Context) error) {
	ctx, stop := context.WithCancel(p.life)
	p.stop = stop
	p.s.wg.Go(func() {
		defer close(p.done)
		err := f(ctx)
		if err != nil && !p.dead() {
			p.s.trace("%s ended: %v", p.id, err)
		}
		_ = p.client.Close()
		p.kill()
	})
	p.s.trace("%s starts", p.id)
}

func (p *proc) dead() bool { return p.life.Err() != nil }

// kill is kill -9.
func (p *proc) kill() {
	p.die()
	p.s.network.closeOf(p)
	p.cont()
}

// pause is SIGSTOP, cont SIGCONT.
func (p *proc) pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped == nil && !p.dead() {
		p.stopped, p.since = make(chan struct{}), time.Now()
	}
}

func (p *proc) cont() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped != nil {
		close(p.stopped)
		p.stopped = nil
		p.paused += time.Since(p.since)
	}
}

func (p *proc) pausedFor() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.paused
}

func (p *proc) slowFor() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.slow
}

func (p *proc) listen(_ context.Context, address string) (net.Listener, error) {
	return p.s.network.listen(p, address)
}

// nets are where processes without an instance have their lifelines.
var nets = map[string]string{"10.1.0.": "proxy", "10.2.0.": "sentinel"}

// lifeline serves that of the process.
func (p *proc) lifeline(uid string) *cluster.Lifeline {
	for net, kind := range nets {
		if kind != p.kind {
			continue
		}
		at := fmt.Sprintf("%s%d:7000", net, p.n)
		l, err := p.listen(p.life, at)
		if err != nil {
			p.s.trace("%s has no lifeline: %v", p.id, err)
			break
		}
		p.s.wg.Go(func() { lifeline.Serve(l, uid) })
		return &cluster.Lifeline{Address: at}
	}
	return nil
}

// nodeAt is whose address it is.
func nodeAt(ip string) string {
	for net, kind := range nets {
		if n, ok := strings.CutPrefix(ip, net); ok {
			return kind + n
		}
	}
	return ip
}

func (p *proc) dial(ctx context.Context, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	c, err := p.s.network.dial(ctx, p, p.name, nodeAt(host), address)
	if err != nil {
		return nil, err // not a nil *conn in an interface
	}
	return c, nil
}

// gate waits while the process is stopped; false when it is dead.
func (p *proc) gate() bool {
	for {
		p.mu.Lock()
		stopped := p.stopped
		p.mu.Unlock()
		if stopped == nil || p.dead() {
			return !p.dead()
		}
		<-stopped
	}
}

// clock is CLOCK_BOOTTIME as the process reads it.
func (p *proc) clock() time.Duration {
	p.gate()
	return time.Since(p.s.start) + p.s.epochOf(p.name)
}

func (p *proc) draw(what string) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draws[what]++
	return p.dice.of(what).at(p.draws[what])
}

func (p *proc) uid() string { return fmt.Sprintf("%08x", uint32(p.draw("uid"))) }

func (p *proc) store() *store.Client {
	var b store.Backend = p.client
	if p.name == p.s.plan.old {
		b = oldKeeper{b}
	}
	if wrap := p.s.plant.store; wrap != nil {
		b = wrap(p, b)
	}
	return store.NewClient(b, "sim", "c")
}

// oldKeeper is the store of a keeper that says no more than one of 0.17 does.
type oldKeeper struct{ store.Backend }

func (b oldKeeper) Commit(ctx context.Context, conds []store.Condition, ops []store.Op) (int64, error) {
	ops = slices.Clone(ops)
	for n, op := range ops {
		var info cluster.KeeperInfo
		if !strings.Contains(op.Key, "/keepers/info/") || json.Unmarshal(op.Value, &info) != nil {
			continue
		}
		info.Features, info.Stopping, info.Downtime, info.Refuses = nil, false, "", ""
		info.Foreign, info.Pong, info.Suspect, info.Handover = nil, "", "", nil
		if st := info.PostgresState; st != nil {
			st.SyncGeneration, st.Primary, st.ReceiverUp, st.ReplayPos = 0, false, false, 0
			st.FailedStart, st.Forked, st.WALSegmentSize = 0, false, 0
		}
		ops[n].Value = store.Encode(info)
	}
	return b.Backend.Commit(ctx, conds, ops)
}

// hook is the way to the store and back.
func (p *proc) hook(ctx context.Context, r memory.Request) error {
	s := p.s
	if r.Stage == memory.After {
		s.truth.stored(p, r)
	}
	s.detail("%s %s %s %d/%d %v", p.id, r.Kind, r.Key, r.N, r.Stage, r.Err)
	if !p.gate() {
		return errDead
	}
	if r.Stage == memory.Before {
		p.mu.Lock()
		if r.Kind == memory.Get && r.Key == s.keys.ClusterDataKey() {
			p.began = time.Now()
		}
		p.mu.Unlock()
	}
	d := p.dice.of(string(r.Kind)).of(r.Key).of(strconv.Itoa(int(r.Stage)))
	x := d.at(uint64(r.N))
	err := p.travel(ctx, x, r)
	if !p.gate() {
		return errDead
	}
	if err != nil && r.Stage == memory.Before && r.Kind != memory.Event && x%3 == 0 {
		return memory.Late{After: between(mix(x+7), 10*time.Millisecond, 9*time.Second)}
	}
	return err
}

// travel is one way; it fails when the message doesn't get through in time.
func (p *proc) travel(ctx context.Context, x uint64, r memory.Request) error {
	s := p.s
	wait := between(x, 200*time.Microsecond, 2500*time.Microsecond)
	w := s.weather()
	if w.slow > 0 && mix(x+1)%2 == 0 && (p.kind == "proxy" || s.plan.profile != "slow proxies") {
		wait += between(mix(x+2), 0, w.slow)
	}
	if r.Kind == memory.Event && w.lag > 0 {
		wait += between(mix(x+3), 0, w.lag)
	}
	wait += w.steady
	for {
		if err := p.sleep(ctx, wait); err != nil {
			return err
		}
		changed := s.network.change()
		if s.network.reachable(p.name, "store") {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-p.life.Done():
			return errDead
		}
		x = mix(x + 4)
		wait = between(x, 5*time.Millisecond, 300*time.Millisecond)
	}
	w = s.weather()
	if r.Kind == memory.Event {
		if w.breakWatch > 0 && mix(x+5)%100 < w.breakWatch {
			return errors.New("watch broken")
		}
		return nil
	}
	if w.fail > 0 && r.Stage == memory.Before && mix(x+8)%100 < w.fail {
		return errors.New("the store fails")
	}
	if w.lose > 0 && mix(x+6)%100 < w.lose {
		<-ctx.Done() // neither an answer nor a refusal
		return ctx.Err()
	}
	return nil
}

func (p *proc) sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.life.Done():
		return errDead
	}
}

// door is an instance as one keeper process reaches it.
type door struct {
	p *proc
	keeper.Instance
}

func (d door) do(ctx context.Context, f func(context.Context) error) error {
	if !d.p.gate() {
		return errDead
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.p.life, cancel)()
	err := f(ctx)
	d.p.s.detail("%s asked its instance: %v", d.p.id, err)
	if !d.p.gate() {
		return errDead
	}
	return err
}

func (d door) Look(ctx context.Context) (l postgresql.Look, err error) {
	err = d.do(ctx, func(ctx context.Context) (err error) { l, err = d.Instance.Look(ctx); return })
	return l, err
}

func (d door) Sample(ctx context.Context) (x postgresql.Sample, err error) {
	err = d.do(ctx, func(ctx context.Context) (err error) { x, err = d.Instance.Sample(ctx); return })
	return x, err
}

func (d door) Show(ctx context.Context, name string) (x string, err error) {
	err = d.do(ctx, func(ctx context.Context) (err error) { x, err = d.Instance.Show(ctx, name); return })
	return x, err
}

func (d door) Needed(ctx context.Context) (x map[string]int, err error) {
	err = d.do(ctx, func(ctx context.Context) (err error) { x, err = d.Instance.Needed(ctx); return })
	return x, err
}

func (d door) Slots(ctx context.Context) (x []postgresql.Slot, err error) {
	err = d.do(ctx, func(ctx context.Context) (err error) { x, err = d.Instance.Slots(ctx); return })
	return x, err
}

func (d door) InitDB(ctx context.Context, o postgresql.InitDB) error {
	return d.do(ctx, func(ctx context.Context) error { return d.Instance.InitDB(ctx, o) })
}

func (d door) BaseBackup(ctx context.Context, from postgresql.Source, progress func(string)) error {
	return d.do(ctx, func(ctx context.Context) error { return d.Instance.BaseBackup(ctx, from, progress) })
}

func (d door) Space(ctx context.Context, from postgresql.Source) (x postgresql.Space, err error) {
	err = d.do(ctx, func(ctx context.Context) (err error) { x, err = d.Instance.Space(ctx, from); return })
	return x, err
}

func (d door) PrepareRewind(ctx context.Context, from postgresql.Source) error {
	return d.do(ctx, func(ctx context.Context) error { return d.Instance.PrepareRewind(ctx, from) })
}

func (d door) Rewind(ctx context.Context, from postgresql.Source) error {
	return d.do(ctx, func(ctx context.Context) error { return d.Instance.Rewind(ctx, from) })
}

func (d door) SetAside(ctx context.Context) error { return d.do(ctx, d.Instance.SetAside) }

func (d door) DropAside(ctx context.Context) error { return d.do(ctx, d.Instance.DropAside) }

func (d door) Start(ctx context.Context, c conf.Config, firstStart bool) error {
	return d.do(ctx, func(ctx context.Context) error {
		if c.Recovery == nil && !firstStart {
			d.p.s.truth.mayBePrimary(d.p, "starts as a primary")
		}
		// Crash recovery takes its time, in which the port refuses.
		x := d.p.draw("recovery")
		if d.p.s.plan.profile == "doubts" {
			if err := sleep(ctx, d.p.lateness()+between(mix(x), 0, 400*time.Millisecond)); err != nil {
				return err
			}
		} else if x%4 == 0 {
			if err := sleep(ctx, between(mix(x), 300*time.Millisecond, 2*time.Second)); err != nil {
				return err
			}
		}
		return d.Instance.Start(ctx, c, firstStart)
	})
}

func (d door) Ready(ctx context.Context) error { return d.do(ctx, d.Instance.Ready) }

func (d door) Stop(ctx context.Context, mode postgresql.StopMode) error {
	return d.do(ctx, func(ctx context.Context) error { return d.Instance.Stop(ctx, mode) })
}

func (d door) HandOver(ctx context.Context, to string) (at wal.LSN, err error) {
	err = d.do(ctx, func(ctx context.Context) (err error) { at, err = d.Instance.HandOver(ctx, to); return })
	return at, err
}

func (d door) Reload(ctx context.Context, c conf.Config) error {
	return d.do(ctx, func(ctx context.Context) error { return d.Instance.Reload(ctx, c) })
}

func (d door) Promote(ctx context.Context) error {
	return d.do(ctx, func(ctx context.Context) error {
		d.p.s.truth.mayBePrimary(d.p, "promotes")
		return d.Instance.Promote(ctx)
	})
}

func (d door) Checkpoint(ctx context.Context) error { return d.do(ctx, d.Instance.Checkpoint) }

func (d door) SetRoles(ctx context.Context, r postgresql.Roles) error {
	return d.do(ctx, func(ctx context.Context) error { return d.Instance.SetRoles(ctx, r) })
}

func (d door) CreateSlot(ctx context.Context, name string) error {
	return d.do(ctx, func(ctx context.Context) error { return d.Instance.CreateSlot(ctx, name) })
}

func (d door) DropSlot(ctx context.Context, name string) error {
	return d.do(ctx, func(ctx context.Context) error { return d.Instance.DropSlot(ctx, name) })
}

// files are a keeper's disk.
type files struct {
	p    *proc
	disk map[string][]byte // outlives the process
}

func (f files) Load(name string) ([]byte, error) { return f.disk[name], nil }

func (f files) Save(name string, b []byte) error {
	if f.p.dead() {
		return errDead
	}
	f.p.s.truth.saved(f.p, name, f.disk[name], b)
	f.disk[name] = b
	return nil
}

// dice is a number that depends on the seed and on names only, so that it
// doesn't matter in which order the draws of one instant are made.
type dice uint64

func (d dice) of(name string) dice {
	h := uint64(d) ^ 0x9e3779b97f4a7c15
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 0x100000001b3
	}
	return dice(mix(h))
}

func (d dice) at(n uint64) uint64 { return mix(uint64(d) + n*0x9e3779b97f4a7c15) }

// next is the following draw of a stream.
func (d *dice) next() uint64 {
	*d = dice(uint64(*d) + 0x9e3779b97f4a7c15)
	return mix(uint64(*d))
}

func (d *dice) between(lo, hi time.Duration) time.Duration { return between(d.next(), lo, hi) }

func (d *dice) intN(n int) int { return int(d.next() % uint64(n)) }

// chance is true in that many cases of a hundred.
func (d *dice) chance(percent int) bool { return d.intN(100) < percent }

func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

func between(x uint64, lo, hi time.Duration) time.Duration {
	return lo + time.Duration(x%uint64(hi-lo))
}
