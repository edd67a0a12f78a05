package postgresqltest

import (
	"net"
	"slices"
	"strings"
	"time"

	"stolon/internal/postgresql"
	"stolon/internal/postgresql/conf"
	"stolon/internal/postgresql/wal"
)

// patience is wal_receiver_timeout and wal_sender_timeout.
const patience = 60 * time.Second

// A sender is a WAL sender: a row of pg_stat_replication. Guarded by World.mu.
type sender struct {
	name, slot string
	streaming  bool
	flush      wal.LSN
}

// rows is pg_stat_replication.
func (pm *postmaster) rows() []postgresql.ReplicationRow {
	// A new backend's view of the list, with the senders' own priorities.
	sync, potential := pm.senderNames.chosen(pm.senders)
	if pm.config.Parameters[syncNames] == "" {
		sync, potential = nil, nil
	}
	var out []postgresql.ReplicationRow
	for _, s := range pm.senders {
		row := postgresql.ReplicationRow{ApplicationName: s.name, State: "catchup", SyncState: "async", Flush: s.flush}
		if s.streaming {
			row.State = "streaming"
		}
		switch {
		case slices.Contains(sync, s):
			row.SyncState = "sync"
		case slices.Contains(potential, s):
			row.SyncState = "potential"
		}
		out = append(out, row)
	}
	return out
}

func (pm *postmaster) slotActive(name string) bool {
	return slices.ContainsFunc(pm.senders, func(s *sender) bool { return s.slot == name })
}

// receive keeps a standby's WAL receiver running until it is halted.
func (i *Instance) receive(pm *postmaster) {
	for {
		i.w.mu.Lock()
		over := pm.over() || pm.promotedOrHalted()
		var follow conf.Recovery
		if pm.config.Recovery != nil {
			follow = *pm.config.Recovery
		}
		changed := pm.followChanged
		i.w.mu.Unlock()
		if over {
			return
		}
		if follow.PrimaryConninfo == "" {
			select {
			case <-changed:
			case <-pm.halt:
				return
			case <-i.w.ended:
				return
			}
			continue
		}
		i.stream(pm, follow, changed)
		// wal_retrieve_retry_interval
		i.w.sleep(i.delay("retry", 450*time.Millisecond, 550*time.Millisecond), pm.halt, changed)
		select {
		case <-i.w.ended:
			return
		default:
		}
		if !i.thawed(pm.halt) {
			return
		}
	}
}

func (pm *postmaster) promotedOrHalted() bool {
	select {
	case <-pm.halt:
		return true
	default:
		return false
	}
}

// passes waits until packets pass between the hosts, for as long as a
// connection survives that they don't. It reports false when it broke.
func (i *Instance) passes(to string, until ...<-chan struct{}) bool {
	limit := time.Now().Add(patience)
	blocked := false
	for {
		changed := i.w.o.Changed()
		if i.w.o.Reachable(i.host, to) {
			if blocked { // what is repeated doesn't arrive the instant the path is back
				return i.w.sleep(i.delay("repeat", 5*time.Millisecond, 200*time.Millisecond), until...)
			}
			return true
		}
		blocked = true
		t := time.NewTimer(time.Until(limit))
		var a, b <-chan struct{}
		if len(until) > 0 {
			a = until[0]
		}
		if len(until) > 1 {
			b = until[1]
		}
		ok := false
		select {
		case <-changed:
			ok = true
		case <-t.C:
		case <-a:
		case <-b:
		case <-i.w.ended:
		}
		t.Stop()
		if !ok {
			return false
		}
	}
}

// conninfo reads what conf.Primary writes, as far as it is of use here.
func conninfo(text string) map[string]string {
	out := map[string]string{}
	for _, pair := range strings.Fields(text) {
		name, value, _ := strings.Cut(pair, "=")
		out[name] = value
	}
	return out
}

// stream is one life of a WAL receiver and its WAL sender.
func (i *Instance) stream(pm *postmaster, follow conf.Recovery, changed <-chan struct{}) {
	info := conninfo(follow.PrimaryConninfo)
	i.w.mu.Lock()
	server := i.w.addresses[net.JoinHostPort(info["host"], info["port"])]
	i.w.mu.Unlock()
	if server == nil || server == i {
		return
	}
	if !i.w.sleep(i.delay("connect", time.Millisecond, 10*time.Millisecond), pm.halt, changed) || !i.passes(server.host, pm.halt, changed) || !server.thawed(pm.halt) {
		return
	}
	s := &sender{name: info["application_name"], slot: follow.PrimarySlotName}
	spm, tl, why := i.connect(pm, server, s)
	if why != "" {
		if why == "mixed" {
			i.w.o.Watcher.Mixed(i.host, server.host, "stream")
		}
		i.tellOnce("cannot stream from %s: %s", server.host, why)
		return
	}
	i.event("streaming from %s as %s", server.host, s.name)
	for i.move(pm, server, spm, s, tl, changed) {
	}
	i.disconnect(pm, server, spm, s)
}

