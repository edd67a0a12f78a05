//go:build integration

package integration

import (
	"testing"
	"time"

	"stolon/internal/store"
	"stolon/internal/store/open"
	"stolon/internal/store/storetest"
	"stolon/tests/servers"
)

// shortSessions lets a test wait for the end of a session: the least TTL that
// Consul grants is 10 s otherwise, and it ends a session after twice its TTL.
var shortSessions = map[string]any{"session_ttl_min": "1s"}

func openConsul(t *testing.T, conf open.Config) store.Backend {
	t.Helper()
	conf.Backend, conf.Timeout = "consul", 10*time.Second
	b, err := open.Backend(conf)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestConsulConformance(t *testing.T) {
	t.Parallel()
	consul := servers.StartConsul(t, shortSessions)
	storetest.Run(t, func(t *testing.T) store.Backend {
		return within{openConsul(t, open.Config{Endpoints: consul.Endpoint}), t.Name() + ": "}
	})
}
