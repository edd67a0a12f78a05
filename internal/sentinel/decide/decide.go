// Package decide is what the leading sentinel thinks: from everything that the
// store holds, and what this sentinel remembers of having seen, to the next
// cluster data. It is pure: the caller reads the store and the clocks, and
// writes what comes out.
//
// Start with Next, which lists the questions of a pass in their order; each
// has a file. Observe (observe.go) is the memory: it only records what was
// seen and when, so a pass whose write fails leaves nothing behind to undo.
package decide

import (
	"fmt"
	"slices"
	"time"

	"stolon/internal/cluster"
)

// View is what the store held at one moment.
type View struct {
	Data    *cluster.ClusterData
	Keepers map[string]cluster.KeeperInfo
	Proxies map[string]cluster.ProxyInfo
	// Election is the record of the last election (protocols.md S11), nil when
	// there is none.
	Election *ElectionRecord
	// Forked holds the UIDs of DBs that may have created a timeline that is not
	// the one in force (protocols.md K7).
	Forked []string
	// Asked: an operator asked for this cluster, whatever its keepers hold.
	Asked bool
	// Request and Switchover are what is asked for and under way; nil: nothing.
	Request    *cluster.SwitchoverRequest
	Switchover *cluster.Switchover
}

// Now is the moment of a pass.
type Now struct {
	Boot time.Duration // see package clock
	Wall time.Time     // for what is recorded, not for what is decided
}

// In is what a pass is decided from.
type In struct {
	View
	Now
	StoreTimeout time.Duration
	// ReadTook is how long the read of the View took; 0 for a watch's copy.
	ReadTook time.Duration
	NewUID   func() string
	Pick     func(n int) int // a random number in [0, n)
}

// Decision is the outcome of a pass.
type Decision struct {
	// Data to write; nil when nothing is to be written.
	Data *cluster.ClusterData
	// Ext is written together with Data or not at all.
	Ext []ExtWrite
	// Events tell what the write does. They are true once it succeeded.
	Events []Event
	// Waiting tells why something wanted isn't done yet, "" for nothing.
	Waiting []Event
	// Ask, unless nil, is what to find out now.
	Ask *Ask
	// Death: the decision takes the master for dead; see Confirmed.
	Death bool
	// Wake is when to decide again although nothing was seen to change; 0: never.
	Wake time.Duration
}

// ExtWrite is a write below ext/; a nil Value deletes.
type ExtWrite struct {
	Name  string
	Value any
}

// Names below ext/.
const (
	ExtElection = "election"
	ExtForked   = "forked/" // followed by the DB UID
)

// ElectionRecord is what must be remembered of an election until the new
// master's standbys are known to be in sync (protocols.md S11).
type ElectionRecord struct {
	ClusterUID          string   `json:"clusterUID"`
	DB                  string   `json:"db"`         // the elected one
	Generation          int64    `json:"generation"` // its generation, as long as its standbys are those of the election
	SynchronousStandbys []string `json:"synchronousStandbys"`
	Timeline            uint64   `json:"timeline"`         // the timeline it left
	Previous            string   `json:"previous"`         // the master before it
	Routed              bool     `json:"routed,omitempty"` // clients were led to it
	Cut                 int64    `json:"cut,omitempty"`    // the proxies' generation, by which nobody was led anywhere
}

// ForkedRecord says why a DB is marked.
type ForkedRecord struct {
	ClusterUID string `json:"clusterUID"`
	DB         string `json:"db"`
	ReplacedBy string `json:"replacedBy"`
}

// Level is how loud an event is.
type Level int

const (
	Debug Level = iota
	Info
	Warn
	Error
)

// Event is one thing worth telling, for the log.
type Event struct {
	Level   Level
	Kind    string // constant, lower case
	DB      string
	Keeper  string
	Proxy   string
	Why     string
	Details map[string]any
}

// pass is one run of Next: cd is the next cluster data in the making.
type pass struct {
	In
	mem     Memory
	old, cd *cluster.ClusterData
	set     cluster.Settings
	out     Decision
	forced  map[string]bool // keepers that an operator failed
	elected *ElectionRecord // of an election in this pass
}

