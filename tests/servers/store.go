package servers

import (
	"os"
	"strings"
	"testing"
)

// The backends, by their names for --store-backend.
const (
	Etcd   = "etcdv3"
	Consul = "consul"
)

// A Store is one server of a store.
type Store struct {
	Backend string // Etcd or Consul
	// Endpoint is its URL for clients, for --store-endpoints.
	Endpoint string

	health string // the URL that answers with 200 when it serves
	// Of a member of an etcd cluster of several: its URL for the other
	// members, and what lies between it and them.
	peer    string
	between *junction
	process
}

// StartStore starts the store that $STOLON_TEST_STORE_BACKEND names, etcd if
// nothing, with so many members. Of Consul there is one: a test that needs
// more is skipped.
func StartStore(t testing.TB, members int) []*Store {
	t.Helper()
	return StartStoreAt(t, Here, members)
}

// StartStoreAt is StartStore at some place. Elsewhere than here there is one
// member.
func StartStoreAt(t testing.TB, at Place, members int) []*Store {
	t.Helper()
	switch backend := os.Getenv("STOLON_TEST_STORE_BACKEND"); backend {
	case "", Etcd:
		return startEtcdCluster(t, at, members)
	case Consul:
		if members > 1 {
			t.Skip("of Consul the tests have one server")
		}
		// A dead sentinel's session ends after twice its TTL.
		return []*Store{startConsul(t, at, nil, map[string]any{"session_ttl_min": "5s"})}
	default:
		t.Fatalf("STOLON_TEST_STORE_BACKEND=%s is neither %s nor %s", backend, Etcd, Consul)
		return nil
	}
}

// Endpoints is the members' value for --store-endpoints.
func Endpoints(members []*Store) string {
	var urls []string
	for _, m := range members {
		urls = append(urls, m.Endpoint)
	}
	return strings.Join(urls, ",")
}

// Restart ends it if it runs and starts it with the same data and ports. It
// waits until it serves.
func (s *Store) Restart() {
	s.t.Helper()
	s.Kill()
	s.start()
	s.awaitReady()
}

func (s *Store) awaitReady() {
	s.t.Helper()
	s.awaitOK(s.health)
}
