//go:build integration

package integration

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"stolon/internal/cluster"
	"stolon/internal/keeper"
	"stolon/internal/postgresql"
	"stolon/internal/postgresql/conf"
	"stolon/internal/postgresql/wal"
)

var _ keeper.Instance = (*postgresql.Instance)(nil)

// asPostgres reports whether the test shall go on in this process. PostgreSQL
// refuses to run as root: then the test runs again in a process of the user
// postgres, and this one passes on its outcome.
func asPostgres(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		return true
	}
	who, err := user.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(who.Uid)
	gid, _ := strconv.Atoi(who.Gid)
	dir, err := os.MkdirTemp("", "stolon-postgresql-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "test")
	copyProgram(t, program)
	cmd := exec.Command(program, "-test.v", "-test.run", "^"+t.Name()+"$")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)},
		Pdeathsig:  syscall.SIGTERM,
	}
	out, err := cmd.CombinedOutput()
	t.Logf("as user postgres:\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
	return false
}

func copyProgram(t *testing.T, to string) {
	t.Helper()
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, from); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// node is an instance under test and what it is to be started with.
type node struct {
	*postgresql.Instance
	t       *testing.T
	options postgresql.Options
	roles   postgresql.Roles
	method  string
	logs    *observer.ObservedLogs
	user    map[string]string // parameters
	sync    string            // synchronous_standby_names
}

func binDir(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("STOLON_TEST_PG_BIN"); dir != "" {
		return dir
	}
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(dirs) > 0 {
		return dirs[len(dirs)-1]
	}
	return ""
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func newNode(t *testing.T, name string, roles postgresql.Roles, method string) *node {
	t.Helper()
	core, logs := observer.New(zapcore.InfoLevel)
	dir := filepath.Join(t.TempDir(), name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	socket, err := os.MkdirTemp("", "s") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(socket) })
	n := &node{t: t, roles: roles, method: method, logs: logs, options: postgresql.Options{
		DataDir: filepath.Join(dir, "postgres"), BinDir: binDir(t), SocketDir: socket, Port: freePort(t),
		Superuser: roles.Superuser, SuperuserPassword: roles.SuperuserPassword, Log: zap.New(core),
	}}
	n.Instance = n.another()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := n.Stop(ctx, postgresql.Immediate); err != nil {
			t.Error(err)
		}
	})
	return n
}

// another is a second view of the same instance, as a restarted keeper has.
func (n *node) another() *postgresql.Instance {
	n.t.Helper()
	i, err := postgresql.New(n.options)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(i.Close)
	return i
}

func (n *node) config(r *conf.Recovery) conf.Config {
	params, _ := conf.Parameters(conf.ParametersInput{
		User: n.user, ListenAddress: "127.0.0.1", Port: n.options.Port, SocketDir: n.options.SocketDir,
		MaxStandbys: 5, AdditionalWalSenders: 5, UsePgrewind: true, SyncNames: n.sync,
	})
	return conf.Config{Parameters: params, Recovery: r, HBA: conf.HBA(conf.HBAInput{
		Superuser:   conf.HBALogin{User: n.roles.Superuser, Method: n.method},
		Replication: conf.HBALogin{User: n.roles.Replication, Method: n.method},
		Users:       []string{"host all all 127.0.0.1/32 " + n.method},
	})}
}

// behind is the recovery of a standby of n that is called name.
func (n *node) behind(name string) *conf.Recovery {
	return &conf.Recovery{
		Standby: true, TargetTimeline: "latest", PrimarySlotName: conf.SlotName(name),
		PrimaryConninfo: conf.Primary{
			Host: "127.0.0.1", Port: n.options.Port, User: n.roles.Replication, Password: n.roles.ReplicationPassword,
			ApplicationName: conf.ApplicationName(name),
		}.Conninfo(),
	}
}

func (n *node) source(superuser bool, slot string) postgresql.Source {
	s := postgresql.Source{Host: "127.0.0.1", Port: n.options.Port, User: n.roles.Replication, Password: n.roles.ReplicationPassword,
		ApplicationName: "stolon_copy", Slot: slot}
	if superuser {
		s.User, s.Password, s.Slot = n.roles.Superuser, n.roles.SuperuserPassword, ""
	}
	return s
}

func short(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) look() postgresql.Look {
	n.t.Helper()
	l, err := n.Look(short(n.t))
	n.must(err)
	return l
}

func (n *node) sample() postgresql.Sample {
	n.t.Helper()
	s, err := n.Sample(short(n.t))
	n.must(err)
	return s
}

