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
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"stolon/internal/cluster"
	"stolon/internal/postgresql/wal"
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

// Patch changes the spec by stolonctl.
func (c *Cluster) Patch(patch string) {
	c.t.Helper()
	c.Ctl("update", "--patch", patch)
}

// TryData reads the cluster data: nil and nil when there is none.
func (c *Cluster) TryData() (*cluster.ClusterData, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	cd, _, err := c.Store.ClusterData(ctx)
	return cd, err
}

// Data is the cluster data, which must be there.
func (c *Cluster) Data() *cluster.ClusterData {
	c.t.Helper()
	cd, err := c.TryData()
	if err != nil {
		c.t.Fatal(err)
	}
	if cd == nil || cd.Cluster == nil {
		c.t.Fatal("no cluster data")
	}
	return cd
}

// AwaitData waits until the cluster data is as ok wants it.
func (c *Cluster) AwaitData(timeout time.Duration, what string, ok func(*cluster.ClusterData) bool) {
	c.t.Helper()
	Await(c.t, timeout, what, func() (string, bool) {
		_, saw, is := c.lookAtData(ok)
		return saw, is
	})
}

// lookAtData reads the cluster data once and tells what it saw.
func (c *Cluster) lookAtData(ok func(*cluster.ClusterData) bool) (cd *cluster.ClusterData, saw string, is bool) {
	cd, err := c.TryData()
	if err != nil {
		return nil, err.Error(), false
	}
	if cd == nil || cd.Cluster == nil {
		return nil, "no cluster data", false
	}
	return cd, Summary(cd), ok(cd)
}

// Summary is the cluster data in one line.
func Summary(cd *cluster.ClusterData) string {
	var b strings.Builder
	fmt.Fprintf(&b, "phase %s, master %s, route %q to %d proxies, generation %d", cd.Cluster.Status.Phase, cd.Cluster.Status.Master,
		cd.Proxy.Spec.MasterDBUID, len(cd.Proxy.Spec.EnabledProxies), cd.Proxy.Generation)
	for _, uid := range cluster.SortedKeys(cd.Keepers) {
		fmt.Fprintf(&b, "; %s healthy=%t", uid, cd.Keepers[uid].Status.Healthy)
		if db := cd.DBOf(uid); db != nil {
			fmt.Fprintf(&b, " %s %s %d/%d healthy=%t", db.UID, db.Spec.Role, db.Generation, db.Status.CurrentGeneration, db.Status.Healthy)
			if db.Spec.SynchronousReplication {
				fmt.Fprintf(&b, " sync=%v known=%v", append(slices.Clone(db.Spec.SynchronousStandbys), db.Spec.ExternalSynchronousStandbys...), db.Status.SynchronousStandbys)
			}
		}
	}
	return b.String()
}

func (c *Cluster) showData() {
	cd, err := c.TryData()
	if err != nil || cd == nil || cd.Cluster == nil {
		c.t.Logf("cluster data: %v %v", cd, err)
		return
	}
	b, err := json.MarshalIndent(cd, "", " ")
	if err != nil {
		return
	}
	if dir := os.Getenv("STOLON_TEST_LOGS"); dir != "" {
		dir = filepath.Join(dir, filepath.FromSlash(c.t.Name()))
		if os.MkdirAll(dir, 0o755) == nil && os.WriteFile(filepath.Join(dir, "clusterdata.json"), b, 0o644) == nil {
			c.t.Logf("cluster data: %s", Summary(cd))
			return
		}
	}
	c.t.Logf("cluster data: %s\n%s", Summary(cd), b)
}

// Roles returns the elected master's keeper and the keepers of all other dbs.
func (c *Cluster) Roles() (master *Keeper, standbys []*Keeper) {
	c.t.Helper()
	cd := c.Data()
	for _, k := range c.Keepers {
		switch db := cd.DBOf(k.UID); {
		case db == nil:
		case db.UID == cd.Cluster.Status.Master:
			master = k
		default:
			standbys = append(standbys, k)
		}
	}
	if master == nil {
		c.t.Fatalf("no master: %s", Summary(cd))
	}
	return master, standbys
}

// DB returns the keeper's db; "" is its UID when it has none.
func (c *Cluster) DB(k *Keeper) *cluster.DB {
	c.t.Helper()
	if db := c.Data().DBOf(k.UID); db != nil {
		return db
	}
	return &cluster.DB{Spec: &cluster.DBSpec{}}
}

// AwaitHealthy waits until n dbs are healthy and have applied what they shall,
// the standbys follow the master, and all proxies that run lead to it.
// It looks at all of that at once: the master may be replaced while it waits.
func (c *Cluster) AwaitHealthy(timeout time.Duration, n int) {
	c.t.Helper()
	Await(c.t, timeout, fmt.Sprintf("%d dbs are healthy and the route is open", n), func() (string, bool) {
		cd, saw, ok := c.lookAtData(func(cd *cluster.ClusterData) bool { return whole(cd, n) })
		if !ok {
			return saw, false
		}
		i := slices.IndexFunc(c.Keepers, func(k *Keeper) bool { return k.UID == cd.Master().Spec.KeeperUID })
		if i < 0 {
			return "the master's keeper is none of ours: " + saw, false
		}
		master := c.Keepers[i]
		const senders = "select count(*) from pg_stat_replication where state = 'streaming'"
		if saw, ok := master.SQL().answers(senders, strconv.Itoa(n-1)); !ok {
			return saw, false
		}
		for _, p := range c.Proxies {
			if !p.Running() {
				continue
			}
			if saw, ok := p.SQL().answers(serverPort, master.Port); !ok {
				return saw, false
			}
		}
		return "", true
	})
}

