package cluster_test

import (
	"strings"
	"testing"
	"time"

	"stolon/internal/cluster"
)

func parse(t *testing.T, spec string) *cluster.Spec {
	t.Helper()
	s, err := cluster.ParseSpec([]byte(spec))
	if err != nil {
		t.Fatalf("ParseSpec(%s): %v", spec, err)
	}
	return s
}

func wantError(t *testing.T, what string, err error, want string) {
	t.Helper()
	got := ""
	if err != nil {
		got = err.Error()
	}
	if got != want {
		t.Errorf("%s: error %q, want %q", what, got, want)
	}
}

// The rules and words of 0.17, in its order.
func TestValidate(t *testing.T) {
	const pitr = `"initMode":"pitr","pitrConfig":{"dataRestoreCommand":"x"}`
	tests := []struct{ spec, want string }{
		{`{"initMode":"new"}`, ""},
		{`{"initMode":"new","sleepInterval":"-1s"}`, "sleepInterval must be positive"},
		{`{"initMode":"new","requestTimeout":"-1s"}`, "requestTimeout must be positive"},
		{`{"initMode":"new","convergenceTimeout":"-1s"}`, "convergenceTimeout must be positive"},
		{`{"initMode":"new","initTimeout":"-1s"}`, "initTimeout must be positive"},
		{`{"initMode":"new","syncTimeout":"-1s"}`, "syncTimeout must be positive"},
		{`{"initMode":"new","dbWaitReadyTimeout":"-1s"}`, "dbWaitReadyTimeout must be positive"},
		{`{"initMode":"new","failInterval":"-1s"}`, "failInterval must be positive"},
		{`{"initMode":"new","deadKeeperRemovalInterval":"-1s"}`, "deadKeeperRemovalInterval must be positive"},
		{`{"initMode":"new","proxyCheckInterval":"-1s"}`, "proxyCheckInterval must be positive"},
		{`{"initMode":"new","proxyTimeout":"-1s"}`, "proxyTimeout must be positive"},
		{`{"initMode":"new","sleepInterval":0,"convergenceTimeout":"0s"}`, ""},
		{`{"initMode":"new","proxyCheckInterval":"15s"}`, "proxyCheckInterval should be less than proxyTimeout"},
		{`{"initMode":"new","proxyTimeout":"5s"}`, "proxyCheckInterval should be less than proxyTimeout"},
		{`{"initMode":"new","maxStandbys":0}`, "maxStandbys must be at least 1"},
		{`{"initMode":"new","maxStandbysPerSender":0}`, "maxStandbysPerSender must be at least 1"},
		{`{"initMode":"new","maxSynchronousStandbys":0}`, "maxSynchronousStandbys must be at least 1"},
		{`{"initMode":"new","minSynchronousStandbys":2}`, "maxSynchronousStandbys must be greater or equal to minSynchronousStandbys"},
		{`{"initMode":"new","minSynchronousStandbys":0}`, ""},
		{`{}`, "initMode undefined"},
		{`{"additionalMasterReplicationSlots":["A"]}`, "initMode undefined"},
		{`{"initMode":"new","additionalMasterReplicationSlots":["a_1","A"]}`, `wrong replication slot name: "A"`},
		{`{"initMode":"new","additionalMasterReplicationSlots":["a\n"]}`, `wrong replication slot name: "a\n"`},
		{`{"initMode":"new","additionalMasterReplicationSlots":["stolon_a"]}`, `replication slot name is reserved: "stolon_a"`},
		{`{"initMode":"new","syncLogicalSlots":true}`, `syncLogicalSlots needs "wal_level": "logical" in pgParameters`},
		{`{"initMode":"new","syncLogicalSlots":true,"pgParameters":{"wal_level":"logical"}}`, ""},
		{`{"initMode":"new","syncLogicalSlots":false}`, ""},
		{`{"initMode":"new","pgHBA":["host all all all md5","a\nb"]}`, "pgHBA entries cannot contain newline characters"},
		{`{"initMode":"new","role":"standby"}`, `invalid cluster role standby when initMode is "new"`},
		{`{"initMode":"existing"}`, `existingConfig undefined. Required when initMode is "existing"`},
		{`{"initMode":"existing","existingConfig":{}}`, "existingConfig.keeperUID undefined"},
		{`{"initMode":"existing","existingConfig":{"keeperUID":"k"}}`, ""},
		{`{"initMode":"pitr"}`, `pitrConfig undefined. Required when initMode is "pitr"`},
		{`{"initMode":"pitr","pitrConfig":{}}`, "pitrConfig.DataRestoreCommand undefined"},
		{`{` + pitr + `}`, ""},
		{`{"initMode":"pitr","role":"standby","pitrConfig":{"dataRestoreCommand":"x","recoveryTargetSettings":{}}}`, "cannot define pitrConfig.RecoveryTargetSettings when required cluster role is standby"},
		{`{"initMode":"never"}`, `unknown initMode: "never"`},
		{`{"initMode":""}`, `unknown initMode: ""`},
		{`{"initMode":"new","defaultSUReplAccessMode":"some"}`, `unknown defaultSUReplAccessMode: "some"`},
		{`{"initMode":"new","defaultSUReplAccessMode":"strict"}`, ""},
		{`{` + pitr + `,"role":"standby"}`, `standbyConfig undefined. Required when cluster role is "standby"`},
		{`{` + pitr + `,"role":"standby","standbyConfig":{}}`, ""},
		{`{"initMode":"new","role":"undefined"}`, `unknown role: "undefined"`},
		{`{"initMode":"new","role":"primary","defaultSUReplAccessMode":"some","pgHBA":["\n"]}`, "pgHBA entries cannot contain newline characters"},
	}
	for _, tt := range tests {
		wantError(t, "Validate "+tt.spec, parse(t, tt.spec).Validate(), tt.want)
	}
	wantError(t, "Validate of no spec", (*cluster.Spec)(nil).Validate(), "initMode undefined")
}

