// Package postgresqltest is PostgreSQL made of variables, for the simulator:
// instances with data directories, WAL, processes, settings that come into
// force late, and streaming over a network that may be cut. What it imitates is
// what stolon depends on; where PostgreSQL has a trap (protocols.md K5 to K10,
// S2), so has this. It reads time only through package time, so that
// testing/synctest makes it virtual, and draws its delays from a seed.
//
// Start with World, which makes the instances; an Instance is a
// keeper.Instance (instance.go). postmaster.go is the life of the processes,
// stream.go replication, backend.go clients, data.go WAL and timelines.
package postgresqltest

import (
	"fmt"
	"net"
	"sync"
	"time"

	"stolon/internal/postgresql/wal"
)

// Options is what a World needs.
type Options struct {
	Seed uint64
	// Reachable tells whether packets pass between two hosts now; nil: always.
	Reachable func(a, b string) bool
	// Changed returns a channel that is closed when Reachable may answer
	// otherwise; nil with a nil Reachable.
	Changed func() <-chan struct{}
	Watcher Watcher // nil: nobody
}

// A Watcher is told what truly happens, in the instant that it happens. Event
// must not call back into the World.
type Watcher interface {
	// Committed: a client's row is in the WAL of a primary, nobody was told yet;
	// and again once it is flushed. In between somebody else's flush may take it
	// along, so that a crash keeps it.
	Committed(Commit)
	// BecamePrimary: an instance runs as a primary from now on.
	BecamePrimary(host string, promoted bool)
	// Dropped: a data directory that was set aside is removed by request.
	Dropped(host string, rows []Commit)
	// Mixed: different histories under one timeline number met; PostgreSQL
	// would not have noticed.
	Mixed(host, from, how string)
	// Event is anything worth a line in a trace.
	Event(host, what string)
}

// A Commit is a row and where its record lies in the WAL. A data directory
// that has the record has all that was committed before it.
type Commit struct {
	Host   string
	Row    int64
	Index  int   // of the record
	Serial int64 // of the record
	LSN    wal.LSN
	Time   time.Time
}

// A World is instances on one network.
type World struct {
	o  Options
	mu sync.Mutex // guards everything below and in the instances; never held across a wait

	instances map[string]*Instance // by host
	addresses map[string]*Instance // by host:port
	serial    int64
	ended     chan struct{}
	wg        sync.WaitGroup
}

// NewWorld returns a World without instances.
func NewWorld(o Options) *World {
	if o.Reachable == nil {
		never := make(chan struct{})
		o.Reachable = func(a, b string) bool { return true }
		o.Changed = func() <-chan struct{} { return never }
	}
	if o.Watcher == nil {
		o.Watcher = nobody{}
	}
	return &World{o: o, instances: map[string]*Instance{}, addresses: map[string]*Instance{}, ended: make(chan struct{})}
}

// Instance makes the instance of a host, reached at host:port, without data.
func (w *World) Instance(host, port string) *Instance {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := &Instance{w: w, host: host, port: port, counts: map[string]uint64{}}
	w.instances[host] = i
	w.addresses[net.JoinHostPort(host, port)] = i
	return i
}

// At returns the instance that listens on address, nil when none does.
func (w *World) At(address string) *Instance {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := w.addresses[address]
	if i == nil || i.pm == nil {
		return nil
	}
	return i
}

// Close ends everything that runs and waits for it.
func (w *World) Close() {
	w.mu.Lock()
	close(w.ended)
	for _, i := range w.instances {
		if i.pm != nil {
			i.crash(i.pm, true)
		}
		i.endOrphans()
		i.frozen = nil
	}
	w.mu.Unlock()
	w.wg.Wait()
}

// nextSerial is called with mu held.
func (w *World) nextSerial() int64 {
	w.serial++
	return w.serial
}

// sleep waits for d; it reports false when one of the channels is closed first.
func (w *World) sleep(d time.Duration, until ...<-chan struct{}) bool {
	var a, b <-chan struct{}
	if len(until) > 0 {
		a = until[0]
	}
	if len(until) > 1 {
		b = until[1]
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-a:
	case <-b:
	case <-w.ended:
	}
	return false
}

// draw is a number that depends on the seed and the parts only, so that it
// doesn't matter in which order the draws of one instant are made.
func draw(seed uint64, n uint64, parts ...string) uint64 {
	h := seed ^ 0x9e3779b97f4a7c15
	for _, s := range parts {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 0x100000001b3
		}
		h = (h ^ 0xff) * 0x100000001b3
	}
	h += n * 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// between is a duration from lo up to hi.
func between(x uint64, lo, hi time.Duration) time.Duration {
	return lo + time.Duration(x%uint64(hi-lo))
}

type nobody struct{}

func (nobody) Committed(Commit)             {}
func (nobody) BecamePrimary(string, bool)   {}
func (nobody) Dropped(string, []Commit)     {}
func (nobody) Mixed(string, string, string) {}
func (nobody) Event(string, string)         {}

func (i *Instance) event(format string, args ...any) {
	i.w.o.Watcher.Event(i.host, fmt.Sprintf(format, args...))
}
