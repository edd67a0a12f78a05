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
// agent too, and waits until it leads. It ends with the test, and its log is
// shown if the test fails. Settings are added to its configuration; nil adds
// none.
func StartConsul(t testing.TB, settings map[string]any) *Store {
	t.Helper()
	return startConsul(t, Here, nil, settings)
}

// StartConsulTLS starts a Consul that serves https too, with this certificate
// and key, and only to clients whose certificate is signed by an authority in
// clientCA.
func StartConsulTLS(t testing.TB, cert, key, clientCA string) *Store {
	t.Helper()
	port := Port(t)
	c := startConsul(t, Here, map[string]int{"https": port}, map[string]any{
		"verify_incoming_https": true, "cert_file": cert, "key_file": key, "ca_file": clientCA,
	})
	c.Endpoint = fmt.Sprintf("https://127.0.0.1:%d", port)
	return c
}

func startConsul(t testing.TB, at Place, more map[string]int, settings map[string]any) *Store {
	t.Helper()
	bin := os.Getenv("CONSUL_BIN")
	if bin == "" {
		t.Fatal("CONSUL_BIN names no consul; ./test fetches one")
	}
	dir, port := t.TempDir(), Port(t)
	ports := map[string]int{"http": port, "server": Port(t), "serf_lan": Port(t), "serf_wan": Port(t), "dns": -1, "grpc": -1}
	maps.Copy(ports, more)
	conf := map[string]any{
		// As Consul's documentation wants it for production; 5 is for tiny machines.
		"performance": map[string]any{"raft_multiplier": 1},
		"ports":       ports,
	}
	maps.Copy(conf, settings)
	b, err := json.Marshal(conf)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "consul.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	c := &Store{Backend: Consul, Endpoint: fmt.Sprintf("http://%s:%d", at.Address, port)}
	c.process = process{t: t, at: at, name: "consul " + c.Endpoint, log: filepath.Join(dir, "consul.log")}
	c.args = []string{
		bin, "agent", "-server", "-bootstrap", "-node", "test", "-bind", at.Address, "-client", at.Address,
		"-data-dir", filepath.Join(dir, "data"), "-config-file", file, "-log-level", "warn",
	}
	c.health = c.Endpoint + "/v1/catalog/nodes?consistent" // 500 until it leads
	c.run()
	c.awaitReady()
	return c
}
