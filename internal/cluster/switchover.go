package cluster

import "time"

// Names below ext/ of a switchover's records (protocols.md section 5).
const (
	ExtSwitchoverRequest = "switchover/request" // a SwitchoverRequest
	ExtSwitchover        = "switchover/state"   // a Switchover, bound to the session of the leading sentinel
	ExtSwitchoverOutcome = "switchover/outcome" // a SwitchoverOutcome, of the last one
)

// SwitchoverRequest asks for another master. It is void once its cluster has
// another UID or another master.
type SwitchoverRequest struct {
	ID         string        `json:"id"`
	ClusterUID string        `json:"clusterUID"`
	Master     string        `json:"master"`           // DB UID
	Target     string        `json:"target,omitempty"` // keeper UID; "" the best
	Timeout    time.Duration `json:"timeout"`          // nanoseconds in JSON; until clients are cut
	// Force: also with proxies that are silent or of 0.17, whose clients see the
	// change late.
	Force bool `json:"force,omitempty"`
}

// SwitchoverPhase is how far a switchover is.
type SwitchoverPhase string

const (
	Preparing   SwitchoverPhase = "preparing" // the master checkpoints and serves
	Cutting     SwitchoverPhase = "cutting"   // the proxies cut
	Stopping    SwitchoverPhase = "stopping"  // the master shuts down
	Shipping    SwitchoverPhase = "shipping"  // the target replays the master's last record
	Electing    SwitchoverPhase = "electing"  // the target is the master, no way back
	RollingBack SwitchoverPhase = "rollback"  // the old master serves again
)

// Switchover is the leading sentinel's record of one under way.
type Switchover struct {
	ID         string          `json:"id"` // of the request
	Attempt    string          `json:"attempt"`
	ClusterUID string          `json:"clusterUID"`
	Master     string          `json:"master"` // DB UIDs
	Target     string          `json:"target"`
	Phase      SwitchoverPhase `json:"phase"`
	Timeout    time.Duration   `json:"timeout"` // nanoseconds in JSON, of Preparing
	// Position is where the master's last record begins, a wal.LSN; known from
	// Shipping on.
	Position uint64 `json:"position,omitempty"`
	// Failed: an operator failed the master's keeper. There is no way back then.
	Failed bool   `json:"failed,omitempty"`
	Why    string `json:"why,omitempty"` // of a rollback
}

// SwitchoverOutcome tells how the switchover ended that was asked for by ID.
type SwitchoverOutcome struct {
	ID   string `json:"id"`
	Done bool   `json:"done"`
	Why  string `json:"why,omitempty"` // it wasn't done
}

// Handover is what a master's keeper has done for a switchover.
type Handover struct {
	Attempt  string `json:"attempt"`            // a request that outlives its leader may be tried again
	Prepared bool   `json:"prepared,omitempty"` // the checkpoint
	Stopped  bool   `json:"stopped,omitempty"`  // pg_control says so, at Position
	Position uint64 `json:"position,omitempty"` // a wal.LSN
	Failed   string `json:"failed,omitempty"`   // why it could not be stopped
}

// Stops reports whether the master's instance shall be down in this phase.
func (s *Switchover) Stops() bool {
	return s != nil && (s.Phase == Stopping || s.Phase == Shipping || s.Phase == Electing)
}