// whole: the cluster data has n dbs, all well, and a route.
func whole(cd *cluster.ClusterData, n int) bool {
	master := cd.Master()
	if master == nil || cd.Proxy.Spec.MasterDBUID != master.UID || len(cd.DBs) != n {
		return false
	}
	for _, db := range cd.DBs {
		if !db.Status.Healthy || db.Status.CurrentGeneration != db.Generation {
			return false
		}
		if f := db.Spec.FollowConfig; db != master && (f == nil || f.DBUID != master.UID) {
			return false
		}
	}
	return len(master.Spec.Followers) == n-1
}

// serverPort asks which instance a connection leads to.
const serverPort = "select inet_server_port()"

// AwaitMaster waits until the keeper's db is the elected master and serves as one.
func (c *Cluster) AwaitMaster(timeout time.Duration, k *Keeper) {
	c.t.Helper()
	c.AwaitData(timeout, k.UID+" is master", func(cd *cluster.ClusterData) bool {
		m := cd.Master()
		return m != nil && m.Spec.KeeperUID == k.UID && m.Status.Healthy && m.Status.CurrentGeneration == m.Generation
	})
	k.SQL().AwaitQuery(timeout, "select pg_is_in_recovery()", "false")
}

// AwaitAnother waits until another keeper's db is master and routed, and
// returns that keeper.
func (c *Cluster) AwaitAnother(timeout time.Duration, than *Keeper) *Keeper {
	c.t.Helper()
	c.AwaitData(timeout, "another is master", func(cd *cluster.ClusterData) bool {
		m := cd.Master()
		return m != nil && m.Spec.KeeperUID != than.UID && cd.Proxy.Spec.MasterDBUID == m.UID
	})
	master, _ := c.Roles()
	return master
}

// SameMaster fails the test unless the master is routed and the same for d.
func SameMaster(t testing.TB, c *Cluster, d time.Duration) {
	t.Helper()
	was := c.Data().Cluster.Status.Master
	Holds(t, d, "the master stays", func() (string, bool) {
		cd := c.Data()
		return Summary(cd), cd.Cluster.Status.Master == was && cd.Proxy.Spec.MasterDBUID == was
	})
}

// AwaitRoute waits until every proxy that runs leads to the keeper's instance.
func (c *Cluster) AwaitRoute(timeout time.Duration, k *Keeper) {
	c.t.Helper()
	for _, p := range c.Proxies {
		if p.Running() {
			p.SQL().AwaitQuery(timeout, serverPort, k.Port)
		}
	}
}

// AwaitCaughtUp waits until the standbys have replayed all that the master has
// and their keepers have reported so, so that a failover has them to choose
// from. The cluster data may show that late, as positions alone aren't written.
func (c *Cluster) AwaitCaughtUp(timeout time.Duration, master *Keeper, standbys ...*Keeper) {
	c.t.Helper()
	want := master.SQL().Query("select pg_current_wal_lsn()")
	for _, s := range standbys {
		s.SQL().AwaitQuery(timeout, "select pg_last_wal_replay_lsn() >= '"+want+"'", "true")
	}
	position, err := wal.ParseLSN(want)
	if err != nil {
		c.t.Fatal(err)
	}
	Await(c.t, timeout, "the standbys have reported the master's position, "+want, func() (string, bool) {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		st, err := c.Store.State(ctx)
		if err != nil {
			return err.Error(), false
		}
		for _, s := range standbys {
			rep := st.Keepers[s.UID].PostgresState
			if rep == nil || rep.XLogPos < uint64(position) {
				return fmt.Sprintf("%s reports %+v", s.UID, rep), false
			}
		}
		return "", true
	})
}

// AwaitSynchronous waits until the master has synchronous standbys and all of
// them are known in sync.
func (c *Cluster) AwaitSynchronous(timeout time.Duration) {
	c.t.Helper()
	c.AwaitData(timeout, "the synchronous standbys are known in sync", func(cd *cluster.ClusterData) bool {
		m := cd.Master()
		return m != nil && len(m.Spec.SynchronousStandbys) > 0 && len(m.Spec.ExternalSynchronousStandbys) == 0 &&
			slices.Equal(m.Spec.SynchronousStandbys, m.Status.SynchronousStandbys)
	})
}

// Leader is the sentinel that leads, once it is one that runs: a dead one's
// leadership outlives it for a while.
func (c *Cluster) Leader() *Sentinel {
	c.t.Helper()
	var leader *Sentinel
	Await(c.t, 20*time.Second, "one of the sentinels leads", func() (string, bool) {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		uid, err := c.Store.Leader(ctx, c.Store.ElectionKey())
		for _, s := range c.Sentinels {
			if err == nil && uid != "" && s.UID() == uid {
				leader = s
			}
		}
		return fmt.Sprint(uid, err), leader != nil
	})
	return leader
}
