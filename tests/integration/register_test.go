//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"stolon/tests/harness"
	"stolon/tests/servers"
)

// stolonctl register keeps the healthy dbs in Consul's catalog, through a
// failover too.
func TestDBsAreRegistered(t *testing.T) {
	t.Parallel()
	consul := servers.StartConsul(t, nil)
	c := harness.Start(t, harness.Options{Keepers: 2, Proxies: 1})
	r := c.StartCtl("register", "--register-endpoints="+consul.Endpoint, "--register-master", "--sleep-interval=1", "--tag-slave-as=reads,old")
	await := func(what string, want ...string) {
		t.Helper()
		slices.Sort(want)
		harness.Await(t, 2*soon, what, func() (string, bool) {
			got, err := registered(consul.Endpoint, c.Name)
			return fmt.Sprint(got, err), err == nil && slices.Equal(got, want)
		})
	}
	line := func(k *harness.Keeper, tags string) string {
		return fmt.Sprintf("%s 127.0.0.1:%s %s", c.DB(k).UID, k.Port, tags)
	}
	master, standbys := c.Roles()
	await("both are registered", line(master, "master"), line(standbys[0], "reads,old"))
	master.KillBoth()
	next := c.AwaitAnother(2*soon, master)
	await("only the new master is registered", line(next, "master"))
	master.Start()
	c.AwaitHealthy(2*soon, 2)
	await("the old one is back", line(next, "master"), line(master, "reads,old"))
	r.Stop()
	if code := r.AwaitExit(soon); code != 0 {
		t.Errorf("stolonctl register ended with %d on SIGTERM", code)
	}
	await("what is registered stays", line(next, "master"), line(master, "reads,old"))
}

// registered lists the services in Consul's catalog.
func registered(endpoint, name string) ([]string, error) {
	resp, err := http.Get(endpoint + "/v1/catalog/service/" + name)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var services []struct {
		ServiceID, ServiceAddress string
		ServicePort               int
		ServiceTags               []string
	}
	if err := json.NewDecoder(resp.Body).Decode(&services); err != nil {
		return nil, err
	}
	var out []string
	for _, s := range services {
		out = append(out, fmt.Sprintf("%s %s:%d %s", s.ServiceID, s.ServiceAddress, s.ServicePort, strings.Join(s.ServiceTags, ",")))
	}
	slices.Sort(out)
	return out, nil
}
