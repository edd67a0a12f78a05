package postgresqltest

import (
	"maps"
	"slices"
	"strings"
	"time"

	"stolon/internal/postgresql"
	"stolon/internal/postgresql/conf"
	"stolon/internal/postgresql/wal"
)

const syncNames = "synchronous_standby_names"

// needRestart are parameters that a reload can't change.
var needRestart = []string{"max_connections", "max_wal_senders", "max_replication_slots", "wal_level", "port", "listen_addresses"}

// A postmaster is a running server. Everything in it is guarded by World.mu.
type postmaster struct {
	i      *Instance
	d      *data
	pid    int
	exited chan struct{} // closed at its end
	halt   chan struct{} // closed when its WAL receiver has to end

	ready, primary, promoting, stopping bool
	changed                             chan struct{} // closed and replaced when there is more to see
	followChanged                       chan struct{} // closed and replaced when whom to follow may have
	receiverGone                        chan struct{} // of the receiver that is up, or was last
	receiverUp                          bool
	received                            bool // WAL has come since the start
	replaying                           bool // WAL that was there before the start

	// A setting is in force at different times in different processes.
	config      conf.Config // in new backends
	started     map[string]string
	senderNames wanted // in WAL senders: whose confirmation ends a wait
	defined     bool   // in the checkpointer: whether commits wait at all

	senders  []*sender
	waiters  []*waiter
	released wal.LSN
	hidden   map[int64]bool // serials of rows that nobody sees yet
	backends []*backend
}

// A waiter is a commit that waits for standbys.
type waiter struct {
	lsn  wal.LSN
	done chan bool // true: confirmed
}

// tell lets everybody who waits for something look again.
func (pm *postmaster) tell() {
	close(pm.changed)
	pm.changed = make(chan struct{})
}

func (pm *postmaster) over() bool {
	select {
	case <-pm.exited:
		return true
	default:
		return false
	}
}

// haltReceiver ends the WAL receiver for good.
func (pm *postmaster) haltReceiver() {
	select {
	case <-pm.halt:
	default:
		close(pm.halt)
	}
	pm.loseReceiver()
}

// release ends the waits that the standbys have confirmed.
func (pm *postmaster) release() {
	if lsn, ok := pm.senderNames.confirmed(pm.senders); ok && lsn > pm.released {
		pm.released = lsn
		pm.waiters = slices.DeleteFunc(pm.waiters, func(w *waiter) bool {
			if w.lsn <= lsn {
				w.done <- true
			}
			return w.lsn <= lsn
		})
	}
}

// cancelWaits ends every wait without a confirmation.
func (pm *postmaster) cancelWaits() {
	for _, w := range pm.waiters {
		w.done <- false
	}
	pm.waiters = nil
}

// updateDefined is the checkpointer taking notice of the list: without one it
// ends every wait, and nobody begins one.
func (pm *postmaster) updateDefined() {
	pm.defined = pm.d.config.Parameters[syncNames] != ""
	if !pm.defined {
		for _, w := range pm.waiters {
			w.done <- true
		}
		pm.waiters = nil
	}
}

// settings are what the configuration files say.
func settings(c conf.Config) map[string]string {
	out := maps.Clone(c.Parameters)
	if out == nil {
		out = map[string]string{}
	}
	if c.Recovery != nil {
		maps.Copy(out, c.Recovery.Parameters())
	}
	return out
}

func (pm *postmaster) pendingRestart() bool {
	now := settings(pm.config)
	return slices.ContainsFunc(needRestart, func(name string) bool { return now[name] != pm.started[name] })
}

// letsUsersIn looks for a line for everybody.
func letsUsersIn(hba []string) bool {
	return slices.ContainsFunc(hba, func(line string) bool {
		f := strings.Fields(line)
		return len(f) > 2 && f[0] == "host" && f[1] == "all" && f[2] == "all"
	})
}

