// Package decide is what a proxy makes of the cluster data: where to lead
// clients, and what to promise in its ProxyInfo. It is pure.
package decide

import (
	"net"
	"slices"
	"time"

	"stolon/internal/cluster"
)

// Route is where clients are led.
type Route struct {
	// DB and Address (host:port, as advertised, not resolved) of the master;
	// both "" lead nowhere.
	DB      string
	Address string
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
	// Why the route is empty, in 0.17's words; "" when it isn't.
	Why string
}

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
	db := cd.DBs[cd.Proxy.Spec.MasterDBUID]
	switch {
	case db == nil:
		r.Why = "no db object available, closing connections to master"
	case !slices.Contains(cd.Proxy.Spec.EnabledProxies, uid):
		r.Why = "not proxying to master address since we aren't in the enabled proxies list"
	default:
		r.Route = Route{DB: db.UID, Address: net.JoinHostPort(db.Status.ListenAddress, db.Status.Port)}
	}
	return r
}
