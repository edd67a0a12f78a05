package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"stolon/tests/harness"
	"stolon/tests/servers"
)

// A fault does harm and returns what undoes it.
type fault struct {
	do func(*harness.Script, *harness.Cluster) (undo func())
	// watch is how long clients are watched after they write again: for the
	// consequences that come when a session runs out.
	watch       time.Duration
	keeperFlags []string
}

var faults = map[string]fault{
	// kill -9 of the master's keeper and postmaster.
	"kill": {do: func(_ *harness.Script, c *harness.Cluster) func() {
		m, _ := c.Roles()
		m.KillBoth()
		return m.Start
	}},
	// kill -9 of the postmaster alone.
	"killpg": {do: func(_ *harness.Script, c *harness.Cluster) func() {
		m, _ := c.Roles()
		m.KillPostgres()
		return func() {}
	}},
	"failkeeper": {do: func(_ *harness.Script, c *harness.Cluster) func() {
		m, _ := c.Roles()
		c.Ctl("failkeeper", m.UID)
		return func() {}
	}},
	"switchover": {do: func(_ *harness.Script, c *harness.Cluster) func() {
		c.Ctl("switchover", "--yes")
		return func() {}
	}},
	// SIGTERM to the master's keeper.
	"stop": {do: stop},
	// The same with --switchover-on-stop.
	"handover": {do: stop, keeperFlags: []string{"--switchover-on-stop=true"}},
	// SIGSTOP of the master's keeper and PostgreSQL, until another leads.
	"freeze": {do: func(_ *harness.Script, c *harness.Cluster) func() {
		m, _ := c.Roles()
		m.Freeze()
		return m.Resume
	}},
	// kill -9 of the etcd member that leads.
	"store-leader": {watch: 8 * time.Second, do: func(t *harness.Script, c *harness.Cluster) func() {
		m := storeLeader(t, c.Members)
		m.Kill()
		return m.Restart
	}},
	// kill -9 of the sentinel that leads.
	"leading-sentinel": {watch: 8 * time.Second, do: func(_ *harness.Script, c *harness.Cluster) func() {
		s := c.Leader()
		s.Kill()
		return s.Start
	}},
	// kill -9 of the master's keeper and postmaster, the leading sentinel and
	// one proxy at once.
	"machine": {do: func(_ *harness.Script, c *harness.Cluster) func() {
		m, _ := c.Roles()
		s, p := c.Leader(), c.Proxies[0]
		var all sync.WaitGroup
		all.Go(m.KillBoth)
		all.Go(s.Kill)
		all.Go(p.Kill)
		all.Wait()
		return func() { p.Start(); s.Start(); m.Start() }
	}},
	// The same stand still, as if their machine were cut off: no port refuses, no
	// connection ends.
	"machine-silent": {do: func(_ *harness.Script, c *harness.Cluster) func() {
		m, _ := c.Roles()
		s, p := c.Leader(), c.Proxies[0]
		m.Freeze()
		s.Freeze()
		p.Freeze()
		return func() { p.Resume(); s.Resume(); m.Resume() }
	}},
}

func names() []string { return slices.Sorted(maps.Keys(faults)) }

func stop(_ *harness.Script, c *harness.Cluster) func() {
	m, _ := c.Roles()
	m.Stop()
	return m.Start
}

// storeLeader asks the members which of them leads.
func storeLeader(t *harness.Script, members []*servers.Store) *servers.Store {
	t.Helper()
	for _, m := range members {
		if leads, err := leads(m); err != nil {
			t.Fatal(err)
		} else if leads {
			return m
		}
	}
	t.Fatal("none of the store's members leads")
	return nil
}

func leads(m *servers.Store) (bool, error) {
	resp, err := http.Post(strings.TrimSuffix(m.Endpoint, "/")+"/v3/maintenance/status", "application/json", bytes.NewReader([]byte("{}")))
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	var status struct {
		Header struct {
			MemberID string `json:"member_id"`
		} `json:"header"`
		Leader string `json:"leader"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
		return false, fmt.Errorf("status of %s: %w", m.Endpoint, err)
	}
	return status.Leader != "" && status.Leader == status.Header.MemberID, nil
}
