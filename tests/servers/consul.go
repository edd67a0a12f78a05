package servers

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"
)

// StartConsul starts the Consul that $CONSUL_BIN names, a server that is an
// agent too, and waits until it leads. It ends with the test, and its log is shown if the test fails.
// Settings are added to its configuration; nil adds none.
func StartConsul(t testing.TB, settings map[string]any) *Store {
	t.Helper()
	bin := os.Getenv("CONSUL_BIN")
	if bin == "" {
		t.Fatal("CONSUL_BIN names no consul; ./test fetches one")
	}
	dir, port := t.TempDir(), Port(t)
	c := &Store{Backend: Consul, Endpoint: fmt.Sprintf("http://127.0.0.1:%d", port)}
	c.process = process{t: t, name: "consul " + c.Endpoint, log: filepath.Join(dir, "consul.log")}
	config := filepath.Join(dir, "ports.json")
	all := map[string]any{
		"performance": map[string]any{"raft_multiplier": 1}, // as its documentation wants it for production; 5 is for tiny machines
		"ports":       map[string]any{"http": port, "server": Port(t), "serf_lan": Port(t), "serf_wan": Port(t), "dns": -1, "grpc": -1},
	}
	maps.Copy(all, settings)
	b, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, b, 0o600); err != nil {
		t.Fatal(err)
	}
	c.args = []string{
		bin, "agent", "-server", "-bootstrap", "-node", "test", "-bind", "127.0.0.1", "-client", "127.0.0.1",
		"-data-dir", filepath.Join(dir, "data"), "-config-file", config, "-log-level", "warn",
	}
	c.health = c.Endpoint + "/v1/catalog/nodes?consistent" // 500 until it leads
	c.run()
	c.awaitReady()
	return c
}
