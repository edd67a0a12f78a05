//go:build integration

package integration

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"stolon/internal/cluster"
	"stolon/internal/store"
	"stolon/internal/store/open"
	"stolon/tests/harness"
	"stolon/tests/servers"
)

// The one connection to the store over which a process gets no answer any more,
// as through a load balancer whose member has died, costs nothing at tight
// intervals: no failover when it is the master's keeper's, no client when it is
// the proxy's, no lead when it is the sentinel's. --store-timeout is longer than
// any of these times.
func TestAHungConnectionToTheStoreCostsNothing(t *testing.T) {
	t.Parallel()
	spec := harness.Spec{"sleepInterval": "1s", "failInterval": "4s", "proxyCheckInterval": "1s", "proxyTimeout": "4s"}
	c := harness.Start(t, harness.Options{Keepers: 2, Sentinels: 2, Proxies: 1, Spec: harness.Quick(spec), Relays: true,
		Flags: []string{"--store-timeout=5s"}})
	c.AwaitData(soon, "the proxy is enabled", func(cd *cluster.ClusterData) bool { return len(cd.Proxy.Spec.EnabledProxies) == 1 })
	before := c.Data()
	master, _ := c.Roles()
	leader := c.Leader()
	w := harness.StartWriter(c.Proxies[0].SQL())
	w.AwaitRows(t, soon, 20)
	for name, relay := range map[string]*servers.Relay{"the master's keeper": master.Relay, "the proxy": c.Proxies[0].Relay, "the leading sentinel": leader.Relay} {
		at := time.Now()
		if relay.Swallow() == 0 {
			t.Fatalf("%s has no connection", name)
		}
		harness.Holds(t, 9*time.Second, "the master, the route and the lead stay", func() (string, bool) {
			cd := c.Data()
			return name + ": " + harness.Summary(cd), cd.Cluster.Status.Master == before.Cluster.Status.Master &&
				cd.Proxy.Generation == before.Proxy.Generation && cd.Master().Status.Healthy && c.Leader() == leader
		})
		t.Logf("%s: %s without an acknowledgement", name, w.Gap(at))
	}
	if n := w.Connections(); n > 0 {
		t.Errorf("%d connections have ended", n)
	}
	unmoved(t, c, before, w)
}

// slowEtcd answers each read after a while.
type slowEtcd struct {
	etcdserverpb.UnimplementedKVServer
	takes time.Duration
}

func (s slowEtcd) Range(ctx context.Context, _ *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(s.takes):
		return &etcdserverpb.RangeResponse{Header: &etcdserverpb.ResponseHeader{}}, nil
	}
}

// counting counts the connections that it accepts.
type counting struct {
	net.Listener
	n atomic.Int64
}

func (l *counting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.n.Add(1)
	}
	return c, err
}

// A slow server is no dead one: it has all the time there is, by the connection
// that it was asked over.
func TestEtcdThatIsSlowIsNotHungUpOn(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	counted := &counting{Listener: l}
	server := grpc.NewServer()
	etcdserverpb.RegisterKVServer(server, slowEtcd{takes: 3 * time.Second})
	done := make(chan error, 1)
	go func() { done <- server.Serve(counted) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	b := openOwn(t, l.Addr().String(), 4*time.Second) // half of it is less than the server takes
	for range 2 {
		if _, err := b.Get(t.Context(), "k"); err != nil {
			t.Error(err)
		}
	}
	if n := counted.n.Load(); n != 1 {
		t.Errorf("%d connections were made, want one", n)
	}
}

// A single endpoint's dead connection costs half the time of the call that
// meets it, and the watch a moment more.
func TestADeadConnectionToTheStoreIsReplaced(t *testing.T) {
	t.Parallel()
	server := servers.StartStore(t, 1)[0]
	relay := servers.StartRelay(t, server)
	b, err := open.Backend(open.Config{Backend: server.Backend, Endpoints: relay.Endpoint, Timeout: 4 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	closing(t, b)
	var m store.Mirror
	w := b.Watch(t.Context(), "p/")
	mustPut(t, b, "p/a", "1")
	awaitKey(t, w, &m, "p/a", "1")
	if relay.Swallow() == 0 {
		t.Fatal("no connection is there")
	}
	start := time.Now()
	mustPut(t, b, "p/a", "2")
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("the write took %s, want half of 4s", d)
	}
	awaitKey(t, w, &m, "p/a", "2")
	if d := time.Since(start); d > 4*time.Second {
		t.Errorf("the watch told after %s", d)
	}
}
