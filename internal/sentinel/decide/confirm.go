package decide

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"stolon/internal/cluster"
)

// A crash isn't silent: its ports refuse. So the death of a master can be
// confirmed sooner than FailInterval is over (protocols.md S3). An inquiry asks
// the master's keeper for a sign of life and dials its address; only if
// everything speaks for a death and nothing against it is there one.
const (
	// window is how long the keeper has for its answer, from when the ping was
	// written.
	window = 500 * time.Millisecond
	// dialGap lies at least between two dials.
	dialGap = 200 * time.Millisecond
	// slowStore is what a store call may take while an inquiry lasts: a keeper
	// whose store is as slow can't answer in time.
	slowStore = 100 * time.Millisecond
	// inquiryPause lies between an inquiry that ended with a doubt and the next.
	inquiryPause = 2 * time.Second
)

// inquiry is what is known of the suspected death of a master.
type inquiry struct {
	db, keeper string
	boot       string          // the keeper process that is meant
	infoUID    string          // its last sign of life
	began      time.Duration   // of the window
	refused    []time.Duration // when dials were refused
	dead       bool            // it was confirmed
}

// Ask is what the sentinel shall find out.
type Ask struct {
	Keeper string               // whom to ping; "" nobody
	Ping   *cluster.PingRequest // but for its nonce
	Dial   string               // an address, "" none
}

// Pinged returns mem with the news that the ping was written; now is when the
// store said so.
func Pinged(mem Memory, keeper string, ping cluster.PingRequest, now time.Duration) Memory {
	mem.inquiry = inquiry{db: ping.DB, keeper: keeper, boot: ping.BootUUID, infoUID: mem.keepers[keeper].infoUID, began: now}
	return mem
}

// Dialled returns mem with the outcome of the dial that was asked for. Whatever
// is not a refusal is a doubt.
func Dialled(mem Memory, refused bool, now time.Duration) Memory {
	if !refused {
		return mem.doubt(now)
	}
	mem.inquiry.refused = append(slices.Clone(mem.inquiry.refused), now)
	return mem
}

// Called returns mem with the news that a store call of this sentinel took so
// long, and ended now.
func Called(mem Memory, took, now time.Duration) Memory {
	if took >= slowStore && !mem.inquiry.dead {
		mem.inquiry.began = now
	}
	return mem
}

// Confirmed returns mem with the news that the decision that took the master
// for dead was written.
func Confirmed(mem Memory) Memory {
	mem.inquiry.dead = true
	return mem
}

func (m Memory) doubt(now time.Duration) Memory {
	m.inquiry, m.noInquiry = inquiry{}, now+inquiryPause
	return m
}

// heard ends the inquiry when the keeper gave a sign of life.
func (m *Memory) heard(now time.Duration) {
	if q := m.inquiry; q.db != "" && m.keepers[q.keeper].infoUID != q.infoUID {
		*m = m.doubt(now)
	}
}

// confirmedDead: the DB's death was confirmed and nothing has spoken against it
// since.
func (p *pass) confirmedDead(db *cluster.DB) bool {
	q := p.mem.inquiry
	return q.dead && q.db == db.UID && p.streamsFrom(db, q.began) == ""
}

