// Package memory is a store inside the process, for tests and the simulator:
// the semantics of etcd, and faults on demand. It never does I/O and reads
// time only through package time, so that testing/synctest makes it virtual.
//
// Start with New, which makes the server; Server.Client makes the clients,
// each a store.Backend with a Hook of its own (client.go).
package memory

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"stolon/internal/store"
)

// A Server is one store, shared by its clients.
type Server struct {
	mu        sync.Mutex
	revision  int64
	kvs       map[string]entry
	leases    map[int64]*lease
	lastLease int64
	watchers  []*watcher // in the order they came
}

type entry struct {
	value    []byte
	revision int64 // of the last write
	created  int64 // revision of the write that made the key
	lease    int64 // 0: none
}

type lease struct {
	id       int64
	ttl      time.Duration
	deadline time.Time
	timer    *time.Timer
}

// A watcher collects the changes below one prefix until they are taken.
type watcher struct {
	prefix  string
	pending store.Change
	some    chan struct{} // holds a token while pending is not taken
}

// New returns an empty store.
func New() *Server {
	return &Server{revision: 1, kvs: map[string]entry{}, leases: map[int64]*lease{}}
}

// Revision returns the current revision.
func (s *Server) Revision() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	return s.revision
}

// Dump returns everything there is, for invariants and failure messages. It
// passes no hook.
func (s *Server) Dump() store.Snapshot { return s.list("") }

// ExpireAll ends every lease now, as a store does that lost its memory of them.
func (s *Server) ExpireAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(s.leases)) {
		s.end(s.leases[id])
	}
}

func (s *Server) get(key string) *store.KV {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	e, ok := s.kvs[key]
	if !ok {
		return nil
	}
	kv := e.kv(key)
	return &kv
}

func (s *Server) list(prefix string) store.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	return s.snapshot(prefix)
}

// snapshot is called with mu held.
func (s *Server) snapshot(prefix string) store.Snapshot {
	snap := store.Snapshot{Revision: s.revision}
	for _, key := range slices.Sorted(maps.Keys(s.kvs)) {
		if strings.HasPrefix(key, prefix) {
			snap.KVs = append(snap.KVs, s.kvs[key].kv(key))
		}
	}
	return snap
}

func (s *Server) commit(conds []store.Condition, ops []store.Op) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	written := map[string]bool{}
	for _, op := range ops {
		if written[op.Key] {
			return 0, fmt.Errorf("key %q is written twice in one commit", op.Key)
		}
		written[op.Key] = true
	}
	for _, c := range conds {
		if !s.holds(c) {
			return 0, store.ErrConflict
		}
	}
	for _, op := range ops {
		if !op.Delete && op.Lease != nil && s.leases[leaseID(op.Lease)] == nil {
			return 0, store.ErrLeaseLost
		}
	}
	var puts []store.KV
	var deletes []string
	next := s.revision + 1
	for _, op := range ops {
		old, exists := s.kvs[op.Key]
		if op.Delete {
			if exists {
				delete(s.kvs, op.Key)
				deletes = append(deletes, op.Key)
			}
			continue
		}
		e := entry{value: slices.Clone(op.Value), revision: next, created: next}
		if exists {
			e.created = old.created
		}
		if op.Lease != nil {
			e.lease = leaseID(op.Lease)
		}
		s.kvs[op.Key] = e
		puts = append(puts, e.kv(op.Key))
	}
	s.publish(puts, deletes)
	return s.revision, nil
}

func (s *Server) holds(c store.Condition) bool {
	e, exists := s.kvs[c.Key]
	if c.Lease != nil {
		return exists && e.lease == leaseID(c.Lease)
	}
	return e.revision == c.Revision
}

func (s *Server) grant(ttl time.Duration) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	s.lastLease++
	ttl = max(ttl+time.Second-1, time.Second).Truncate(time.Second)
	l := &lease{id: s.lastLease, ttl: ttl, deadline: time.Now().Add(ttl)}
	l.timer = time.AfterFunc(ttl, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.expire()
	})
	s.leases[l.id] = l
	return l.id
}

func (s *Server) renew(id int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	l := s.leases[id]
	if l == nil {
		return store.ErrLeaseLost
	}
	l.deadline = time.Now().Add(l.ttl)
	l.timer.Reset(l.ttl)
	return nil
}

func (s *Server) revoke(id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	if l := s.leases[id]; l != nil {
		s.end(l)
	}
}

// expire ends the leases that are due, the earliest first. Every request
// begins with it, so what a request sees doesn't depend on whether the timers
// of its instant have run.
func (s *Server) expire() {
	now := time.Now()
	var due []*lease
	for _, id := range slices.Sorted(maps.Keys(s.leases)) {
		if l := s.leases[id]; !l.deadline.After(now) {
			due = append(due, l)
		}
	}
	slices.SortStableFunc(due, func(a, b *lease) int { return a.deadline.Compare(b.deadline) })
	for _, l := range due {
		s.end(l)
	}
}

// end removes a lease and its keys.
func (s *Server) end(l *lease) {
	l.timer.Stop()
	delete(s.leases, l.id)
	var deletes []string
	for _, key := range slices.Sorted(maps.Keys(s.kvs)) {
		if s.kvs[key].lease == l.id {
			delete(s.kvs, key)
			deletes = append(deletes, key)
		}
	}
	s.publish(nil, deletes)
}

// publish makes what was done a revision and tells the watchers.
func (s *Server) publish(puts []store.KV, deletes []string) {
	if len(puts)+len(deletes) == 0 {
		return
	}
	s.revision++
	for _, w := range s.watchers {
		ch := store.Change{Revision: s.revision}
		for _, kv := range puts {
			if strings.HasPrefix(kv.Key, w.prefix) {
				ch.Puts = append(ch.Puts, kv)
			}
		}
		for _, k := range deletes {
			if strings.HasPrefix(k, w.prefix) {
				ch.Deletes = append(ch.Deletes, k)
			}
		}
		if len(ch.Puts)+len(ch.Deletes) > 0 {
			w.add(ch)
		}
	}
}

// watch returns a watcher whose first change is everything below prefix.
func (s *Server) watch(prefix string) *watcher {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	snap := s.snapshot(prefix)
	w := &watcher{prefix: prefix, some: make(chan struct{}, 1)}
	w.add(store.Change{Reset: true, Puts: snap.KVs, Revision: snap.Revision})
	s.watchers = append(s.watchers, w)
	return w
}

func (s *Server) unwatch(w *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.watchers, w); i >= 0 {
		s.watchers = slices.Delete(s.watchers, i, i+1)
	}
}

// take returns what w has collected since the last take.
func (s *Server) take(w *watcher) (ch store.Change, some bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	ch, w.pending = w.pending, store.Change{}
	select {
	case <-w.some:
	default:
	}
	return ch, ch.Reset || len(ch.Puts)+len(ch.Deletes) > 0
}

// add is called with the server's mu held.
func (w *watcher) add(ch store.Change) {
	w.pending = w.pending.Then(ch)
	select {
	case w.some <- struct{}{}:
	default:
	}
}

func (e entry) kv(key string) store.KV {
	return store.KV{Key: key, Value: slices.Clone(e.value), Revision: e.revision}
}

// leaseID tells the lease of an op or condition. A lease of another backend is
// a broken promise inside the program.
func leaseID(l store.Lease) int64 {
	if l, ok := store.Granted(l).(*clientLease); ok {
		return l.id
	}
	panic(errors.New("memory: a lease of another backend"))
}
