//go:build integration

package integration

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/lib/pq"

	"stolon/internal/cluster"
	"stolon/internal/store"
	"stolon/internal/store/open"
	"stolon/tests/servers"
)

// process is one program that a test started.
type process struct {
	t    *testing.T
	name string
	path string
	args []string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of its end, once done is closed
}

func newProcess(t *testing.T, dir, name, path string, args ...string) *process {
	p := &process{t: t, name: name, path: path, args: args, log: filepath.Join(dir, name+".log")}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			p.showLog()
		}
	})
	return p
}

// start starts it, again if need be; the log goes on.
func (p *process) start() {
	p.t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd = exec.Command(p.path, p.args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatalf("start %s: %v", p.name, err)
	}
	done := make(chan struct{})
	p.done = done
	go func() { p.err = p.cmd.Wait(); close(done) }()
}

func (p *process) running() bool {
	if p.done == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *process) signal(s syscall.Signal) {
	if p.running() {
		p.cmd.Process.Signal(s)
	}
}

// stop ends it in order and waits for that.
func (p *process) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	p.awaitEnd(90 * time.Second)
}

func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	if p.done != nil {
		<-p.done
	}
}

func (p *process) awaitEnd(d time.Duration) {
	p.t.Helper()
	if p.done == nil {
		return
	}
	select {
	case <-p.done:
	case <-time.After(d):
		p.t.Fatalf("%s did not end within %s", p.name, d)
	}
}

func (p *process) logText() string {
	b, _ := os.ReadFile(p.log)
	return string(b)
}

func (p *process) showLog() {
	text := p.logText()
	const most = 12000
	if len(text) > most {
		text = "…" + text[len(text)-most:]
	}
	p.t.Logf("log of %s:\n%s", p.name, text)
}