func TestCheckUpdate(t *testing.T) {
	const existing = `{"initMode":"existing","existingConfig":{"keeperUID":"k"}}`
	const pitr = `"initMode":"pitr","pitrConfig":{"dataRestoreCommand":"x"}`
	const standby = `{` + pitr + `,"role":"standby","standbyConfig":{}}`
	tests := []struct{ old, next, want string }{
		{`{"initMode":"new"}`, `{"initMode":"new","maxStandbys":1,"usePgrewind":true}`, ""},
		{`{"initMode":"new"}`, existing, "cannot change cluster init mode"},
		{`{` + pitr + `}`, standby, "cannot update a cluster from master role to standby role"},
		{standby, `{` + pitr + `}`, ""},
		{`{"initMode":"new"}`, `{}`, "invalid cluster spec: initMode undefined"},
		{`{"initMode":"new"}`, `{"initMode":"new","maxStandbys":0}`, "invalid cluster spec: maxStandbys must be at least 1"},
	}
	for _, tt := range tests {
		cd := cluster.New("c", parse(t, tt.old), time.Time{})
		next := parse(t, tt.next)
		err := cd.UpdateSpec(next, time.Unix(1, 0))
		wantError(t, "UpdateSpec "+tt.old+" to "+tt.next, err, tt.want)
		if (cd.Cluster.Spec == next) != (err == nil) {
			t.Errorf("UpdateSpec %s to %s: the spec changed: %t, error %v", tt.old, tt.next, cd.Cluster.Spec == next, err)
		}
	}
}

func TestOddClusterDataIsRefused(t *testing.T) {
	good := func() *cluster.ClusterData {
		return cluster.New("c", parse(t, `{"initMode":"new"}`), time.Time{})
	}
	tests := []struct {
		name string
		edit func(*cluster.ClusterData)
		want string
	}{
		{"good", func(*cluster.ClusterData) {}, ""},
		{"format", func(c *cluster.ClusterData) { c.FormatVersion = 2 }, "unsupported cluster data format version 2"},
		{"cluster", func(c *cluster.ClusterData) { c.Cluster = nil }, "no cluster in the cluster data"},
		{"spec", func(c *cluster.ClusterData) { c.Cluster.Spec = nil }, "no cluster spec available"},
		{"invalid spec", func(c *cluster.ClusterData) { c.Cluster.Spec.InitMode = nil }, "clusterdata validation failed: initMode undefined"},
		{"nil db", func(c *cluster.ClusterData) { c.DBs["a"] = nil }, `clusterdata validation failed: db "a" has no spec`},
		{"db without spec", func(c *cluster.ClusterData) { c.DBs["a"] = &cluster.DB{} }, `clusterdata validation failed: db "a" has no spec`},
		{"nil keeper", func(c *cluster.ClusterData) { c.Keepers["a"] = nil }, `clusterdata validation failed: keeper "a" is null`},
		{"no maps", func(c *cluster.ClusterData) { c.Keepers, c.DBs, c.Proxy = nil, nil, nil }, ""},
	}
	for _, tt := range tests {
		cd := good()
		tt.edit(cd)
		wantError(t, "Check of cluster data with odd "+tt.name, cd.Check(), tt.want)
	}
	if err := (*cluster.ClusterData)(nil).Check(); err == nil || !strings.Contains(err.Error(), "no cluster data") {
		t.Errorf("Check of no cluster data = %v", err)
	}
}
