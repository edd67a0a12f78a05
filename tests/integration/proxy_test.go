//go:build integration

package integration

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stolon/internal/cluster"
	"stolon/internal/store"
	"stolon/tests/harness"
)

// listening reports whether somebody accepts connections there.
func listening(p *harness.Proxy) bool {
	conn, err := net.DialTimeout("tcp", "127.0.0.1:"+p.Port, time.Second)
	if err != nil {
		return errors.Is(err, unix.ECONNRESET) // it was accepted, and then cut
	}
	conn.Close()
	return true
}

func awaitListening(t *testing.T, d time.Duration, p *harness.Proxy, want bool) {
	t.Helper()
	what := map[bool]string{true: "listens", false: "stops listening"}[want]
	harness.Await(t, d, p.Name+" "+what, func() (string, bool) { return "", listening(p) == want })
}

func keepsListening(t *testing.T, d time.Duration, p *harness.Proxy) {
	t.Helper()
	harness.Holds(t, d, p.Name+" listens", func() (string, bool) { return "", listening(p) })
}

// echo accepts connections and sends back what comes, after its own name.
func echo(t *testing.T, name string) (host, port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, name+"\n")
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	host, port, _ = net.SplitHostPort(l.Addr().String()) // it is one
	return host, port
}

// routed is cluster data whose proxies lead to a db at that address.
func routed(spec *cluster.Spec, host, port string) *cluster.ClusterData {
	mode := cluster.InitNew
	spec.InitMode = &mode
	cd := cluster.New("cluster1", spec, time.Now())
	cd.Cluster.Status = cluster.ClusterStatus{Phase: cluster.Normal, Master: "db1"}
	cd.Keepers["keeper1"] = &cluster.Keeper{UID: "keeper1", Generation: 1, Spec: &cluster.KeeperSpec{}, Status: cluster.KeeperStatus{Healthy: true}}
	cd.DBs["db1"] = &cluster.DB{UID: "db1", Generation: 1,
		Spec:   &cluster.DBSpec{KeeperUID: "keeper1", Role: cluster.RoleMaster, Followers: []string{}},
		Status: cluster.DBStatus{Healthy: true, CurrentGeneration: 1, ListenAddress: host, Port: port}}
	cd.Proxy = &cluster.Proxy{Generation: 1, Spec: cluster.ProxySpec{MasterDBUID: "db1"}}
	return cd
}

// quickProxies is a spec with a proxyTimeout that tests can wait for.
func quickProxies() *cluster.Spec {
	return &cluster.Spec{ProxyCheckInterval: &cluster.Duration{Duration: time.Second}, ProxyTimeout: &cluster.Duration{Duration: proxyTimeout}}
}

const proxyTimeout = 4 * time.Second

