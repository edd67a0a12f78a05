// Package decide is what a proxy makes of the cluster data: where to lead
// clients, and what to promise in its ProxyInfo. It is pure.
package decide

import (
	"net"
	"slices"
	"time"

	"stolon/internal/cluster"
)

// Route is the master as the cluster data names it, and whether this proxy may
// lead clients there. Two that differ never share a connection.
type Route struct {
	DB      string // UID; "" when no master is named
	Address string // host:port as advertised, not resolved; "" when the DB is unknown
	Enabled bool   // lead there; never without an Address
}

// Result is what one look at the cluster data means for a proxy.
type Result struct {
	Route Route
	// Publish: the generation applied is to be published. It is not when there
	// is nothing that a generation could belong to.
	Publish    bool
	Generation int64
	// Interval and Timeout of the cluster spec.
	Interval, Timeout time.Duration
	// Good: the look counts as a successful check once what is to be published
	// is published.
	Good bool
	// Why nobody is led anywhere, in 0.17's words; "" when the route is enabled.
	Why string
}

// Promise is the ProxyTimeout to publish while current is the one in force: the
// longer, so that nobody counts on less than what this proxy still acts on.
func (r Result) Promise(current time.Duration) time.Duration { return max(current, r.Timeout) }

// Look decides from the cluster data, nil when there is none, and the error
// that made it unusable.
func Look(cd *cluster.ClusterData, bad error, uid string) Result {
	set := (*cluster.Spec)(nil).Settings()
	r := Result{Good: true, Interval: set.ProxyCheckInterval.Duration, Timeout: set.ProxyTimeout.Duration}
	if bad != nil {
		r.Good, r.Why = false, "cluster data can't be used, closing connections to master"
		return r
	}
	if cd == nil {
		r.Why = "no clusterdata available, closing connections to master"
		return r
	}
	set = cd.Cluster.Spec.Settings()
	r.Interval, r.Timeout = set.ProxyCheckInterval.Duration, set.ProxyTimeout.Duration
	r.Publish = true
	if cd.Proxy == nil {
		r.Why = "no proxy object available, closing connections to master"
		return r
	}
	r.Generation = cd.Proxy.Generation
	r.Route.DB = cd.Proxy.Spec.MasterDBUID
	db := cd.DBs[r.Route.DB]
	if r.Route.DB == "" || db == nil {
		r.Why = "no db object available, closing connections to master"
		return r
	}
	r.Route.Address = net.JoinHostPort(db.Status.ListenAddress, db.Status.Port)
	r.Route.Enabled = slices.Contains(cd.Proxy.Spec.EnabledProxies, uid)
	if !r.Route.Enabled {
		r.Why = "not proxying to master address since we aren't in the enabled proxies list"
	}
	return r
}
