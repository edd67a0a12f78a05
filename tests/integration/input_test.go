//go:build integration

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stolon/internal/cluster"
	"stolon/tests/harness"
)

// A wrong command line ends with status 1 and one line that names the flag at
// fault, and nothing is changed.
func TestAWrongCommandLineIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	spec := func(name, json string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(json), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const keeper, sentinel, proxy, ctl = "STKEEPER_BIN", "STSENTINEL_BIN", "STPROXY_BIN", "STCTL_BIN"
	store := []string{"--cluster-name=test", "--store-backend=etcdv3", "--store-endpoints=http://127.0.0.1:1", "--store-timeout=1s"}
	kept := append([]string{"--data-dir=" + filepath.Join(dir, "keeper"), "--pg-listen-address=127.0.0.1", "--pg-bin-path=" + harness.PGBin(),
		"--pg-su-username=su", "--pg-su-password=x", "--pg-repl-username=repl", "--pg-repl-password=y"}, store...)
	without := func(flags []string, name string) []string {
		var out []string
		for _, f := range flags {
			if !strings.HasPrefix(f, name+"=") {
				out = append(out, f)
			}
		}
		return out
	}
	with := func(flags []string, more ...string) []string { return append(append([]string{}, flags...), more...) }
	empty := t.TempDir()
	tests := []struct {
		name    string
		program string
		args    []string
		want    string
	}{
		{"unknown flag", proxy, with(store, "--no-such-flag"), "unknown flag: --no-such-flag"},
		{"unknown backend", proxy, with(without(store, "--store-backend"), "--store-backend=paper"), `Unknown store backend: "paper"`},
		{"backend that is gone", sentinel, with(without(store, "--store-backend"), "--store-backend=etcdv2"), "use --store-backend etcdv3"},
		{"no backend", sentinel, without(store, "--store-backend"), "store backend type required"},
		{"no cluster name", proxy, without(store, "--cluster-name"), "cluster name required"},
		{"bad duration", proxy, with(store, "--store-timeout=soon"), "--store-timeout"},
		{"endpoints of two schemes", proxy, with(without(store, "--store-endpoints"), "--store-endpoints=http://a:1,https://b:1"), "all the endpoints must have the same scheme"},
		{"endpoint of no scheme that we know", proxy, with(without(store, "--store-endpoints"), "--store-endpoints=ftp://a:1"), "endpoints scheme must be http or https"},
		{"log level", proxy, with(store, "--log-level=loud"), "invalid log level: loud"},
		{"negative keepalive", proxy, with(store, "--tcp-keepalive-idle=-1"), "tcp keepalive idle value must be greater or equal to 0"},
		{"no initial spec", sentinel, with(store, "--initial-cluster-spec="+filepath.Join(dir, "none")), "cannot read provided initial cluster config file"},
		{"initial spec that is no JSON", sentinel, with(store, "--initial-cluster-spec="+spec("broken", "{")), "cannot parse provided initial cluster config"},
		{"initial spec that is wrong", sentinel, with(store, "--initial-cluster-spec="+spec("wrong", `{"initMode":"new","failInterval":"-1s"}`)), "failInterval must be positive"},
		{"initial spec without a mode", sentinel, with(store, "--initial-cluster-spec="+spec("no mode", `{}`)), "initMode undefined"},
		{"no data dir", keeper, without(kept, "--data-dir"), "data dir required"},
		{"no listen address", keeper, without(kept, "--pg-listen-address"), "--pg-listen-address is required"},
		{"no replication user", keeper, without(kept, "--pg-repl-username"), "--pg-repl-username is required"},
		{"auth method", keeper, with(kept, "--pg-su-auth-method=plain"), "--pg-su-auth-method must be one of"},
		{"no password", keeper, without(kept, "--pg-su-password"), "one of --pg-su-password or --pg-su-passwordfile is required"},
		{"two passwords", keeper, with(kept, "--pg-su-passwordfile=x"), "only one of --pg-su-password or --pg-su-passwordfile must be provided"},
		{"trust and a password", keeper, with(kept, "--pg-repl-auth-method=trust"), "can not utilize --pg-repl-auth-method trust together with --pg-repl-password"},
		{"password file that isn't there", keeper, with(without(kept, "--pg-su-password"), "--pg-su-passwordfile="+filepath.Join(dir, "none")), "cannot read pg superuser password"},
		{"uid", keeper, with(kept, "--uid=Keeper-1"), `keeper uid "Keeper-1" not valid`},
		{"PostgreSQL missing", keeper, with(without(kept, "--pg-bin-path"), "--pg-bin-path="+empty), "--pg-bin-path"},
		{"PostgreSQL of another time", keeper, with(without(kept, "--pg-bin-path"), "--pg-bin-path="+fakePostgres(t, "9.4.1")), "PostgreSQL 9 is not supported"},
		{"data dir that others may write", keeper, with(without(kept, "--data-dir"), "--data-dir="+openDir(t)), "chmod"},
		{"data dir of somebody else", keeper, with(without(kept, "--data-dir"), "--data-dir=/"), "chown"},
		{"store that isn't there", ctl, with(store, "status"), "127.0.0.1:1"},
		{"status in no format that we know", ctl, with(store, "status", "-f", "xml"), ""},
		{"unknown command", ctl, with(store, "conquer"), `unknown command "conquer"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			out, code := run(t, tt.program, tt.args...)
			if code != 1 {
				t.Errorf("exit status %d, want 1; output:\n%s", code, out)
			}
			if !strings.Contains(out, tt.want) {
				t.Errorf("output has no %q:\n%s", tt.want, out)
			}
			if strings.Contains(out, "panic:") || strings.Contains(out, "goroutine ") {
				t.Errorf("a crash:\n%s", out)
			}
		})
	}
}

// run runs a program that shall end by itself.
func run(t *testing.T, env string, args ...string) (output string, code int) {
	t.Helper()
	cmd := exec.Command(os.Getenv(env), args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	_ = cmd.Wait() // the state tells
	return out.String(), cmd.ProcessState.ExitCode()
}

// fakePostgres is a directory of programs that claim to be of that version.
func fakePostgres(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"postgres", "initdb", "pg_ctl", "pg_basebackup", "pg_rewind", "pg_controldata"} {
		script := fmt.Sprintf("#!/bin/sh\necho '%s (PostgreSQL) %s'\n", name, version)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func openDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A daemon whose store is away waits for it, saying so once.
func TestADaemonWaitsForTheStore(t *testing.T) {
	t.Parallel()
	c := harness.New(t)
	c.Server.Stop()
	s, k, p := c.AddSentinel(c.WriteSpec(harness.Quick(nil))), c.AddKeeper(), c.AddProxy()
	s.Start()
	k.Start()
	p.Start()
	harness.Holds(t, 8*time.Second, "the daemons run", func() (string, bool) {
		return fmt.Sprint(s.Running(), k.Running(), p.Running()), s.Running() && k.Running() && p.Running()
	})
	for _, d := range []*harness.Process{s.Process, k.Process, p.Process} {
		if n := strings.Count(d.Log(), "\tERROR\t"); n < 1 || n > 3 {
			t.Errorf("%s has logged %d errors in 8 s, want one or few:\n%s", d.Name, n, d.Log())
		}
	}
	c.Server.Restart()
	c.AwaitHealthy(60*time.Second, 1)
}

// What stolonctl is asked wrongly changes nothing.
func TestStolonctlRefuses(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 1})
	before := asJSON(c.Data().Cluster)
	master := c.Keepers[0].UID
	tests := []struct {
		args  []string
		stdin string
		want  string
	}{
		{args: []string{"update", "--patch", `{"failInterval":"-1s"}`}, want: "failInterval must be positive"},
		{args: []string{"update", "--patch", `{"initMode":"existing","existingConfig":{"keeperUID":"x"}}`}, want: "cannot change cluster init mode"},
		{args: []string{"update", "--patch", `[]`}, want: "failed to patch cluster spec"},
		{args: []string{"update", "--patch", `{"pgParameters":{"a":1}}`}, want: "failed to"},
		{args: []string{"update", "--patch", `{"maxStandbys":-1}`}, want: "failed to"},
		{args: []string{"update", `{"failInterval":"10s"}`}, want: "initMode undefined"},
		{args: []string{"update"}, want: "no cluster spec provided as argument and no file provided"},
		{args: []string{"update", "-f", "/none"}, want: "cannot read file"},
		{args: []string{"init", "-y", `{"initMode":"new","sleepInterval":"never"}`}, want: "failed to unmarshal cluster spec"},
		{args: []string{"init", "-y", `null`}, want: ""},
		{args: []string{"init", "-y", ``}, want: ""},
		{args: []string{"init", `{"initMode":"new"}`}, stdin: "maybe\n", want: "error reading input"},
		{args: []string{"failkeeper"}, want: "keeper uid required"},
		{args: []string{"failkeeper", "nobody"}, want: "keeper doesn't exist"},
		{args: []string{"removekeeper", master}, want: "master"},
		{args: []string{"clusterdata", "write"}, stdin: `{"formatVersion":1}`, want: "use --yes to override"},
		{args: []string{"clusterdata", "write", "-y"}, stdin: `{"formatVersion":2}`, want: "unsupported"},
		{args: []string{"clusterdata", "write", "-y"}, stdin: "{a}", want: "invalid cluster data"},
		{args: []string{"status", "-f", "xml"}, want: "unrecognised output format xml"},
	}
	for _, tt := range tests {
		stdout, stderr, code := c.RunCtl(tt.stdin, tt.args...)
		if code != 1 || !strings.Contains(stderr, tt.want) {
			t.Errorf("stolonctl %q: exit status %d, stdout %q, stderr %q; want 1 and %q", tt.args, code, stdout, stderr, tt.want)
		}
	}
	// The sentinel records what it sees in Status and elsewhere; the wish and the master are the same.
	if after := asJSON(c.Data().Cluster); after != before {
		t.Errorf("the cluster has changed from\n%s to\n%s", before, after)
	}
}

// A wrong cluster name is another cluster: there is none.
func TestAnotherClusterNameIsAnotherCluster(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 1})
	_, stderr, code := c.RunCtl("", "--cluster-name=tset", "status")
	if code != 1 || !strings.Contains(stderr, "nil cluster data") {
		t.Errorf("status of no cluster: exit status %d, %q", code, stderr)
	}
	_, stderr, code = c.RunCtl("", "--cluster-name=tset", "spec")
	if code != 1 || !strings.Contains(stderr, "nil cluster data") {
		t.Errorf("spec of no cluster: exit status %d, %q", code, stderr)
	}
}

// Cluster data of another format is left alone, as is the instance.
func TestAnotherFormatVersionIsLeftAlone(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 1, Proxies: 1})
	good := c.Data()
	other := good.Clone()
	other.FormatVersion = 2
	k, pid := c.Keepers[0], c.Keepers[0].Postmaster()
	s := c.Sentinels[0]
	mark := s.Mark()
	putData(t, c, other)
	s.AwaitLog(soon, mark, "unsupported cluster data format version")
	if _, stderr, code := c.RunCtl("", "status"); code != 1 || !strings.Contains(stderr, "unsupported cluster data format version 2") {
		t.Errorf("status: exit status %d, %q", code, stderr)
	}
	time.Sleep(5 * time.Second)
	if got := k.Postmaster(); got != pid {
		t.Errorf("the postmaster is %d, no longer %d", got, pid)
	}
	putData(t, c, good)
	c.AwaitData(soon, "the format is ours again", func(cd *cluster.ClusterData) bool { return cd.Proxy.Spec.MasterDBUID != "" })
	c.AwaitHealthy(soon, 1)
}