func (i *Instance) tellOnce(format, host, why string) {
	i.w.mu.Lock()
	key := "told " + host + why
	again := i.counts[key] > 0
	i.counts[key]++
	i.w.mu.Unlock()
	if !again {
		i.event(format, host, why)
	}
}

// connect starts replication; why not, otherwise.
func (i *Instance) connect(pm *postmaster, server *Instance, s *sender) (*postmaster, *timeline, string) {
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	spm := server.pm
	switch {
	case pm.over() || pm.promotedOrHalted():
		return nil, nil, "over"
	case spm == nil || server.rejects:
		return nil, nil, "connection refused"
	case !spm.ready || spm.stopping:
		return nil, nil, "it is starting up or shutting down"
	case s.slot != "" && !spm.d.slots[s.slot]:
		return nil, nil, "replication slot does not exist"
	case s.slot != "" && spm.slotActive(s.slot):
		return nil, nil, "replication slot is active"
	}
	if ok, why := streams(pm.d, spm.d); !ok {
		return nil, nil, why
	}
	if !sameWAL(pm.d, spm.d) {
		return nil, nil, "mixed"
	}
	s.flush = pm.d.end()
	spm.senders = append(spm.senders, s)
	spm.tell()
	pm.receiverUp, pm.received, pm.receiverGone = true, true, make(chan struct{})
	pm.tell()
	return spm, spm.d.timeline, ""
}

// move ships what there is, or waits for more. It reports false when the
// connection has ended.
func (i *Instance) move(pm *postmaster, server *Instance, spm *postmaster, s *sender, tl *timeline, changed <-chan struct{}) bool {
	i.w.mu.Lock()
	if pm.over() || pm.promotedOrHalted() || spm.d.timeline != tl {
		i.w.mu.Unlock()
		return false
	}
	have, there := len(pm.d.wal), spm.d.flushed
	if have == there {
		if !s.streaming {
			s.streaming = true
			spm.release()
		}
		more := spm.changed
		i.w.mu.Unlock()
		select {
		case <-more:
		case <-pm.halt:
			return false
		case <-changed:
			return false
		case <-spm.exited:
			return false
		case <-i.w.ended:
			return false
		}
		select {
		case <-spm.exited:
			return false
		default:
		}
		return true
	}
	batch := spm.d.wal[have:there:there]
	i.w.mu.Unlock()

	if !i.w.sleep(i.delay("ship", 200*time.Microsecond, 2*time.Millisecond), pm.halt) || !server.thawed(pm.halt) ||
		!i.passes(server.host, pm.halt, changed) || !i.thawed(pm.halt) ||
		!i.w.sleep(i.delay("write", 200*time.Microsecond, 3*time.Millisecond), pm.halt) {
		return false
	}
	i.w.mu.Lock()
	if pm.over() || pm.promotedOrHalted() {
		i.w.mu.Unlock()
		return false
	}
	d := pm.d
	d.wal = append(d.wal, batch...)
	d.flushed = len(d.wal)
	d.timeline = d.wal[d.flushed-1].timeline
	d.newest = max(d.newest, d.timeline.id)
	at := d.end()
	pm.tell()
	i.w.mu.Unlock()

	if !i.w.sleep(i.delay("reply", 200*time.Microsecond, 2*time.Millisecond), pm.halt) || !i.passes(server.host, pm.halt, changed) || !server.thawed(pm.halt) {
		return false
	}
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	if spm.over() {
		return false
	}
	s.flush = at
	spm.release()
	spm.tell() // a shutdown waits for this
	return true
}

// disconnect ends both sides, each when it learns of it.
func (i *Instance) disconnect(pm *postmaster, server *Instance, spm *postmaster, s *sender) {
	i.w.wg.Go(func() {
		i.w.sleep(i.delay("sender ends", time.Millisecond, 5*time.Millisecond))
		i.passes(server.host, spm.exited)
		i.w.mu.Lock()
		defer i.w.mu.Unlock()
		if n := slices.Index(spm.senders, s); n >= 0 {
			spm.senders = slices.Delete(spm.senders, n, n+1)
			if !spm.over() {
				spm.tell()
			}
		}
	})
	i.passes(server.host, pm.halt)
	i.w.sleep(i.delay("receiver ends", time.Millisecond, 5*time.Millisecond), pm.halt)
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	if !pm.over() {
		pm.loseReceiver()
		pm.tell()
	}
}