func (n *node) start(r *conf.Recovery) {
	n.t.Helper()
	n.must(n.Start(short(n.t), n.config(r), false))
	n.must(n.Ready(short(n.t)))
}

// initialise makes a primary as a keeper does: first start, roles, restart.
func (n *node) initialise(c cluster.NewConfig) {
	n.t.Helper()
	ctx := short(n.t)
	n.must(n.InitDB(ctx, postgresql.InitDB{Superuser: n.roles.Superuser, Password: n.roles.SuperuserPassword, Config: c}))
	n.must(n.Start(ctx, n.config(nil), true))
	n.must(n.Ready(ctx))
	n.must(n.SetRoles(ctx, n.roles))
	n.must(n.Stop(ctx, postgresql.Fast))
	n.start(nil)
}

// query asks as the superuser by TCP, as a client would.
func (n *node) query(query string) string {
	n.t.Helper()
	connector, err := pq.NewConnector(conf.Conninfo(map[string]string{
		"host": "127.0.0.1", "port": n.options.Port, "user": n.roles.Superuser, "password": n.roles.SuperuserPassword,
		"dbname": "postgres", "sslmode": "disable", "connect_timeout": "10",
	}))
	n.must(err)
	db := sql.OpenDB(connector)
	defer db.Close()
	var v sql.NullString
	if err := db.QueryRow(query).Scan(&v); err != nil && err != sql.ErrNoRows {
		n.t.Fatalf("%s: %v", query, err)
	}
	return v.String
}

func (n *node) await(what string, ok func() bool) {
	n.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			n.t.Fatalf("in 30s: not %s", what)
		}
	}
}

func (n *node) caughtUp(with *node) {
	n.t.Helper()
	n.await("caught up", func() bool { return n.sample().Replayed >= with.sample().Position })
}

var awkward = `p w'o"r\d:é%`

func TestAnInstanceLives(t *testing.T) {
	if !asPostgres(t) {
		return
	}
	for _, method := range []string{"md5", "scram-sha-256", "trust"} {
		t.Run(method, func(t *testing.T) { live(t, method) })
	}
}