// Next decides the next step. It never changes its arguments. Data of v must
// have passed ClusterData.Check.
func Next(in In, mem Memory) Decision {
	p := &pass{In: in, mem: mem, old: in.Data, cd: in.Data.Clone(), forced: map[string]bool{}}
	p.set = p.cd.Cluster.Spec.Settings()
	p.tidy()
	p.recordKeepers()
	p.recordDBs()
	p.refusals()
	if p.contradicted() {
		return p.holdStill()
	}

	switch p.cd.Cluster.Status.Phase {
	case cluster.Initializing:
		p.initialize()
	case cluster.Normal:
		p.operate()
	default:
		p.wait(Error, "unknown cluster phase", Event{Why: string(p.cd.Cluster.Status.Phase)})
	}

	p.copySpec()
	p.setFollowers()
	p.bumpGenerations()
	p.keepRecords()
	p.finish()
	return p.out
}

// operate moves an initialised cluster one step.
func (p *pass) operate() {
	p.removeDeadKeepers()
	master := p.cd.Master()
	if master == nil {
		p.wait(Error, "master db not found", Event{DB: p.cd.Cluster.Status.Master,
			Why: "cluster data names a master that it doesn't hold; restore it or run stolonctl init"})
		return
	}
	if p.switchover(master) {
		p.consumeForced(master)
		return
	}
	if why := p.masterFailed(master); why != "" {
		p.replaceMaster(master, why)
		p.consumeForced(master)
		return
	}
	if p.dies(master) {
		p.out.Death, master.Status.Healthy = true, false
		p.event(Warn, "master's death confirmed", Event{DB: master.UID, Keeper: master.Spec.KeeperUID,
			Why: fmt.Sprintf("its keeper did not answer for %s and its address refuses connections", window)})
		p.replaceMaster(master, "dead")
		return
	}
	p.consumeForced(nil)
	p.followSpec(master)
	if p.elected != nil {
		return
	}
	if p.route(master) {
		return // one step at a time: nothing else rides on a route change
	}
	if !p.serving(master) {
		return
	}
	p.removeOldMasters(master)
	p.removeInvalid(master)
	p.removeStuck(master)
	p.settleStandbys(master)
	p.syncStandbys(master)
	p.countStandbys(master)
	p.pointStandbys(master)
}

// event tells something that the pass did.
func (p *pass) event(l Level, kind string, e Event) {
	e.Level, e.Kind = l, kind
	p.out.Events = append(p.out.Events, e)
}

// wait tells why the pass didn't do something.
func (p *pass) wait(l Level, kind string, e Event) {
	e.Level, e.Kind = l, kind
	p.out.Waiting = append(p.out.Waiting, e)
}

// wakeAt asks for another pass at t, if that is still to come.
func (p *pass) wakeAt(t time.Duration) {
	// One tick later, so that comparisons by "more than" have come true.
	t += time.Millisecond
	if t > p.Boot && (p.out.Wake == 0 || t < p.out.Wake) {
		p.out.Wake = t
	}
}

// tidy fills what odd data may lack, so that nothing below need look twice.
func (p *pass) tidy() {
	if p.cd.Keepers == nil {
		p.cd.Keepers = map[string]*cluster.Keeper{}
	}
	if p.cd.DBs == nil {
		p.cd.DBs = map[string]*cluster.DB{}
	}
	if p.cd.Proxy == nil {
		p.cd.Proxy = &cluster.Proxy{}
	}
	for _, uid := range cluster.SortedKeys(p.cd.Keepers) {
		if p.cd.Keepers[uid] == nil {
			delete(p.cd.Keepers, uid)
		}
	}
	for _, uid := range cluster.SortedKeys(p.cd.DBs) {
		db := p.cd.DBs[uid]
		if db == nil || db.Spec == nil || p.cd.Keepers[db.Spec.KeeperUID] == nil {
			p.event(Warn, "removing db without a keeper", Event{DB: uid})
			delete(p.cd.DBs, uid)
		}
	}
}

func (p *pass) keeperOf(db *cluster.DB) *cluster.Keeper { return p.cd.Keepers[db.Spec.KeeperUID] }

// report returns what the DB's keeper last said of it; nil when that was about
// another DB or nothing.
func (p *pass) report(db *cluster.DB) *cluster.PostgresState {
	return p.mem.report(db)
}

// ours tells a keeper of this project from one of 0.17, by what it announces
// only (protocols.md V1).
func (p *pass) ours(db *cluster.DB) bool {
	return slices.Contains(p.mem.keepers[db.Spec.KeeperUID].info.Features, cluster.FailClosedPromotion)
}

func converged(db *cluster.DB) bool {
	return db.Status.CurrentGeneration == db.Generation
}