// await polls until f returns nil.
func await(t *testing.T, d time.Duration, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(d)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s; last: %v", d, what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// never polls for d and fails as soon as f returns nil.
func never(t *testing.T, d time.Duration, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(d)
	for time.Now().Before(deadline) {
		if f() == nil {
			t.Fatalf("%s, which must not happen", what)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

const (
	superuser = "stolon"
	suPass    = `su:p\ass 'wörd`
	replUser  = "repl"
	replPass  = `re:p\l "pass`
	storeWait = "1s"
)

// fastSpec has intervals short enough for tests and long enough for two busy
// cores.
const fastSpec = `"initMode":"new","sleepInterval":"2s","failInterval":"5s","convergenceTimeout":"30s",` +
	`"proxyCheckInterval":"1s","proxyTimeout":"4s","maxStandbyLag":51200,` +
	`"pgParameters":{"fsync":"off","log_destination":"stderr","logging_collector":"false"}`

// testCluster is a cluster of real processes.
type testCluster struct {
	t         *testing.T
	dir       string
	server    *servers.Store
	store     *store.Client
	keepers   []*keeperProcess
	sentinels []*process
	proxies   []*proxyProcess
}

type keeperProcess struct {
	*process
	c       *testCluster
	uid     string
	dataDir string
	port    string
}

type proxyProcess struct {
	*process
	port string
}

// newCluster starts the store only.
func newCluster(t *testing.T) *testCluster {
	t.Helper()
	needOrdinaryUser(t)
	t.Parallel()
	c := &testCluster{t: t, dir: t.TempDir(), server: servers.StartStore(t, 1)[0]}
	b, err := open.Backend(open.Config{Backend: c.server.Backend, Endpoints: c.server.Endpoint, Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	c.store = store.NewClient(b, "stolon/cluster", "test")
	c.secret("su", suPass)
	c.secret("repl", replPass)
	return c
}

func (c *testCluster) secret(name, value string) string {
	path := filepath.Join(c.dir, name+".password")
	if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// startCluster starts a whole cluster and waits until it is healthy. spec is
// added to fastSpec.
func startCluster(t *testing.T, keepers int, spec string) *testCluster {
	t.Helper()
	c := newCluster(t)
	c.addSentinel(spec)
	c.addProxy()
	for range keepers {
		c.addKeeper()
	}
	c.awaitHealthy(keepers - 1)
	return c
}

func (c *testCluster) common() []string {
	return []string{"--cluster-name", "test", "--store-backend", c.server.Backend, "--store-endpoints", c.server.Endpoint, "--store-timeout", storeWait}
}

func specJSON(more string) string {
	if more != "" {
		more = "," + more
	}
	return "{" + fastSpec + more + "}"
}

func (c *testCluster) addSentinel(spec string) *process {
	c.t.Helper()
	file := filepath.Join(c.dir, "spec.json")
	if err := os.WriteFile(file, []byte(specJSON(spec)), 0o600); err != nil {
		c.t.Fatal(err)
	}
	p := newProcess(c.t, c.dir, fmt.Sprintf("sentinel%d", len(c.sentinels)), programs.sentinel, append(c.common(), "--initial-cluster-spec", file)...)
	c.sentinels = append(c.sentinels, p)
	p.start()
	return p
}

func (c *testCluster) addProxy(args ...string) *proxyProcess {
	c.t.Helper()
	port := strconv.Itoa(servers.Port(c.t))
	p := &proxyProcess{newProcess(c.t, c.dir, fmt.Sprintf("proxy%d", len(c.proxies)), programs.proxy,
		slices.Concat(c.common(), []string{"--port", port}, args)...), port}
	c.proxies = append(c.proxies, p)
	p.start()
	return p
}

// prepareKeeper makes a keeper that is not started yet; later args win.
func (c *testCluster) prepareKeeper(args ...string) *keeperProcess {
	c.t.Helper()
	uid := fmt.Sprintf("keeper%d", len(c.keepers))
	dir := filepath.Join(c.dir, uid)
	port := strconv.Itoa(servers.Port(c.t))
	base := append(c.common(), "--uid", uid, "--data-dir", dir, "--pg-listen-address", "127.0.0.1", "--pg-port", port,
		"--pg-su-username", superuser, "--pg-su-passwordfile", filepath.Join(c.dir, "su.password"),
		"--pg-repl-username", replUser, "--pg-repl-passwordfile", filepath.Join(c.dir, "repl.password"))
	if programs.pgbin != "" {
		base = append(base, "--pg-bin-path", programs.pgbin)
	}
	k := &keeperProcess{c: c, uid: uid, dataDir: dir, port: port}
	c.t.Cleanup(k.killPostgres) // after the keeper's own, which is registered later
	k.process = newProcess(c.t, c.dir, uid, programs.keeper, append(base, args...)...)
	c.keepers = append(c.keepers, k)
	return k
}

func (c *testCluster) addKeeper(args ...string) *keeperProcess {
	c.t.Helper()
	k := c.prepareKeeper(args...)
	k.start()
	return k
}

// setArg changes a flag for the next start.
func (k *keeperProcess) setArg(name, value string) {
	for i, a := range k.args {
		if a == name {
			k.args[i+1] = value
			return
		}
	}
	k.args = append(k.args, name, value)
}

func (k *keeperProcess) pgData() string { return filepath.Join(k.dataDir, "postgres") }

// postmaster returns the pid in postmaster.pid if that process lives, else 0.
func (k *keeperProcess) postmaster() int {
	b, err := os.ReadFile(filepath.Join(k.pgData(), "postmaster.pid"))
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil || syscall.Kill(pid, 0) != nil {
		return 0
	}
	return pid
}

// postgresPids are all processes of the instance: they work in its directory.
func (k *keeperProcess) postgresPids() []int {
	var out []int
	dirs, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, d := range dirs {
		if to, err := os.Readlink(d); err == nil && strings.HasPrefix(to, k.dataDir+"/") {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(d))); err == nil {
				out = append(out, pid)
			}
		}
	}
	return out
}

func (k *keeperProcess) signalPostgres(s syscall.Signal) {
	for _, pid := range k.postgresPids() {
		syscall.Kill(pid, s)
	}
}

func (k *keeperProcess) killPostgres() { k.signalPostgres(syscall.SIGKILL) }

// crash kills the keeper and PostgreSQL as a dying host would.
func (k *keeperProcess) crash() {
	k.signal(syscall.SIGKILL)
	k.killPostgres()
	<-k.done
}

// freeze stops the execution of the keeper and PostgreSQL.
func (k *keeperProcess) freeze() {
	k.signal(syscall.SIGSTOP)
	k.signalPostgres(syscall.SIGSTOP)
}

func (k *keeperProcess) resume() {
	k.signalPostgres(syscall.SIGCONT)
	k.signal(syscall.SIGCONT)
}

// connString connects to a port of 127.0.0.1 as the superuser.
func connString(port string) string {
	quote := func(s string) string { return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'" }
	return fmt.Sprintf("host=127.0.0.1 port=%s user=%s password=%s dbname=postgres sslmode=disable connect_timeout=3", port, superuser, quote(suPass))
}

// query runs one statement on a connection of its own and returns the rows,
// columns joined by "|".
func query(port, statement string) ([]string, error) {
	return queryAs(connString(port), statement)
}

func queryAs(conn, statement string) ([]string, error) {
	db, err := sql.Open("postgres", conn)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	rows, err := db.QueryContext(ctx, statement)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	cols, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	out := []string{}
	for rows.Next() {
		values := make([]sql.NullString, len(cols))
		into := make([]any, len(cols))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		var texts []string
		for _, v := range values {
			texts = append(texts, v.String)
		}
		out = append(out, strings.Join(texts, "|"))
	}
	return out, rows.Err()
}

func (k *keeperProcess) query(statement string) ([]string, error) { return query(k.port, statement) }

// sql runs a statement through the first proxy, once it works.
func (c *testCluster) sql(statement string) []string {
	c.t.Helper()
	var out []string
	await(c.t, 60*time.Second, "through the proxy: "+statement, func() (err error) {
		out, err = query(c.proxies[0].port, statement)
		return err
	})
	return out
}

func (c *testCluster) state() *store.State {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	st, err := c.store.State(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	return st
}

func (c *testCluster) data() *cluster.ClusterData {
	c.t.Helper()
	cd := c.state().Data
	if cd == nil || cd.Cluster == nil {
		return cluster.New("", &cluster.Spec{}, time.Time{})
	}
	return cd
}

func (c *testCluster) keeper(uid string) *keeperProcess {
	for _, k := range c.keepers {
		if k.uid == uid {
			return k
		}
	}
	return nil
}

// master returns the keeper of the elected master, nil when there is none.
func (c *testCluster) master() *keeperProcess {
	c.t.Helper()
	m := c.data().Master()
	if m == nil {
		return nil
	}
	return c.keeper(m.Spec.KeeperUID)
}

// standbys are the keepers of the dbs that aren't the master.
func (c *testCluster) standbys() []*keeperProcess {
	c.t.Helper()
	cd := c.data()
	var out []*keeperProcess
	for _, uid := range cluster.SortedKeys(cd.DBs) {
		if uid != cd.Cluster.Status.Master {
			out = append(out, c.keeper(cd.DBs[uid].Spec.KeeperUID))
		}
	}
	return out
}

// healthy tells what keeps the cluster from serving with n standbys that
// stream, and, with synchronous replication, all listed ones in sync.
func (c *testCluster) healthy(n int) error {
	cd := c.data()
	m := cd.Master()
	switch {
	case m == nil || cd.Cluster.Status.Phase != cluster.Normal:
		return errors.New("no master yet")
	case cd.Proxy.Spec.MasterDBUID != m.UID:
		return fmt.Errorf("proxies lead to %q, not to the master", cd.Proxy.Spec.MasterDBUID)
	case len(cd.DBs)-1 < n:
		return fmt.Errorf("%d dbs", len(cd.DBs))
	}
	for _, uid := range cluster.SortedKeys(cd.DBs) {
		db := cd.DBs[uid]
		if n >= len(cd.DBs)-1 && (!db.Status.Healthy || db.Status.CurrentGeneration != db.Generation) {
			return fmt.Errorf("db %s of %s: healthy %t, generation %d of %d", uid, db.Spec.KeeperUID, db.Status.Healthy, db.Status.CurrentGeneration, db.Generation)
		}
	}
	if s := m.Spec; s.SynchronousReplication && !cluster.SameSet(s.SynchronousStandbys, m.Status.SynchronousStandbys) {
		return fmt.Errorf("in sync %v of %v", m.Status.SynchronousStandbys, s.SynchronousStandbys)
	} else if set := cd.Cluster.Spec.Settings(); set.Synchronous() && n > 0 && len(s.SynchronousStandbys) < int(min(set.MaxSynchronousStandbys, uint16(n))) {
		return fmt.Errorf("synchronous standbys %v%v", s.SynchronousStandbys, s.ExternalSynchronousStandbys)
	}
	k := c.keeper(m.Spec.KeeperUID)
	rows, err := k.query("select count(*) from pg_stat_replication where state = 'streaming' and application_name like 'stolon_%'")
	if err != nil {
		return err
	}
	if got, _ := strconv.Atoi(rows[0]); got < n {
		return fmt.Errorf("%d standbys stream, want %d", got, n)
	}
	if len(c.proxies) > 0 {
		_, err = query(c.proxies[0].port, "select 1")
	}
	return err
}

func (c *testCluster) awaitHealthy(standbys int) {
	c.t.Helper()
	await(c.t, 120*time.Second, fmt.Sprintf("a healthy cluster with %d standbys", standbys), func() error { return c.healthy(standbys) })
}

// awaitMaster waits until k is the elected master, is a primary, and the
// proxy leads to it.
func (c *testCluster) awaitMaster(k *keeperProcess, d time.Duration) {
	c.t.Helper()
	await(c.t, d, k.uid+" to be master", func() error {
		if m := c.master(); m != k {
			return fmt.Errorf("the master is %v", m)
		}
		return c.leadsTo(k)
	})
}

// awaitOther waits until the master is another than k, and returns it.
func (c *testCluster) awaitOther(k *keeperProcess, d time.Duration) *keeperProcess {
	c.t.Helper()
	var m *keeperProcess
	await(c.t, d, "another master than "+k.uid, func() error {
		if m = c.master(); m == nil || m == k {
			return errors.New("no other master")
		}
		return c.leadsTo(m)
	})
	return m
}

// leadsTo asks through the proxy who answers.
func (c *testCluster) leadsTo(k *keeperProcess) error {
	rows, err := query(c.proxies[0].port, "select current_setting('port'), pg_is_in_recovery()")
	if err != nil {
		return err
	}
	if want := k.port + "|false"; rows[0] != want {
		return fmt.Errorf("the proxy leads to %s, want %s", rows[0], want)
	}
	return nil
}

// awaitSame waits until a query gives the rows on the keeper's instance.
func (k *keeperProcess) awaitRows(statement string, want ...string) {
	k.c.t.Helper()
	await(k.c.t, 60*time.Second, fmt.Sprintf("%s on %s to give %v", statement, k.uid, want), func() error {
		got, err := k.query(statement)
		if err != nil {
			return err
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("got %v", got)
		}
		return nil
	})
}

// awaitCaughtUp waits until the standby has received all that the master has
// written by now, and both have told the store so.
func (c *testCluster) awaitCaughtUp(k *keeperProcess) {
	c.t.Helper()
	var end uint64
	await(c.t, 30*time.Second, "the master's position", func() error {
		rows, err := c.master().query("select pg_current_wal_flush_lsn() - '0/0'")
		if err == nil {
			end, err = strconv.ParseUint(rows[0], 10, 64)
		}
		return err
	})
	await(c.t, 60*time.Second, k.uid+" to catch up", func() error {
		st := c.state()
		for _, uid := range []string{k.uid, st.Data.Master().Spec.KeeperUID} {
			if p := st.Keepers[uid].PostgresState; p == nil || p.XLogPos < end {
				return fmt.Errorf("%s is behind", uid)
			}
		}
		return nil
	})
}

// ctl runs stolonctl and returns its standard output.
func (c *testCluster) ctl(args ...string) (string, error) {
	cmd := exec.Command(programs.ctl, append(c.common(), args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("stolonctl %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

func (c *testCluster) mustCtl(args ...string) string {
	c.t.Helper()
	out, err := c.ctl(args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

func (c *testCluster) patch(spec string) {
	c.t.Helper()
	c.mustCtl("update", "--patch", spec)
}

func asJSON(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}