func live(t *testing.T, method string) {
	roles := postgresql.Roles{Superuser: `su per`, Replication: `re pl'1`}
	if method != "trust" {
		roles.SuperuserPassword, roles.ReplicationPassword = awkward+"1", awkward+"2"
	}
	ctx := short(t)
	a := newNode(t, "a", roles, method)
	a.user = map[string]string{"log_line_prefix": `a\b 'c' %m `, "log_statement": "all"}
	if method == "md5" {
		a.user["password_encryption"] = "md5"
	}

	if l := a.look(); l != (postgresql.Look{}) {
		t.Errorf("Look at nothing = %+v", l)
	}
	if a.Exited() != nil {
		t.Error("Exited is not nil when nothing runs")
	}
	a.must(a.Stop(ctx, postgresql.Fast))
	if major, _, err := a.Version(ctx); err != nil || conf.CheckVersion(major) != nil {
		t.Errorf("Version = %d, %v", major, err)
	}
	a.initialise(cluster.NewConfig{Encoding: "UTF8", Locale: "C", DataChecksums: true})
	wantRoles(t, a, method)
	if err := a.InitDB(ctx, postgresql.InitDB{Superuser: "x"}); err == nil {
		t.Error("InitDB over a data directory succeeds")
	}
	a.must(a.SetRoles(ctx, roles)) // again: they are updated

	l := a.look()
	if !l.Running || !l.Initialized || l.StandbySignal || l.State != postgresql.InProduction || l.CheckpointTimeline != 1 {
		t.Errorf("Look at a primary = %+v", l)
	}
	controlData(t, a, l)
	s := a.sample()
	if !s.Primary || s.TimelineID != 1 || s.SystemID != l.SystemID || s.Position == 0 || s.Replayed != s.Position || s.OldestWAL == "" || s.History != nil {
		t.Errorf("Sample of a primary = %+v", s)
	}
	if got := s.FileParameters["log_line_prefix"]; got != a.user["log_line_prefix"] {
		t.Errorf("log_line_prefix = %q, want %q", got, a.user["log_line_prefix"])
	}
	if got, err := a.Show(ctx, "log_line_prefix"); err != nil || got != a.user["log_line_prefix"] {
		t.Errorf("Show(log_line_prefix) = %q, %v", got, err)
	}
	if fi, err := os.Stat(filepath.Join(a.options.DataDir, "postgresql.conf")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("postgresql.conf: %v, %v", fi.Mode(), err)
	}

	// Slots.
	a.must(a.CreateSlot(ctx, conf.SlotName("b")))
	a.must(a.CreateSlot(ctx, conf.SlotName("c")))
	a.must(a.DropSlot(ctx, conf.SlotName("c")))
	slots, err := a.Slots(ctx)
	if want := []postgresql.Slot{{Name: "stolon_b", Physical: true}}; err != nil || !slices.Equal(slots, want) {
		t.Errorf("Slots = %v, %v, want %v", slots, err, want)
	}
	if err := a.CreateSlot(ctx, conf.SlotName("b")); err == nil {
		t.Error("CreateSlot of one that exists succeeds")
	}

	// A standby.
	a.query("create table t (i int)")
	a.query("insert into t values (1)")
	b := newNode(t, "b", roles, method)
	var progress []string
	b.must(os.MkdirAll(b.options.DataDir+".new/junk", 0o700)) // of an attempt before
	b.must(b.BaseBackup(ctx, a.source(false, conf.SlotName("b")), func(s string) { progress = append(progress, s) }))
	if len(progress) == 0 {
		t.Error("a base backup tells nothing")
	}
	b.start(a.behind("b"))
	if l := b.look(); !l.StandbySignal || l.State != postgresql.InArchiveRecovery || !l.Running {
		t.Errorf("Look at a standby = %+v", l)
	}
	b.caughtUp(a)
	b.await("streaming", func() bool { return b.sample().ReceiverUp })
	if s := b.sample(); s.Primary || s.TimelineID != 1 || s.SystemID != l.SystemID || s.OldestWAL == "" {
		t.Errorf("Sample of a standby = %+v", s)
	}
	if err := b.Start(ctx, b.config(nil), false); err == nil {
		t.Error("Start of a running instance succeeds")
	}

	// Synchronous: the list comes into force by a reload.
	a.sync = conf.SyncNames([]string{"b"}, nil)
	a.must(a.Reload(ctx, a.config(nil)))
	a.await("a synchronous standby", func() bool {
		rows := a.sample().Standbys
		return len(rows) == 1 && rows[0].ApplicationName == "stolon_b" && rows[0].State == "streaming" &&
			rows[0].SyncState == "sync" && rows[0].Flush > 0
	})
	a.await("list shown", func() bool { return a.sample().SyncNames == "stolon_b" })
	a.must(a.Checkpoint(ctx))
	a.must(a.Reload(ctx, func() conf.Config { a.user["max_connections"] = "77"; return a.config(nil) }()))
	if !a.sample().PendingRestart {
		t.Error("a reload is not over when Reload returns")
	}
	if got, err := a.Needed(ctx); err != nil || got["max_connections"] != 100 || len(got) != 5 {
		t.Errorf("Needed = %v, %v", got, err)
	}
	delete(a.user, "max_connections")

	// Adoption, and the notice of a killed postmaster.
	second := a.another()
	exited := second.Exited()
	if exited == nil {
		t.Fatal("a running postmaster isn't adopted")
	}
	if s, err := second.Sample(ctx); err != nil || !s.Primary {
		t.Errorf("Sample after adoption = %+v, %v", s, err)
	}
	own := a.Exited()
	a.sync = ""
	a.must(a.Reload(ctx, a.config(nil)))
	a.await("list shown", func() bool { return a.sample().SyncNames == "" })
	b.must(b.Stop(ctx, postgresql.Fast))
	a.query("insert into t values (2)") // b doesn't get it: it diverges when b is promoted
	killed := time.Now()
	a.must(unix.Kill(a.look().PID, unix.SIGKILL))
	for _, c := range []<-chan struct{}{own, exited} {
		select {
		case <-c:
		case <-time.After(5 * time.Second):
			t.Fatal("the end of the postmaster isn't noticed")
		}
	}
	if d := time.Since(killed); d > 100*time.Millisecond {
		t.Errorf("noticed the end of the postmaster after %v", d)
	}
	if l := a.look(); l.Running || l.State != postgresql.InProduction {
		t.Errorf("Look after a crash = %+v", l)
	}

	// Promotion.
	b.start(&conf.Recovery{Standby: true, TargetTimeline: "latest"})
	began := time.Now()
	b.must(b.Promote(ctx))
	t.Logf("promotion took %v", time.Since(began))
	b.must(b.Promote(ctx)) // again: nothing to do
	b.must(b.Reload(ctx, b.config(nil)))
	s = b.sample()
	if !s.Primary || s.TimelineID != 2 || len(s.History) != 1 || s.History[0].TimelineID != 1 || s.History[0].SwitchPoint == 0 {
		t.Errorf("Sample after promotion = %+v", s)
	}
	b.query("insert into t values (3)")

	// The old master comes back by pg_rewind, after its crash.
	b.must(b.CreateSlot(ctx, conf.SlotName("a")))
	a.must(a.PrepareRewind(ctx, b.source(true, "")))
	a.must(a.Rewind(ctx, b.source(true, "")))
	a.start(b.behind("a"))
	a.caughtUp(b)
	if got := a.query("select string_agg(i::text, ',' order by i) from t"); got != "1,3" {
		t.Errorf("rows after the rewind = %s, want 1,3", got)
	}
	s = a.sample()
	if s.Primary || s.TimelineID != 2 || len(s.History) != 1 || wal.LSN(s.History[0].SwitchPoint) > s.Position {
		t.Errorf("Sample after the rewind = %+v", s)
	}
	timelineWithoutReceiver(t, a, b)
}