// putData writes the cluster data over whatever is there.
func putData(t *testing.T, c *harness.Cluster, cd *cluster.ClusterData) {
	t.Helper()
	value := []byte("null")
	if cd != nil {
		value = store.Encode(cd)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := c.Store.Commit(ctx, nil, []store.Op{{Key: c.Store.ClusterDataKey(), Value: value}}); err != nil {
		t.Fatal(err)
	}
}

// PRX-1, PRX-2: a proxy listens once the store answers, also without timeouts
// in the spec and without being an enabled proxy.
func TestAProxyListensWhenTheStoreAnswers(t *testing.T) {
	t.Parallel()
	c := harness.New(t)
	host, port := echo(t, "db1")
	putData(t, c, routed(&cluster.Spec{}, host, port))
	c.Server.Stop()
	p := c.AddProxy()
	p.Start()
	harness.Holds(t, 5*time.Second, "the proxy doesn't listen", func() (string, bool) { return "", p.Running() && !listening(p) })
	c.Server.Restart()
	awaitListening(t, 10*time.Second, p, true)
}

// PRX-3 to PRX-5: a proxy stops listening when the store is away for its
// timeout, not before, and listens again when it is back.
func TestAProxyOutlivesTheStore(t *testing.T) {
	t.Parallel()
	c := harness.New(t)
	host, port := echo(t, "db1")
	putData(t, c, routed(quickProxies(), host, port))
	p := c.AddProxy()
	p.Start()
	awaitListening(t, 10*time.Second, p, true)

	c.Server.Stop()
	keepsListening(t, proxyTimeout/3, p)
	c.Server.Restart()
	keepsListening(t, 2*proxyTimeout, p)

	c.Server.Stop()
	awaitListening(t, 2*proxyTimeout, p, false)
	c.Server.Restart()
	awaitListening(t, 10*time.Second, p, true)
}

// With --stop-listening=false a proxy listens whatever happens, and leads nowhere.
func TestAProxyMayListenWithoutTheStore(t *testing.T) {
	t.Parallel()
	c, p, _ := leadingProxy(t, "--stop-listening=false")
	client := connect(t, p, "db1")
	c.Server.Stop()
	client.awaitCut(2 * proxyTimeout)
	keepsListening(t, proxyTimeout, p)
}

// PRX-8: a store that is there and doesn't answer is away. Clients are cut
// within the proxy's timeout.
func TestAProxyOutlivesAFrozenStore(t *testing.T) {
	t.Parallel()
	c, p, _ := leadingProxy(t)
	client := connect(t, p, "db1")
	c.Server.Freeze()
	client.awaitCut(proxyTimeout + time.Second)
	awaitListening(t, 2*proxyTimeout, p, false)
	c.Server.Resume()
	awaitListening(t, 10*time.Second, p, true)
	connect(t, p, "db1")
}

// PRX-6, PRX-7: a proxy without a master, or without cluster data, listens.
// Clients of the master before are cut.
func TestAProxyWithoutAMasterListens(t *testing.T) {
	t.Parallel()
	c, p, data := leadingProxy(t)
	client := connect(t, p, "db1")
	none := data.Clone()
	none.Proxy.Generation, none.Proxy.Spec.MasterDBUID = 2, ""
	putData(t, c, none)
	client.awaitCut(2 * time.Second)
	keepsListening(t, 2*proxyTimeout, p)
	data.Proxy.Generation = 3
	putData(t, c, data)
	connect(t, p, "db1")

	putData(t, c, nil)
	keepsListening(t, 2*proxyTimeout, p)
	putData(t, c, data)
	connect(t, p, "db1")
}

// A frozen proxy that comes back has cut its clients: nothing of what they
// sent meanwhile, or of what was sent to them, arrives.
func TestAFrozenProxyComesBackWithoutClients(t *testing.T) {
	t.Parallel()
	_, p, _ := leadingProxy(t)
	client := connect(t, p, "db1")
	p.Freeze()
	if _, err := io.WriteString(client.conn, "late\n"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(proxyTimeout + time.Second)
	p.Resume()
	if err := client.conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if line, err := client.read.ReadString('\n'); err == nil {
		t.Errorf("read %q after the deadline", line)
	}
	connect(t, p, "db1")
}

// leadingProxy starts etcd and an enabled proxy that leads to an echo named db1.
func leadingProxy(t *testing.T, flags ...string) (*harness.Cluster, *harness.Proxy, *cluster.ClusterData) {
	t.Helper()
	c := harness.New(t)
	p := c.AddProxy()
	p.Flags = flags
	p.Start()
	host, port := echo(t, "db1")
	data := routed(quickProxies(), host, port)
	uid := p.UID()
	data.Proxy.Spec.EnabledProxies = []string{uid}
	putData(t, c, data)
	awaitListening(t, 10*time.Second, p, true)
	// Until its second check it goes by the longer timeout of before.
	harness.Await(t, 10*time.Second, "the proxy goes by its timeout", func() (string, bool) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		st, err := c.Store.State(ctx)
		if err != nil {
			return err.Error(), false
		}
		got := st.Proxies[uid].ProxyTimeout
		return got.String(), got == proxyTimeout
	})
	return c, p, data
}

// A client is one connection through a proxy.
type client struct {
	t    *testing.T
	conn net.Conn
	read *bufio.Reader
}

// connect waits until the proxy leads to the named server, and bytes go there
// and back.
func connect(t *testing.T, p *harness.Proxy, name string) *client {
	t.Helper()
	var c *client
	harness.Await(t, 10*time.Second, p.Name+" leads to "+name, func() (string, bool) {
		conn, err := net.DialTimeout("tcp", "127.0.0.1:"+p.Port, time.Second)
		if err != nil {
			return err.Error(), false
		}
		c = &client{t: t, conn: conn, read: bufio.NewReader(conn)}
		if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return err.Error(), false
		}
		line, err := c.read.ReadString('\n')
		if err != nil || line != name+"\n" {
			conn.Close()
			return line, false
		}
		return "", true
	})
	t.Cleanup(func() { c.conn.Close() })
	c.say("hello")
	return c
}

// say sends a line, which must come back.
func (c *client) say(text string) {
	c.t.Helper()
	if err := c.conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		c.t.Fatal(err)
	}
	if _, err := io.WriteString(c.conn, text+"\n"); err != nil {
		c.t.Fatalf("write through the proxy: %v", err)
	}
	if got, err := c.read.ReadString('\n'); err != nil || got != text+"\n" {
		c.t.Fatalf("read through the proxy: %q, %v", got, err)
	}
}

// awaitCut waits until the proxy ends the connection.
func (c *client) awaitCut(d time.Duration) {
	c.t.Helper()
	if err := c.conn.SetDeadline(time.Now().Add(d)); err != nil {
		c.t.Fatal(err)
	}
	_, err := c.read.ReadByte()
	if err, ok := err.(net.Error); err == nil || ok && err.Timeout() {
		c.t.Fatalf("not cut within %s: %v", d, err)
	}
}
