// Package harness runs whole clusters for tests, from the binaries and as a
// user would: etcd, keepers with their PostgreSQL, sentinels, proxies, and
// stolonctl. It starts, stops, kills and freezes them, asks them by SQL and by
// the store, and waits for conditions. What it starts ends with the test.
//
// The logs of a failed test are shown; STOLON_TEST_LOGS names a directory that
// gets those of every test.
//
// Start with Start, which returns a Cluster that serves.
package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"stolon/internal/store"
	"stolon/internal/store/open"
	"stolon/tests/servers"
)

// Spec is a cluster spec, as JSON has it.
type Spec map[string]any

// Quick is the spec that most tests use: short intervals, and a PostgreSQL
// that does not care for a crash of the machine.
func Quick(more Spec) Spec {
	s := Spec{
		"initMode":           "new",
		"sleepInterval":      "2s",
		"failInterval":       "5s",
		"convergenceTimeout": "30s",
		"proxyCheckInterval": "1s",
		"proxyTimeout":       "5s",
		"maxStandbyLag":      50 * 1024,
		"pgParameters":       Parameters(nil),
	}
	maps.Copy(s, more)
	return s
}

// Parameters are the pgParameters of Quick, with more.
func Parameters(more map[string]string) map[string]string {
	p := map[string]string{
		"log_destination":   "stderr",
		"logging_collector": "false",
		"fsync":             "off",
		"autovacuum":        "off", // it would write WAL when it likes
		"shared_buffers":    "16MB",
	}
	maps.Copy(p, more)
	return p
}

// Options is the size of a cluster.
type Options struct {
	Keepers   int
	Sentinels int // 0 is 1
	Proxies   int
	Spec      Spec // nil is Quick(nil)
	Members   int  // of the store; 0 is 1
	// TLS names another store, and the files that everybody needs for it.
	TLS *TLS
	// Early is called before the first process but the store's starts.
	Early func(*Cluster)
	// Keeper is called for each keeper before it starts.
	Keeper func(*Keeper)
	// Flags that every process gets; by default --store-timeout=1s.
	Flags []string
	// Relays puts one between each process and the store.
	Relays bool
	// Hurry doesn't wait: Start returns when all processes are started.
	Hurry bool
	// Place is where the process of this name runs: "store", "keeper0",
	// "sentinel0", "proxy0" and so on. By default all run in servers.Here.
	Place func(name string) servers.Place
}

// TLS is a store that demands certificates and what satisfies it.
type TLS struct {
	Server                    *servers.Store
	CAFile, CertFile, KeyFile string
}

// A Cluster is everything that belongs to one.
type Cluster struct {
	Name      string
	Dir       string
	Server    *servers.Store   // the first of Members
	Members   []*servers.Store // the store
	Store     *store.Client
	Keepers   []*Keeper
	Sentinels []*Sentinel
	Proxies   []*Proxy
	Password  string // of the superuser

	t      testing.TB
	flags  []string
	relays bool
	spec   string // its file
	place  func(name string) servers.Place
}

// A Sentinel is a sentinel process.
type Sentinel struct {
	*Process
	// InitialSpec is the file for --initial-cluster-spec; "" is none.
	InitialSpec string
	c           *Cluster
}

// Start starts the sentinel.
func (s *Sentinel) Start() {
	s.t.Helper()
	args := s.c.storeFlags(s.Relay)
	if s.InitialSpec != "" {
		args = append(args, "--initial-cluster-spec="+s.InitialSpec)
	}
	s.start(args...)
}

// UID of the last run, from its log.
func (s *Sentinel) UID() string { return uidIn(s.Process, "sentinel uid") }

// A Proxy is a proxy process.
type Proxy struct {
	*Process
	Port  string
	Flags []string
	c     *Cluster
}