// timelineWithoutReceiver: a standby that has passed a switch knows its
// timeline also when nobody sends it anything.
func timelineWithoutReceiver(t *testing.T, a, b *node) {
	ctx := short(t)
	b.must(b.Stop(ctx, postgresql.Fast))
	a.await("receiver lost", func() bool { return !a.sample().ReceiverUp })
	if s := a.sample(); s.TimelineID != 2 {
		t.Errorf("Sample without a receiver = %+v", s)
	}
	a.must(a.Stop(ctx, postgresql.Fast))
	if err := a.Start(ctx, a.config(nil), false); err == nil {
		t.Error("a standby's data starts as a primary")
	}
	a.start(&conf.Recovery{Standby: true, TargetTimeline: "current", RestoreCommand: new(string)})
	if s := a.sample(); s.TimelineID != 2 || s.Primary || s.ReceiverUp {
		t.Errorf("Sample of a standby of nobody = %+v", s)
	}
	a.must(a.Promote(ctx))
	if s := a.sample(); s.TimelineID != 3 || len(s.History) != 2 {
		t.Errorf("Sample after the second promotion = %+v", s)
	}
}

func wantRoles(t *testing.T, n *node, method string) {
	t.Helper()
	var told []string
	for _, e := range n.logs.All() {
		told = append(told, e.Message)
		if e.Message == "replication role created" && e.ContextMap()["role"] != n.roles.Replication {
			t.Errorf("role in the log = %v", e.ContextMap())
		}
	}
	want := []string{"setting roles", "superuser password set", "replication role created"}
	if method == "trust" {
		want = []string{"setting roles", "replication role created"}
	}
	if !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}

// controlData compares with what pg_controldata says.
func controlData(t *testing.T, n *node, l postgresql.Look) {
	t.Helper()
	cmd := exec.Command(filepath.Join(n.options.BinDir, "pg_controldata"), n.options.DataDir)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	n.must(err)
	for _, want := range []string{
		"Database system identifier: " + l.SystemID,
		"Database cluster state: " + string(l.State),
		"Latest checkpoint location: " + l.Checkpoint.String(),
		fmt.Sprintf("Latest checkpoint's TimeLineID: %d", l.CheckpointTimeline),
	} {
		if !strings.Contains(strings.Join(strings.Fields(string(out)), " "), want) {
			t.Errorf("pg_controldata doesn't say %q:\n%s", want, out)
		}
	}
}

func TestAStartThatFailsSaysSoAtOnce(t *testing.T) {
	if !asPostgres(t) {
		return
	}
	ctx := short(t)
	n := newNode(t, "n", postgresql.Roles{Superuser: "su", Replication: "su"}, "trust")
	n.initialise(cluster.NewConfig{})
	if got := n.logs.FilterMessage("replication role added to superuser").Len(); got != 1 {
		t.Errorf("told %d times of the role", got)
	}
	n.must(n.Stop(ctx, postgresql.Immediate))
	n.user = map[string]string{"no_such_parameter": "1"}
	began := time.Now()
	err := n.Start(ctx, n.config(nil), false)
	if err == nil || !strings.Contains(err.Error(), "postgres exited unexpectedly") || time.Since(began) > 2*time.Second {
		t.Errorf("Start with an unknown parameter = %v after %v", err, time.Since(began))
	}
	if n.look().Running {
		t.Error("it runs")
	}
	// A port in use is no start either.
	n.user = nil
	port, err := net.Listen("tcp", "127.0.0.1:"+n.options.Port)
	n.must(err)
	if err := n.Start(ctx, n.config(nil), false); err == nil {
		t.Error("Start with a port in use succeeds")
	}
	port.Close()
	n.start(nil)
}