// dies takes the next step of an inquiry into the death of the master that the
// proxies lead to. It reports whether that is confirmed.
func (p *pass) dies(master *cluster.DB) bool {
	k, q := p.keeperOf(master), p.mem.inquiry
	s := p.mem.keepers[k.UID]
	if !p.set.ConfirmDeaths() || p.cd.Proxy.Spec.MasterDBUID != master.UID || !slices.Contains(s.info.Features, cluster.Ping) ||
		!s.proven || s.info.Stopping || s.info.Downtime != "" || p.report(master) == nil {
		return false
	}
	suspecting := p.suspecting(master)
	if len(suspecting) == 0 || len(p.candidates(master)) == 0 {
		return false // without a candidate, connections that live may be all there is
	}
	if p.Boot < p.mem.noInquiry {
		p.wakeAt(p.mem.noInquiry)
		return false
	}
	p.wait(Warn, "master suspected dead", Event{DB: master.UID, Keeper: k.UID,
		Why: fmt.Sprintf("its address refuses connections, say %s; asking its keeper", strings.Join(suspecting, ", "))})
	if q.db != master.UID || q.boot != s.info.BootUUID {
		p.out.Ask = &Ask{Keeper: k.UID, Ping: &cluster.PingRequest{ClusterUID: p.cd.Cluster.UID, DB: master.UID, BootUUID: s.info.BootUUID}}
		return false
	}
	n := len(q.refused)
	if n == 0 || n == 1 && p.Boot >= q.refused[0]+dialGap {
		p.out.Ask = &Ask{Dial: net.JoinHostPort(master.Status.ListenAddress, master.Status.Port)}
		return false
	}
	if n == 1 {
		p.wakeAt(q.refused[0] + dialGap)
		return false
	}
	if why, until := p.seenAlive(master, q.began); why != "" {
		p.wakeAt(until)
		p.wait(Warn, "master suspected dead, but", Event{DB: master.UID, Keeper: k.UID, Why: why})
		return false
	}
	if end := q.began + window; p.Boot < end {
		p.wakeAt(end)
		return false
	}
	return p.ReadTook < slowStore
}

// suspecting lists who says now that the master refuses connections.
func (p *pass) suspecting(master *cluster.DB) []string {
	var out []string
	for _, uid := range cluster.SortedKeys(p.mem.proxies) {
		s := p.mem.proxies[uid]
		if s.present && s.proven && s.info.Suspect == master.UID && p.Boot <= s.since+2*p.set.ProxyCheckInterval.Duration {
			out = append(out, "proxy "+uid)
		}
	}
	for _, uid := range cluster.SortedKeys(p.mem.keepers) {
		s := p.mem.keepers[uid]
		if s.proven && s.info.Suspect == master.UID && p.Boot <= s.since+2*p.set.SleepInterval.Duration {
			out = append(out, "keeper "+uid)
		}
	}
	return out
}

// seenAlive tells who has seen the master live since then, "" for nobody, and
// until when that counts if nothing more is seen; 0: as long as it is said. A
// proxy that is refused now may have heard the last words of a backend, which
// ends when it notices that its postmaster has died: what it heard counts for
// the time of a window. One that isn't refused was let in.
func (p *pass) seenAlive(master *cluster.DB, since time.Duration) (why string, until time.Duration) {
	for _, uid := range cluster.SortedKeys(p.mem.proxies) {
		s := p.mem.proxies[uid]
		heard := s.since - s.info.MasterSeen
		if s.info.MasterSeen == 0 || heard <= since {
			continue
		}
		if s.info.Suspect != master.UID {
			return "proxy " + uid + " has heard of it meanwhile", 0
		}
		if until = heard + window; p.Boot <= until {
			return "proxy " + uid + " has just heard of it", until
		}
	}
	// A standby that loses its master says so in a moment. One that has said
	// nothing is taken at its word until its next heartbeats are missing.
	return p.streamsFrom(master, min(since, p.Boot-2*p.set.SleepInterval.Duration)), 0
}

// streamsFrom tells which standby reports since then that it streams from the
// db, "" for none.
func (p *pass) streamsFrom(db *cluster.DB, since time.Duration) string {
	for _, uid := range cluster.SortedKeys(p.cd.DBs) {
		standby := p.cd.DBs[uid]
		f := standby.Spec.FollowConfig
		rep := p.report(standby)
		if f != nil && f.DBUID == db.UID && rep != nil && rep.ReceiverUp && p.mem.keepers[standby.Spec.KeeperUID].since > since {
			return "standby " + uid + " streams from it"
		}
	}
	return ""
}
