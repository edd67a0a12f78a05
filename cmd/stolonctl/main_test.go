package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stolon/internal/cluster"
	"stolon/internal/flagutil"
	"stolon/internal/flagutil/flagtest"
	"stolon/internal/store"
	"stolon/internal/store/memory"
)

func TestFlagsAreThoseOf017(t *testing.T) { flagtest.Check(t, (&ctl{}).root(), "STOLONCTL") }

// A bench is stolonctl on a store in memory.
type bench struct {
	t      *testing.T
	server *memory.Server
	store  *store.Client // the test's own
	hook   memory.Hook   // of stolonctl's client
	env    map[string]string
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, server: memory.New(), env: map[string]string{"STOLONCTL_CLUSTER_NAME": "bench", "STOLONCTL_STORE_BACKEND": "etcdv3"}}
	b.store = store.NewClient(b.server.Client("test", nil), "stolon/cluster", "bench")
	t.Cleanup(func() { b.store.Close() })
	return b
}

type result struct {
	code        int
	out, errout string
}

// run runs stolonctl with a cluster's flags.
func (b *bench) run(stdin string, args ...string) result {
	b.t.Helper()
	var out, errout bytes.Buffer
	code := run(args, world{
		getenv: func(k string) string { return b.env[k] },
		stdin:  strings.NewReader(stdin), stdout: &out, stderr: &errout,
		newUID: func() string { return "0badcafe" },
		now:    func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) },
		open: func(c *flagutil.Common) (*store.Client, error) {
			return store.NewClient(b.server.Client("stolonctl", b.hook), c.StorePrefix, c.ClusterName), nil
		},
	})
	return result{code, out.String(), errout.String()}
}

// ok wants success without a word on stderr.
func (b *bench) ok(stdin string, args ...string) string {
	b.t.Helper()
	r := b.run(stdin, args...)
	if r.code != 0 || r.errout != "" {
		b.t.Fatalf("stolonctl %q: exit code %d, stderr %q", args, r.code, r.errout)
	}
	return r.out
}

// fails wants exit code 1, the message on stderr, and the store unchanged.
func (b *bench) fails(message string, stdin string, args ...string) result {
	b.t.Helper()
	before := b.server.Revision()
	r := b.run(stdin, args...)
	if r.code != 1 || !strings.Contains(r.errout, message) {
		b.t.Errorf("stolonctl %q: exit code %d, stderr %q, want 1 and %q", args, r.code, r.errout, message)
	}
	if b.server.Revision() != before {
		b.t.Errorf("stolonctl %q failed and wrote", args)
	}
	return r
}