// A killed postmaster leaves its backends to themselves; one in the middle of
// a statement goes on and holds the shared memory.
func TestARestartAfterTheDeathOfThePostmasterEndsItsBackends(t *testing.T) {
	if !asPostgres(t) {
		return
	}
	n := newNode(t, "n", postgresql.Roles{Superuser: "su", Replication: "repl"}, "trust")
	n.initialise(cluster.NewConfig{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		cmd := exec.Command(filepath.Join(n.options.BinDir, "psql"), "-h", n.options.SocketDir, "-p", n.options.Port, "-U", "su",
			"-c", "do $$ begin for i in 1..2000000000 loop end loop; end $$", "postgres")
		_ = cmd.Run()
	}()
	n.await("busy", func() bool {
		return n.query("select count(*) from pg_stat_activity where state = 'active' and query like 'do $$%'") == "1"
	})
	exited := n.Exited()
	n.must(unix.Kill(n.look().PID, unix.SIGKILL))
	<-exited
	began := time.Now()
	n.start(nil)
	if d := time.Since(began); d > 1500*time.Millisecond {
		t.Errorf("ready %v after the death", d)
	} else {
		t.Logf("ready %v after the death", d)
	}
	<-done
}

// A server that is stopped keeps nobody longer than he wants to wait.
func TestAStoppedServerHoldsNobody(t *testing.T) {
	if !asPostgres(t) {
		return
	}
	n := newNode(t, "n", postgresql.Roles{Superuser: "su", Replication: "repl"}, "trust")
	n.initialise(cluster.NewConfig{})
	n.sample()
	pids := n.serverProcesses()
	for _, pid := range pids {
		n.must(unix.Kill(pid, unix.SIGSTOP))
	}
	resume := func() {
		for _, pid := range pids {
			n.must(unix.Kill(pid, unix.SIGCONT))
		}
	}
	for what, f := range map[string]func(context.Context) error{
		"Sample":     func(ctx context.Context) error { _, err := n.Sample(ctx); return err },
		"Slots":      func(ctx context.Context) error { _, err := n.Slots(ctx); return err },
		"Show":       func(ctx context.Context) error { _, err := n.Show(ctx, "port"); return err },
		"Checkpoint": func(ctx context.Context) error { return n.Checkpoint(ctx) },
		"Stop":       func(ctx context.Context) error { return n.Instance.Stop(ctx, postgresql.Fast) },
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		began := time.Now()
		if err := f(ctx); err == nil || time.Since(began) > time.Second {
			t.Errorf("%s of a stopped server = %v after %v", what, err, time.Since(began))
		}
		cancel()
	}
	if !n.look().Running {
		t.Error("a stopped server doesn't run")
	}
	resume()
	<-n.Exited() // by the order above
	n.start(nil)
	n.sample()
}

func (n *node) serverProcesses() []int {
	n.t.Helper()
	pids := []int{n.look().PID}
	out, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pids[0], pids[0]))
	n.must(err)
	for _, f := range strings.Fields(string(out)) {
		pid, err := strconv.Atoi(f)
		n.must(err)
		pids = append(pids, pid)
	}
	return pids
}

// A copy that fails leaves the old data where it was; one that succeeds keeps
// it aside.
func TestABaseBackupKeepsTheOldData(t *testing.T) {
	if !asPostgres(t) {
		return
	}
	ctx := short(t)
	roles := postgresql.Roles{Superuser: "su", Replication: "repl"}
	a, b := newNode(t, "a", roles, "trust"), newNode(t, "b", roles, "trust")
	a.initialise(cluster.NewConfig{})
	b.initialise(cluster.NewConfig{})
	if err := b.BaseBackup(ctx, a.source(false, ""), nil); err == nil {
		t.Error("BaseBackup over a running instance succeeds")
	}
	b.must(b.Stop(ctx, postgresql.Fast))
	old := b.look()
	if err := b.BaseBackup(ctx, a.source(false, "no_such_slot"), nil); err == nil || !strings.Contains(err.Error(), "no_such_slot") {
		t.Errorf("BaseBackup with a slot that isn't there = %v", err)
	}
	if l := b.look(); l != old {
		t.Errorf("after a copy that failed: %+v, want %+v", l, old)
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if err := b.BaseBackup(done, a.source(false, ""), nil); err == nil {
		t.Error("BaseBackup with a context that ended succeeds")
	}
	b.must(b.BaseBackup(ctx, a.source(false, ""), nil))
	l := b.look()
	if l.SystemID != a.look().SystemID || !l.Aside {
		t.Errorf("after the copy: %+v", l)
	}
	b.must(b.DropAside(ctx))
	if b.look().Aside {
		t.Error("still there after DropAside")
	}
	names, err := filepath.Glob(b.options.DataDir + ".*")
	if err != nil || len(names) > 0 {
		t.Errorf("left behind: %v", names)
	}
}
