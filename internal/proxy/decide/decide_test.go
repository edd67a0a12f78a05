package decide

import (
	"errors"
	"testing"
	"time"

	"stolon/internal/cluster"
)

const (
	noData    = "no clusterdata available, closing connections to master"
	noProxy   = "no proxy object available, closing connections to master"
	noDB      = "no db object available, closing connections to master"
	notListed = "not proxying to master address since we aren't in the enabled proxies list"
	unusable  = "cluster data can't be used, closing connections to master"
)

func TestLook(t *testing.T) {
	data := func(edit func(*cluster.ClusterData)) *cluster.ClusterData {
		cd := cluster.New("cluster1", &cluster.Spec{}, time.Time{})
		cd.DBs["db1"] = &cluster.DB{UID: "db1", Status: cluster.DBStatus{ListenAddress: "10.0.0.1", Port: "5432"}}
		cd.Proxy.Generation = 7
		cd.Proxy.Spec = cluster.ProxySpec{MasterDBUID: "db1", EnabledProxies: []string{"p0", "p1"}}
		edit(cd)
		return cd
	}
	db1 := Route{DB: "db1", Address: "10.0.0.1:5432"}
	led := db1
	led.Enabled = true
	tests := []struct {
		name string
		cd   *cluster.ClusterData
		bad  error
		want Result // less the times
	}{
		{"an enabled proxy leads to the master", data(func(*cluster.ClusterData) {}), nil,
			Result{Route: led, Publish: true, Generation: 7, Good: true}},
		{"another proxy only says what it knows", data(func(cd *cluster.ClusterData) { cd.Proxy.Spec.EnabledProxies = []string{"p0", "p11"} }), nil,
			Result{Route: db1, Publish: true, Generation: 7, Good: true, Why: notListed}},
		{"no master", data(func(cd *cluster.ClusterData) { cd.Proxy.Spec.MasterDBUID = "" }), nil,
			Result{Publish: true, Generation: 7, Good: true, Why: noDB}},
		{"no master, and a db without uid", data(func(cd *cluster.ClusterData) {
			cd.Proxy.Spec.MasterDBUID = ""
			cd.DBs[""] = &cluster.DB{}
		}), nil,
			Result{Publish: true, Generation: 7, Good: true, Why: noDB}},
		{"the master is none of the dbs", data(func(cd *cluster.ClusterData) { cd.Proxy.Spec.MasterDBUID = "db2" }), nil,
			Result{Route: Route{DB: "db2"}, Publish: true, Generation: 7, Good: true, Why: noDB}},
		{"an IPv6 master", data(func(cd *cluster.ClusterData) { cd.DBs["db1"].Status.ListenAddress = "::1" }), nil,
			Result{Route: Route{DB: "db1", Address: "[::1]:5432", Enabled: true}, Publish: true, Generation: 7, Good: true}},
		{"no proxy object is generation 0", data(func(cd *cluster.ClusterData) { cd.Proxy = nil }), nil,
			Result{Publish: true, Good: true, Why: noProxy}},
		{"no cluster data publishes nothing", nil, nil,
			Result{Good: true, Why: noData}},
		{"unusable cluster data is a failed check", nil, errors.New("odd"),
			Result{Why: unusable}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Look(tt.cd, tt.bad, "p1")
			if got.Interval != 5*time.Second || got.Timeout != 15*time.Second {
				t.Errorf("Look() = interval %s, timeout %s, want 0.17's defaults 5s and 15s", got.Interval, got.Timeout)
			}
			got.Interval, got.Timeout = 0, 0
			if got != tt.want {
				t.Errorf("Look() = %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestThePromiseIsNeverShorterThanWhatIsInForce(t *testing.T) {
	for _, tt := range []struct{ current, spec, want time.Duration }{{15, 60, 60}, {60, 15, 60}, {15, 15, 15}} {
		if got := (Result{Timeout: tt.spec}).Promise(tt.current); got != tt.want {
			t.Errorf("Promise(%d) with %d in the spec = %d, want %d", tt.current, tt.spec, got, tt.want)
		}
	}
}