// launch makes a postmaster of the data directory; World.mu is held.
func (i *Instance) launch() *postmaster {
	d := i.data
	i.pids++
	d.lose()
	pm := &postmaster{
		i: i, d: d, pid: i.pids,
		exited: make(chan struct{}), halt: make(chan struct{}), changed: make(chan struct{}), followChanged: make(chan struct{}),
		config: d.config, started: settings(d.config), senderNames: parseWanted(d.config.Parameters[syncNames]),
		defined: d.config.Parameters[syncNames] != "", hidden: map[int64]bool{},
	}
	i.pm = pm
	i.w.wg.Go(func() { i.boot(pm) })
	return pm
}

// boot recovers and then takes connections.
func (i *Instance) boot(pm *postmaster) {
	if !i.pause(pm, i.delay("recover", 20*time.Millisecond, 400*time.Millisecond)) {
		return
	}
	i.w.mu.Lock()
	if pm.over() || pm.stopping {
		i.w.mu.Unlock()
		return
	}
	d := pm.d
	if d.standbySignal {
		// It takes connections once its data is consistent, which is before it has
		// replayed all the WAL that it has.
		pm.replaying = d.state != postgresql.ShutDown && d.end() > d.checkpoint
		d.state = postgresql.InArchiveRecovery
		pm.ready = true
		pm.tell()
		if pm.replaying {
			i.w.wg.Go(func() { i.replay(pm) })
		}
		i.w.mu.Unlock()
		i.event("standby ready at %s on timeline %d", d.end(), d.timeline.id)
		i.receive(pm)
		return
	}
	if d.state != postgresql.ShutDown {
		d.note(i.w.nextSerial())
	}
	d.makeCheckpoint()
	d.state = postgresql.InProduction
	pm.primary, pm.ready = true, true
	pm.tell()
	at := d.end()
	i.w.mu.Unlock()
	i.event("primary ready at %s on timeline %d", at, d.timeline.id)
	i.w.o.Watcher.BecamePrimary(i.host, false)
}

// replay replays what was there before the start.
func (i *Instance) replay(pm *postmaster) {
	if i.pause(pm, i.delay("replay", time.Millisecond, 500*time.Millisecond)) {
		i.w.mu.Lock()
		pm.replaying = false
		i.w.mu.Unlock()
	}
}

// crash ends the postmaster as kill -9 does. Backends in the middle of a
// statement finish it unless all are killed (protocols.md S2). World.mu is held.
func (i *Instance) crash(pm *postmaster, all bool) {
	close(pm.exited)
	pm.haltReceiver()
	pm.cancelWaits()
	pm.tell()
	i.pm = nil
	for _, b := range pm.backends {
		if b.busy && !all {
			i.orphans = append(i.orphans, b)
			continue
		}
		b.end()
	}
	pm.backends = nil
}

// endOrphans kills what a killed postmaster left behind. World.mu is held.
func (i *Instance) endOrphans() {
	for _, b := range i.orphans {
		b.end()
	}
	i.orphans = nil
}

// shutDown is a fast shutdown: clients go at once, a primary ships all WAL to
// the standbys that are connected before it ends.
func (i *Instance) shutDown(pm *postmaster) {
	if !i.pause(pm, i.delay("shutdown", 5*time.Millisecond, 100*time.Millisecond)) {
		return
	}
	i.w.mu.Lock()
	if pm.over() {
		i.w.mu.Unlock()
		return
	}
	pm.cancelWaits()
	for _, b := range pm.backends {
		b.end()
	}
	pm.backends = nil
	pm.haltReceiver()
	d := pm.d
	if !pm.primary {
		if d.standbySignal {
			d.state = postgresql.ShutDownInRecovery
		}
		i.event("standby shut down at %s", d.end())
		i.exit(pm)
		i.w.mu.Unlock()
		return
	}
	d.note(i.w.nextSerial())
	d.makeCheckpoint()
	d.state = postgresql.ShutDown
	end := d.end()
	limit := time.Now().Add(i.delayLocked("wal_sender_timeout", 60*time.Second, 61*time.Second))
	for !pm.over() && time.Now().Before(limit) && slices.ContainsFunc(pm.senders, func(s *sender) bool { return s.flush < end }) {
		pm.tell()
		changed := pm.changed
		i.w.mu.Unlock()
		i.w.sleep(time.Until(limit), changed, pm.exited)
		i.w.mu.Lock()
	}
	if !pm.over() {
		i.event("primary shut down at %s", end)
		i.exit(pm)
	}
	i.w.mu.Unlock()
}