// Start starts the proxy.
func (p *Proxy) Start() {
	p.t.Helper()
	p.start(override(append(p.c.storeFlags(p.Relay), "--listen-address="+p.place.Address, "--port="+p.Port), p.Flags)...)
}

// UID of the last run, from its log.
func (p *Proxy) UID() string { return uidIn(p.Process, "proxy uid") }

// SQL is whoever the proxy leads to, as the superuser.
func (p *Proxy) SQL() Server {
	return Server{Host: p.place.Address, Port: p.Port, User: Superuser, Password: p.c.Password, t: p.t}
}

func uidIn(p *Process, msg string) string {
	p.t.Helper()
	p.AwaitLog(10*time.Second, 0, msg)
	log := p.Log()
	line, _, _ := strings.Cut(log[strings.LastIndex(log, msg):], "\n")
	var fields struct{ UID string }
	if err := json.Unmarshal([]byte(line[strings.Index(line, "{"):]), &fields); err != nil {
		p.t.Fatalf("%s: uid in %q: %v", p.Name, line, err)
	}
	return fields.UID
}

// New starts a store and returns a cluster without processes.
func New(t testing.TB) *Cluster {
	t.Helper()
	return newOn(t, servers.StartStore(t, 1), &TLS{})
}

func newOn(t testing.TB, members []*servers.Store, files *TLS) *Cluster {
	t.Helper()
	c := &Cluster{
		Name: "test", Password: SuperuserPassword, Dir: t.TempDir(), t: t, Server: members[0], Members: members, flags: []string{"--store-timeout=1s"},
		place: func(string) servers.Place { return servers.Here },
	}
	for role, password := range map[string]string{"su": SuperuserPassword, "repl": ReplicationPassword} {
		if err := os.WriteFile(c.passwordFile(role), []byte(password), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := open.Backend(open.Config{
		Backend: c.Server.Backend, Endpoints: servers.Endpoints(c.Members), Timeout: 2 * time.Second,
		CAFile: files.CAFile, CertFile: files.CertFile, KeyFile: files.KeyFile,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	c.Store = store.NewClient(b, "stolon/cluster", c.Name)
	t.Cleanup(func() {
		if t.Failed() {
			c.showData()
		}
	})
	return c
}

// Start starts a cluster and waits until it serves: every keeper has a healthy
// instance that follows the master, as far as maxStandbysPerSender lets them,
// and every proxy leads to the master.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	c := o.cluster(t)
	if o.Spec == nil {
		o.Spec = Quick(nil)
	}
	c.spec, c.relays = c.WriteSpec(o.Spec), o.Relays
	if o.Early != nil {
		o.Early(c)
	}
	for range max(o.Sentinels, 1) {
		c.AddSentinel(c.spec).Start()
	}
	for range o.Keepers {
		k := c.AddKeeper()
		if o.Keeper != nil {
			o.Keeper(k)
		}
		k.Start()
	}
	for range o.Proxies {
		c.AddProxy().Start()
	}
	if o.Hurry {
		return c
	}
	standbys := o.Keepers - 1
	if m, ok := o.Spec["maxStandbysPerSender"].(int); ok {
		standbys = min(standbys, m)
	}
	c.AwaitHealthy(60*time.Second, 1+standbys)
	return c
}

// cluster has the store that the options name and no process yet.
func (o Options) cluster(t testing.TB) *Cluster {
	t.Helper()
	var c *Cluster
	if o.TLS == nil {
		at := servers.Here
		if o.Place != nil {
			at = o.Place("store")
		}
		c = newOn(t, servers.StartStoreAt(t, at, max(o.Members, 1)), &TLS{})
	} else {
		c = newOn(t, []*servers.Store{o.TLS.Server}, o.TLS)
	}
	if o.Place != nil {
		c.place = o.Place
	}
	if o.Flags != nil {
		c.flags = o.Flags
	}
	if o.TLS != nil {
		c.flags = append(slices.Clone(c.flags), "--store-ca-file="+o.TLS.CAFile, "--store-cert-file="+o.TLS.CertFile, "--store-key="+o.TLS.KeyFile)
	}
	return c
}

// WriteSpec writes a spec to a file of its own and returns its name.
func (c *Cluster) WriteSpec(s Spec) string {
	c.t.Helper()
	f, err := os.CreateTemp(c.Dir, "spec-*.json")
	if err != nil {
		c.t.Fatal(err)
	}
	if err := errors.Join(json.NewEncoder(f).Encode(s), f.Close()); err != nil {
		c.t.Fatal(err)
	}
	return f.Name()
}

// AddSentinel adds a sentinel without starting it.
func (c *Cluster) AddSentinel(initialSpec string) *Sentinel {
	name := "sentinel" + strconv.Itoa(len(c.Sentinels))
	s := &Sentinel{Process: newProcess(c.t, c.Dir, c.place(name), name, os.Getenv("STSENTINEL_BIN")), InitialSpec: initialSpec, c: c}
	s.Relay = c.relay()
	c.Sentinels = append(c.Sentinels, s)
	return s
}

// AddKeeper adds a keeper without starting it.
func (c *Cluster) AddKeeper() *Keeper {
	c.t.Helper()
	uid := "keeper" + strconv.Itoa(len(c.Keepers))
	k := &Keeper{
		Process: newProcess(c.t, c.Dir, c.place(uid), uid, os.Getenv("STKEEPER_BIN")), UID: uid,
		Port: strconv.Itoa(servers.Port(c.t)), DataDir: filepath.Join(c.Dir, uid), c: c,
	}
	k.Relay = c.relay()
	c.t.Cleanup(k.destroy)
	c.Keepers = append(c.Keepers, k)
	return k
}

// AddProxy adds a proxy without starting it.
func (c *Cluster) AddProxy() *Proxy {
	c.t.Helper()
	name := "proxy" + strconv.Itoa(len(c.Proxies))
	p := &Proxy{Process: newProcess(c.t, c.Dir, c.place(name), name, os.Getenv("STPROXY_BIN")), Port: strconv.Itoa(servers.Port(c.t)), c: c}
	p.Relay = c.relay()
	c.Proxies = append(c.Proxies, p)
	return p
}

// relay is what a new process gets.
func (c *Cluster) relay() *servers.Relay {
	if !c.relays {
		return nil
	}
	return servers.StartRelay(c.t, c.Server)
}

// storeFlags are the flags that all programs share.
func (c *Cluster) storeFlags(by *servers.Relay) []string {
	endpoints := servers.Endpoints(c.Members)
	if by != nil {
		endpoints = by.Endpoint
	}
	return append([]string{"--cluster-name=" + c.Name, "--store-backend=" + c.Server.Backend, "--store-endpoints=" + endpoints}, c.flags...)
}

func (c *Cluster) passwordFile(role string) string { return filepath.Join(c.Dir, role+".password") }

// RunCtl runs stolonctl and returns what it wrote and its exit status.
func (c *Cluster) RunCtl(stdin string, args ...string) (stdout, stderr string, code int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Getenv("STCTL_BIN"), append(c.storeFlags(nil), args...)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("stolonctl: %v", err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// StartCtl starts a stolonctl that runs until it is stopped.
func (c *Cluster) StartCtl(args ...string) *Process {
	c.t.Helper()
	p := newProcess(c.t, c.Dir, servers.Here, "stolonctl", os.Getenv("STCTL_BIN"))
	p.start(append(c.storeFlags(nil), args...)...)
	return p
}

// Ctl runs stolonctl, which must succeed.
func (c *Cluster) Ctl(args ...string) string {
	c.t.Helper()
	stdout, stderr, code := c.RunCtl("", args...)
	if code != 0 {
		c.t.Fatalf("stolonctl %s: exit status %d: %s", strings.Join(args, " "), code, stderr)
	}
	return stdout
}