func (b *bench) put(key, value string) {
	b.t.Helper()
	if _, err := b.store.Commit(b.t.Context(), nil, []store.Op{{Key: key, Value: []byte(value)}}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) data() *cluster.ClusterData {
	b.t.Helper()
	cd, _, err := b.store.ClusterData(b.t.Context())
	if err != nil || cd == nil {
		b.t.Fatalf("cluster data %v, %v", cd, err)
	}
	return cd
}

// load puts a store of 0.17 in place.
func (b *bench) load(name string) {
	b.t.Helper()
	var kvs map[string]json.RawMessage
	if err := json.Unmarshal(testdata(b.t, name+".store.json"), &kvs); err != nil {
		b.t.Fatal(err)
	}
	for _, key := range cluster.SortedKeys(kvs) {
		var text string // a leader's uid is no JSON
		if json.Unmarshal(kvs[key], &text) != nil {
			text = string(kvs[key])
		}
		b.put(key, text)
	}
}

func testdata(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What stolonctl of 0.17 printed comes out of the same store, byte for byte.
func TestOutputIsThatOf017(t *testing.T) {
	for _, name := range []string{"async", "sync"} {
		b := newBench(t)
		b.load(name)
		for file, args := range map[string][]string{
			".status.txt":         {"status"},
			".status.json":        {"status", "-f", "json"},
			".spec.json":          {"spec"},
			".spec-defaults.json": {"spec", "--defaults"},
		} {
			if got, want := b.ok("", args...), string(testdata(t, name+file)); got != want {
				t.Errorf("%s: stolonctl %q printed\n%s\nwant\n%s", name, args, got, want)
			}
		}
		if got := b.ok("", "status", "--format=text"); got != string(testdata(t, name+".status.txt")) {
			t.Errorf("%s: status --format=text printed\n%s", name, got)
		}
	}
}

func TestStatusOfAClusterThatIsNotThereYet(t *testing.T) {
	b := newBench(t)
	b.ok("", "init", "-y")
	want := "=== Active sentinels ===\n\nNo active sentinels\n\n=== Active proxies ===\n\nNo active proxies\n\n=== Keepers ===\n\nNo keepers available\n\n\nNo cluster available\n"
	if got := b.ok("", "status"); got != want {
		t.Errorf("status printed\n%q\nwant\n%q", got, want)
	}
	var r statusReport
	out := b.ok("", "status", "-f", "json")
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.Sentinels == nil || r.Proxies == nil || r.Keepers == nil || !r.Cluster.Available {
		t.Errorf("status -f json printed %s, %v", out, err)
	}
}

func TestStatusShowsOddData(t *testing.T) {
	b := newBench(t)
	b.load("async")
	cd := b.data()
	master := cd.Cluster.Status.Master
	cd.Keepers["later"] = &cluster.Keeper{UID: "later"}
	cd.Keepers["new"] = &cluster.Keeper{UID: "new"}
	cd.DBs["new"] = &cluster.DB{UID: "new", Generation: 1, Spec: &cluster.DBSpec{KeeperUID: "new", Followers: []string{master}}}
	cd.DBs[master].Spec.Followers = []string{"gone", "new", master}
	b.put(b.store.ClusterDataKey(), string(store.Encode(cd)))
	b.put(b.store.KeeperKey("bad"), "{")
	out := b.ok("", "status")
	for _, want := range []string{"\nlater\tfalse\t(no db assigned)\tfalse\t0\t0\t\n", "\nnew\tfalse\t(unknown)\tfalse\t1\t0\t\n", "keeper1 (master)\n└─new\n\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("status printed\n%s\nwithout %q", out, want)
		}
	}
	cd.Cluster.Status.Master = "gone"
	b.put(b.store.ClusterDataKey(), string(store.Encode(cd)))
	if out := b.ok("", "status"); !strings.HasSuffix(out, "\nNo cluster available\n") {
		t.Errorf("status with a dangling master printed\n%s", out)
	}
}

func TestTheTreeShowsLevels(t *testing.T) {
	db := func(keeper string, followers ...string) *cluster.DB {
		return &cluster.DB{Spec: &cluster.DBSpec{KeeperUID: keeper, Followers: followers}}
	}
	cd := &cluster.ClusterData{DBs: map[string]*cluster.DB{"a": db("ka", "b", "c"), "b": db("kb", "d"), "c": db("kc", "e"), "d": db("kd"), "e": db("ke")}}
	var out bytes.Buffer
	printFollowers(&out, cd, "a", "", map[string]bool{})
	if want := "├─kb\n│ └─kd\n└─kc\n  └─ke\n"; out.String() != want {
		t.Errorf("tree\n%s\nwant\n%s", out.String(), want)
	}
}

func TestErrorsOfStatus(t *testing.T) {
	b := newBench(t)
	for _, format := range []string{"text", "json"} {
		if r := b.fails("nil cluster data: <nil>", "", "status", "-f", format); r.out != "" {
			t.Errorf("status -f %s of nothing printed %q", format, r.out)
		}
	}
	b.put(b.store.ClusterDataKey(), `{"formatVersion":2}`)
	b.fails("unsupported cluster data format version 2", "", "status")
	b.put(b.store.ClusterDataKey(), `{"formatVersion":1,"cluster":{"spec":{}}}`)
	b.fails("clusterdata validation failed: initMode undefined", "", "status")
	b.put(b.store.ClusterDataKey(), `{`)
	b.fails("cannot get cluster data: ", "", "status")
	b.load("async")
	b.fails("unrecognised output format yaml", "", "status", "-f", "yaml")
	b.hook = func(context.Context, memory.Request) error { return errors.New("the store is away") }
	for _, args := range [][]string{{"status"}, {"status", "-f", "json"}, {"spec"}, {"clusterdata", "read"}, {"failkeeper", "keeper0"}, {"init", "-y"}, {"update", "-p", "{}"}} {
		if r := b.fails("cannot get cluster data: ", "", args...); !strings.Contains(r.errout, "the store is away") || r.out != "" {
			t.Errorf("stolonctl %q without a store: %+v", args, r)
		}
	}
}

func TestWithoutACluster(t *testing.T) {
	b := newBench(t)
	for _, args := range [][]string{{"spec"}, {"update", "-p", "{}"}, {"promote", "-y"}, {"failkeeper", "k"}, {"removekeeper", "k"}} {
		r := b.fails("nil cluster data: <nil>", "", args...)
		if !strings.Contains(r.errout, `"bench"`) || !strings.Contains(r.errout, "stolonctl init") {
			t.Errorf("stolonctl %q says %q, which doesn't help", args, r.errout)
		}
	}
	b.fails("no cluster clusterdata available", "", "clusterdata", "read")
	b.put(b.store.ClusterDataKey(), `{"formatVersion":1}`)
	b.fails("no cluster spec available", "", "spec")
	b.env = map[string]string{}
	b.fails("cluster name required", "", "status")
	b.fails("store backend type required", "", "spec", "--cluster-name", "x")
	b.fails(`Unknown store backend: "redis"`, "", "--store-backend", "redis", "spec", "--cluster-name", "x")
	b.env["STOLONCTL_STORE_TIMEOUT"] = "5"
	b.fails(`invalid value "5" for STOLONCTL_STORE_TIMEOUT`, "", "version")
}

func TestCommandLine(t *testing.T) {
	b := newBench(t)
	b.env = nil
	if out := b.ok(""); !strings.Contains(out, "failkeeper") {
		t.Errorf("stolonctl alone printed %q", out)
	}
	if out := b.ok("", "clusterdata"); !strings.Contains(out, "write") {
		t.Errorf("stolonctl clusterdata printed %q", out)
	}
	for args, want := range map[string]string{
		"version":            "stolonctl version No version defined at build time\n",
		"version and more":   "stolonctl version No version defined at build time\n",
		"--version":          "stolonctl version No version defined at build time\n",
		"register --version": "register version No version defined at build time\n",
	} {
		if out := b.ok("", strings.Fields(args)...); out != want {
			t.Errorf("stolonctl %s printed %q, want %q", args, out, want)
		}
	}
	b.fails("Error: unknown command \"stat\" for \"stolonctl\"\nDid you mean status?\nRun 'stolonctl --help' for usage.\n", "", "stat")
	b.fails("Error: unknown flag: --nope\nUsage:", "", "status", "--nope")
	b.fails("Error: unknown shorthand flag: 'v' in -v", "", "-v")
	for args, want := range map[string]string{ // REG-C1 to REG-C5
		"register --store-backend etcdv3":                                         "cluster name required",
		"register --cluster-name c":                                               "store backend type required",
		"register --cluster-name c --store-backend etcdv3 --register-backend zoo": `unknown register backend: "zoo"`,
		"register --cluster-name c --store-backend etcdv3 --register-endpoints http://127.0.0.1:1,http://127.0.0.1:2": "consul does not support multiple endpoints: http://127.0.0.1:1,http://127.0.0.1:2",
		"register --cluster-name c --store-backend etcdv3 --register-endpoints 127.0.0.1:8500":                        "--register-endpoints",
		"register --cluster-name c --store-backend etcdv3 --log-level loud":                                           "--log-level",
	} {
		b.fails(want, "", strings.Fields(args)...)
	}
}

func TestInit(t *testing.T) {
	const overwrite = "WARNING: The databases managed by the keepers will be overwritten depending on the provided cluster spec.\n"
	const removed = "WARNING: The current cluster data will be removed\n"
	const question = "Are you sure you want to continue? [yes/no] "
	b := newBench(t)
	if out := b.ok("yes\n", "init"); out != overwrite+question {
		t.Errorf("init printed %q", out)
	}
	want := `{"formatVersion":1,"changeTime":"0001-01-01T00:00:00Z","cluster":{"uid":"0badcafe","generation":1,"changeTime":"2026-01-02T03:04:05Z",` +
		`"spec":{"additionalWalSenders":null,"additionalMasterReplicationSlots":null,"initMode":"new","pgHBA":null,"automaticPgRestart":null},"status":{"phase":"initializing"}},` +
		`"keepers":{},"dbs":{},"proxy":{"changeTime":"0001-01-01T00:00:00Z","spec":{},"status":{}}}`
	if got := string(store.Encode(b.data())); got != want {
		t.Errorf("init wrote\n%s\nwant\n%s", got, want)
	}
	before := b.server.Revision()
	if out := b.ok("no\n", "init"); out != removed+overwrite+question+"exiting\n" || b.server.Revision() != before {
		t.Errorf("init answered by no printed %q, revision %d to %d", out, before, b.server.Revision())
	}
	r := b.fails("error reading input: EOF", "y\nYES\n", "init")
	if again := "Please enter 'yes' or 'no'\n" + question; r.out != removed+overwrite+question+again+again {
		t.Errorf("init answered in other words printed %q", r.out)
	}
	if out := b.ok("", "init", "-y", `{"initMode":"new","maxStandbys":3}`); out != removed+overwrite || *b.data().Cluster.Spec.MaxStandbys != 3 {
		t.Errorf("init -y printed %q", out)
	}
	b.ok(`{"initMode":"new","maxStandbys":4}`, "init", "-y", "-f", "-")
	if *b.data().Cluster.Spec.MaxStandbys != 4 {
		t.Error("init -f - didn't read standard input")
	}
	b.ok("", "init", "-y", "--file", "testdata/sync.spec.json")
	if !*b.data().Cluster.Spec.SynchronousReplication {
		t.Error("init --file didn't read the file")
	}
	b.ok("", "init", "-y", `{"initMode":"new"}`, "--file", "ignored")
	for message, args := range map[string][]string{
		"too many arguments": {"a", "b"},
		"failed to unmarshal cluster spec: unexpected end of JSON input":     {""},
		"failed to unmarshal cluster spec: the spec is null":                 {"null"},
		"invalid cluster spec: initMode undefined":                           {"{}"},
		"cannot read file: open testdata/none: ":                             {"-f", "testdata/none"},
		"failed to unmarshal cluster spec: sleepInterval: duration: time: m": {`{"sleepInterval":5}`},
	} {
		if r := b.fails(message, "", append([]string{"init"}, args...)...); r.out != "" {
			t.Errorf("init %q asked before it looked: %q", args, r.out)
		}
	}
	if r := b.run("", "init", "-y", `{"initMode":"new","maxstandbies":1}`); r.code != 0 || !strings.Contains(r.errout, `no field "maxstandbies"`) {
		t.Errorf("init with a misspelled field: %+v", r)
	}
	b.put(b.store.ClusterDataKey(), "{")
	b.fails("cannot get cluster data: ", "", "init", "-y")
}

func TestInitDoesNotReplaceAClusterThatItDidNotSee(t *testing.T) {
	b := newBench(t)
	b.hook = func(_ context.Context, r memory.Request) error {
		if r.Kind == memory.Commit && r.Stage == memory.Before {
			b.load("async")
		}
		return nil
	}
	if r := b.run("", "init", "-y"); r.code != 1 || !strings.Contains(r.errout, "cannot update cluster data: ") {
		t.Errorf("init at the same time as another: %+v", r)
	}
	if uid := b.data().Cluster.UID; uid == "0badcafe" {
		t.Error("init wrote over the other's cluster")
	}
}

func TestUpdate(t *testing.T) {
	b := newBench(t)
	b.load("async")
	b.ok("", "update", "-p", `{"maxStandbys":3,"pgParameters":{"datestyle":null}}`)
	spec := b.data().Cluster.Spec
	if *spec.MaxStandbys != 3 || spec.PGParameters["datestyle"] != "" || spec.PGParameters["wal_level"] != "replica" {
		t.Errorf("update --patch made %+v", spec)
	}
	if got := b.data().Cluster.ChangeTime; got.Year() != 2026 || got.Month() != 1 {
		t.Errorf("change time %v", got)
	}
	b.ok(`{"initMode":"new","pgHBA":[]}`, "update", "-f", "-")
	if spec := b.data().Cluster.Spec; spec.MaxStandbys != nil || spec.PGParameters != nil || spec.PGHBA == nil {
		t.Errorf("update made %+v", spec)
	}
	for message, args := range map[string][]string{
		"too many arguments": {"{}", "{}"},
		"no cluster spec provided as argument and no file provided (--file/-f option)":                                                             {},
		"only one of cluster spec provided as argument or file must provided (--file/-f option)":                                                   {"{}", "-f", "x"},
		"cannot read file: open testdata/none: ":                                                                                                   {"-f", "testdata/none"},
		"failed to unmarshal cluster spec: ":                                                                                                       {"{"},
		"failed to patch cluster spec: failed to merge patch cluster spec: invalid JSON document":                                                  {"-p", "[]"},
		"failed to patch cluster spec: failed to unmarshal patched cluster spec: json: cannot unmarshal string into Go struct field Spec.maxStand": {"-p", `{"maxStandbys":"3"}`},
		"Cannot update cluster spec: invalid cluster spec: initMode undefined":                                                                     {"{}"},
		"Cannot update cluster spec: cannot change cluster init mode":                                                                              {"-p", `{"initMode":"existing","existingConfig":{"keeperUID":"k"}}`},
		`Cannot update cluster spec: invalid cluster spec: invalid cluster role standby when initMode is "new"`:                                    {"-p", `{"role":"standby"}`},
	} {
		b.fails(message, "", append([]string{"update"}, args...)...)
	}
	if r := b.run("", "update", "-p", `{"MaxStandby":1}`); r.code != 0 || !strings.Contains(r.errout, `no field "MaxStandby"`) {
		t.Errorf("a patch with a misspelled field: %+v", r)
	}
}

// The leading sentinel writes all the time; an edit must not get lost, nor
// undo what it wrote.
func TestEditsAreDoneAgainWhenOthersWriteInBetween(t *testing.T) {
	for _, args := range [][]string{{"update", "-p", `{"maxStandbys":3}`}, {"failkeeper", "keeper0"}, {"removekeeper", "keeper0"}} {
		b := newBench(t)
		b.load("async")
		writes := 0
		b.hook = func(_ context.Context, r memory.Request) error {
			if r.Kind == memory.Commit && r.Stage == memory.Before && writes < 5 {
				writes++
				cd := b.data()
				cd.Proxy.Generation++
				b.put(b.store.ClusterDataKey(), string(store.Encode(cd)))
			}
			return nil
		}
		before := b.data().Proxy.Generation
		b.ok("", args...)
		cd := b.data()
		if cd.Proxy.Generation != before+5 {
			t.Errorf("%q undid writes of others", args)
		}
		k := cd.Keepers["keeper0"]
		if done := map[string]bool{"update": cd.Cluster.Spec.MaxStandbys != nil, "failkeeper": k != nil && k.Status.ForceFail, "removekeeper": k == nil}[args[0]]; !done {
			t.Errorf("%q did nothing", args)
		}
	}
}

func TestKeepers(t *testing.T) {
	b := newBench(t)
	b.load("async")
	for _, command := range []string{"failkeeper", "removekeeper"} {
		b.fails("too many arguments", "", command, "a", "b")
		b.fails("keeper uid required", "", command)
		b.fails("keeper doesn't exist", "", command, "nobody")
	}
	b.fails("keeper assigned db is the current cluster master db.", "", "removekeeper", "keeper1")
	b.ok("", "failkeeper", "keeper1")
	if !b.data().Keepers["keeper1"].Status.ForceFail {
		t.Error("failkeeper did nothing")
	}
	b.ok("", "removekeeper", "keeper2")
	cd := b.data()
	if cd.Keepers["keeper2"] != nil || cd.DBOf("keeper2") != nil || len(cd.Keepers) != 2 || len(cd.DBs) != 2 {
		t.Errorf("removekeeper left keepers %q, dbs %q", cluster.SortedKeys(cd.Keepers), cluster.SortedKeys(cd.DBs))
	}
}

func TestPromote(t *testing.T) {
	b := newBench(t)
	b.load("async")
	before := b.data().Cluster.Spec
	if r := b.run("yes\n", "promote"); r.code != 0 || r.errout != "cluster spec role already set to master\n" || r.out != "Are you sure you want to continue? [yes/no] " {
		t.Errorf("promote of a master cluster: %+v", r)
	}
	if after := b.data().Cluster.Spec; !bytes.Equal(store.Encode(before), store.Encode(after)) {
		t.Errorf("promote of a master cluster changed the spec to %+v", after)
	}
	b.fails("too many arguments", "", "promote", "x")
	if out := b.ok("no\n", "promote"); !strings.HasSuffix(out, "exiting\n") {
		t.Errorf("promote answered by no printed %q", out)
	}
	b.ok("", "init", "-y", `{"initMode":"pitr","role":"standby","pitrConfig":{"dataRestoreCommand":"x"},"standbyConfig":{}}`)
	b.ok("", "promote", "--yes")
	if spec := b.data().Cluster.Spec; *spec.Role != cluster.RoleMaster || spec.StandbyConfig == nil {
		t.Errorf("promote made %+v", spec)
	}
}

func TestClusterDataReadAndWrite(t *testing.T) {
	from, to := newBench(t), newBench(t)
	from.load("sync")
	data := from.ok("", "clusterdata", "read")
	if strings.Count(data, "\n") != 1 || data != string(store.Encode(from.data()))+"\n" {
		t.Errorf("clusterdata read printed %s", data)
	}
	pretty := from.ok("", "clusterdata", "read", "--pretty")
	if !strings.HasPrefix(pretty, "{\n\t\"formatVersion\": 1,\n") {
		t.Errorf("clusterdata read --pretty printed %s", pretty)
	}
	const done = "successfully wrote cluster data into the new store\n"
	if out := to.ok(data, "clusterdata", "write"); out != done {
		t.Errorf("clusterdata write printed %q", out)
	}
	if got := to.ok("", "clusterdata", "read"); got != data {
		t.Errorf("what was written is\n%s\nnot\n%s", got, data)
	}
	to.fails("WARNING: cluster data already available use --yes to override", data, "clusterdata", "write")
	if out := to.ok(pretty, "clusterdata", "write", "-y", "-f", "-"); out != "WARNING: The current cluster data will be removed\n"+done {
		t.Errorf("clusterdata write -y printed %q", out)
	}
	for stdin, message := range map[string]string{
		"":                                 "invalid cluster data: unexpected end of JSON input",
		"{a}":                              "invalid cluster data: invalid character 'a' looking for beginning of object key string",
		"null":                             "invalid cluster data: no cluster data",
		"{}":                               "invalid cluster data: unsupported cluster data format version 0",
		`{"formatVersion":2}`:              "invalid cluster data: unsupported cluster data format version 2",
		`{"formatVersion":1}`:              "invalid cluster data: no cluster in the cluster data",
		`{"formatVersion":1,"cluster":{}}`: "invalid cluster data: no cluster spec available",
		`{"formatVersion":1,"cluster":{"spec":1}}`: "invalid cluster data: json: ",
	} {
		to.fails(message, stdin, "clusterdata", "write", "-y")
	}
	to.fails("cannot read file: open testdata/none: ", "", "clusterdata", "write", "-y", "-f", "testdata/none")

	to.hook = func(context.Context, memory.Request) error { return errors.New("the store is on fire") }
	to.fails("the store is on fire", data, "clusterdata", "write")
	to.fails("the store is on fire", data, "clusterdata", "write", "-y")
	to.hook = func(_ context.Context, r memory.Request) error {
		if r.Kind == memory.Get {
			return nil
		}
		return errors.New("the store is on fire")
	}
	to.fails("failed to write cluster data into new store: ", data, "clusterdata", "write", "-y")
}

// A store that answers nothing ends a command after some store timeouts.
func TestNoCommandHangs(t *testing.T) {
	b := newBench(t)
	b.hook = func(ctx context.Context, _ memory.Request) error {
		<-ctx.Done()
		return ctx.Err()
	}
	for _, args := range [][]string{{"status"}, {"spec"}, {"failkeeper", "k"}, {"init", "-y"}, {"clusterdata", "read"}} {
		began := time.Now()
		if r := b.run("", append(args, "--store-timeout", "10ms")...); r.code != 1 || time.Since(began) > 5*time.Second {
			t.Errorf("stolonctl %q without a store: %+v after %s", args, r, time.Since(began))
		}
	}
}