// exit is an orderly end; World.mu is held.
func (i *Instance) exit(pm *postmaster) {
	close(pm.exited)
	pm.tell()
	i.pm = nil
}

// hangUp is SIGHUP: the processes read the files one after the other.
func (i *Instance) hangUp(pm *postmaster) {
	step := func(d time.Duration, do func()) bool {
		if !i.pause(pm, d) {
			return false
		}
		i.w.mu.Lock()
		defer i.w.mu.Unlock()
		if pm.over() {
			return false
		}
		do()
		return true
	}
	ok := step(i.delay("hup backends", time.Millisecond, 8*time.Millisecond), func() {
		if before := pm.config.Recovery; before != nil && pm.d.config.Recovery != nil && !maps.Equal(before.Parameters(), pm.d.config.Recovery.Parameters()) {
			close(pm.followChanged)
			pm.followChanged = make(chan struct{})
		}
		pm.config = pm.d.config
	})
	ok = ok && step(i.delay("hup senders", time.Millisecond, 30*time.Millisecond), func() {
		pm.senderNames = parseWanted(pm.d.config.Parameters[syncNames])
		pm.release()
	})
	// A checkpointer at work looks late.
	longest := 100 * time.Millisecond
	if i.delay("checkpointer busy", 0, 10) == 0 {
		longest = 3 * time.Second
	}
	if ok {
		step(i.delay("hup checkpointer", time.Millisecond, longest), pm.updateDefined)
	}
}

// becomePrimary ends recovery on a timeline of its own.
func (i *Instance) becomePrimary(pm *postmaster) {
	if !i.pause(pm, i.delay("promote", 10*time.Millisecond, 300*time.Millisecond)) {
		return
	}
	i.w.mu.Lock()
	if pm.over() || pm.stopping || !pm.ready {
		pm.promoting = false
		i.w.mu.Unlock()
		return
	}
	d := pm.d
	pm.haltReceiver()
	d.lose()
	d.newest = max(d.newest, d.timeline.id) + 1
	d.timeline = &timeline{id: d.newest, creator: i.host, parent: d.timeline, left: d.end()}
	d.note(i.w.nextSerial())
	d.standbySignal = false
	d.state = postgresql.InProduction
	pm.primary = true
	pm.tell()
	at, id := d.end(), d.timeline.id
	i.w.mu.Unlock()
	i.event("promoted at %s to timeline %d", at, id)
	i.w.o.Watcher.BecamePrimary(i.host, true)
	// Until then pg_control shows the old timeline.
	if i.pause(pm, i.delay("first checkpoint", 100*time.Millisecond, 2*time.Second)) {
		i.checkpoint(pm)
	}
}

// checkpoint makes one.
func (i *Instance) checkpoint(pm *postmaster) {
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	if pm.over() {
		return
	}
	pm.updateDefined()
	if pm.primary && !pm.stopping {
		pm.d.note(i.w.nextSerial())
		pm.tell()
	}
	pm.d.makeCheckpoint()
}

// loseReceiver ends the WAL receiver, if one runs; World.mu is held.
func (pm *postmaster) loseReceiver() {
	if pm.receiverUp {
		pm.receiverUp = false
		close(pm.receiverGone)
	}
}
