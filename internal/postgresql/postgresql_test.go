package postgresql

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stolon/internal/postgresql/conf"
	"stolon/internal/postgresql/wal"
)

func TestNewNamesTheFieldAtFault(t *testing.T) {
	good := Options{DataDir: "/x/postgres", Port: "5432", Superuser: "su"}
	for field, edit := range map[string]func(*Options){
		"":          func(o *Options) {},
		"DataDir":   func(o *Options) { o.DataDir = "postgres" },
		"port":      func(o *Options) { o.Port = "54a" },
		"Superuser": func(o *Options) { o.Superuser = "" },
	} {
		o := good
		edit(&o)
		_, err := New(o)
		if (err == nil) != (field == "") || err != nil && !strings.Contains(err.Error(), field) {
			t.Errorf("New(%+v) = %v, want an error about %q", o, err, field)
		}
	}
}

// controlFile is the beginning of a pg_control.
func controlFile(version, state uint32, checkpoint wal.LSN, timeline uint32) []byte {
	b := make([]byte, 8192)
	order := binary.NativeEndian
	order.PutUint64(b, 7654321098765432109)
	order.PutUint32(b[8:], version)
	order.PutUint32(b[16:], state)
	order.PutUint64(b[32:], uint64(checkpoint))
	order.PutUint32(b[48:], timeline)
	return b
}

func TestParseControl(t *testing.T) {
	for n, want := range map[uint32]ControlState{
		0: OtherControlState, 1: ShutDown, 2: ShutDownInRecovery, 3: OtherControlState,
		4: InCrashRecovery, 5: InArchiveRecovery, 6: InProduction, 7: OtherControlState,
	} {
		got, err := parseControl(controlFile(1300, n, 0x16B374D848, 3))
		if want := (control{"7654321098765432109", want, 0x16B374D848, 3}); err != nil || got != want {
			t.Errorf("parseControl of state %d = %+v, %v, want %+v", n, got, err, want)
		}
	}
	for _, version := range []uint32{0, 1201, 1900} {
		if got, err := parseControl(controlFile(version, 1, 0, 1)); err == nil {
			t.Errorf("parseControl of version %d = %+v, want an error", version, got)
		}
	}
}

func FuzzParseControl(f *testing.F) {
	f.Add(controlFile(1300, 1, 1, 1)[:100])
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := parseControl(b); err == nil && c.systemID == "" {
			t.Errorf("parseControl(%x) = %+v", b, c)
		}
	})
}

func TestParsePostmasterFile(t *testing.T) {
	whole := "4711\n/data\n1700000000\n5432\n/tmp\n127.0.0.1\n 1234 5\nready   \n"
	tests := []struct {
		name, text string
		want       postmasterFile
	}{
		{"whole", whole, postmasterFile{4711, "ready"}},
		{"before it listens", "4711\n/data\n1700000000\n5432\n/tmp\n", postmasterFile{4711, ""}},
		{"half a number", "47", postmasterFile{}},
		{"empty", "", postmasterFile{}},
		{"single-user server", "-4711\n/data\n", postmasterFile{-4711, ""}},
		{"rubbish", "x\n\n\n", postmasterFile{}},
		{"a number that is none", "99999999999\n/data\n", postmasterFile{}},
	}
	for _, tt := range tests {
		if got := parsePostmasterFile(tt.text); got != tt.want {
			t.Errorf("%s: parsePostmasterFile(%q) = %+v, want %+v", tt.name, tt.text, got, tt.want)
		}
	}
}

func FuzzParsePostmasterFile(f *testing.F) {
	f.Add("4711\n/data\n1700000000\n5432\n/tmp\n127.0.0.1\n 1234 5\nready   \n")
	f.Fuzz(func(t *testing.T, text string) { parsePostmasterFile(text) })
}

// dataDir makes what looks like a data directory, in state.
func dataDir(t *testing.T, dir string, state uint32) {
	t.Helper()
	for _, part := range parts {
		path := filepath.Join(dir, part)
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		switch part {
		case "PG_VERSION":
			must(t, os.WriteFile(path, []byte("15\n"), 0o600))
		case "global/pg_control":
			must(t, os.WriteFile(path, controlFile(1300, state, 0x2000028, 1), 0o600))
		default:
			must(t, os.MkdirAll(path, 0o700))
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func instance(t *testing.T) *Instance {
	t.Helper()
	i, err := New(Options{DataDir: filepath.Join(t.TempDir(), "postgres"), Port: "5432", Superuser: "su", BinDir: "/nowhere"})
	must(t, err)
	return i
}

func TestLook(t *testing.T) {
	ctx := context.Background()
	i := instance(t)
	look := func() Look {
		t.Helper()
		l, err := i.Look(ctx)
		must(t, err)
		return l
	}
	if got := look(); got != (Look{}) {
		t.Errorf("Look at nothing = %+v", got)
	}
	dataDir(t, i.o.DataDir, 2)
	must(t, os.WriteFile(filepath.Join(i.o.DataDir, "standby.signal"), nil, 0o600))
	want := Look{Initialized: true, MajorVersion: 15, SystemID: "7654321098765432109", State: ShutDownInRecovery,
		Checkpoint: 0x2000028, CheckpointTimeline: 1, StandbySignal: true}
	if got := look(); got != want {
		t.Errorf("Look = %+v, want %+v", got, want)
	}
	// The number in a postmaster.pid that was left behind may be anybody's.
	must(t, os.WriteFile(filepath.Join(i.o.DataDir, "postmaster.pid"), []byte("1\n"+i.o.DataDir+"\n"), 0o600))
	if got := look(); got.Running {
		t.Errorf("Look with another process under the postmaster's number = %+v", got)
	}
	// One that has ended keeps PostgreSQL from starting until its parent looks.
	child := exec.Command("true")
	must(t, child.Start())
	defer child.Wait()
	must(t, os.WriteFile(filepath.Join(i.o.DataDir, "postmaster.pid"), fmt.Appendf(nil, "%d\n%s\n", child.Process.Pid, i.o.DataDir), 0o600))
	must(t, unix.Waitid(unix.P_PID, child.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)) // it has ended
	if got := look(); got.Running || got.Lingering != child.Process.Pid {
		t.Errorf("Look with a zombie, %d = %+v", child.Process.Pid, got)
	}
	must(t, child.Wait())
	if got := look(); got != want {
		t.Errorf("Look after that = %+v, want %+v", got, want)
	}
	must(t, os.Remove(filepath.Join(i.o.DataDir, "pg_xact")))
	if got := look(); got.Initialized {
		t.Errorf("Look at an incomplete data directory = %+v", got)
	}
}

func TestSignalFilesMatchTheConfig(t *testing.T) {
	tests := []struct {
		name             string
		recovery         *conf.Recovery
		standby, recover bool
	}{
		{"primary", nil, false, false},
		{"standby", &conf.Recovery{Standby: true}, true, false},
		{"recovery", &conf.Recovery{}, false, true},
	}
	for _, before := range tests {
		for _, tt := range tests {
			t.Run(before.name+" to "+tt.name, func(t *testing.T) {
				i := instance(t)
				dataDir(t, i.o.DataDir, 1)
				must(t, i.prepare(conf.Config{Recovery: before.recovery}, false))
				must(t, i.prepare(conf.Config{Recovery: tt.recovery}, false))
				l, err := lookAt(i.o.DataDir)
				must(t, err)
				if l.StandbySignal != tt.standby || l.RecoverySignal != tt.recover {
					t.Errorf("standby.signal %t, recovery.signal %t", l.StandbySignal, l.RecoverySignal)
				}
			})
		}
	}
}

func TestPrepareWritesTheFilesOf017(t *testing.T) {
	i := instance(t)
	dataDir(t, i.o.DataDir, 1)
	c := conf.Config{Parameters: map[string]string{"port": "5432"}, HBA: []string{"local all all trust"}}
	read := func(name string) string {
		t.Helper()
		fi, err := os.Lstat(filepath.Join(i.o.DataDir, name))
		must(t, err)
		if fi.Mode() != 0o600 {
			t.Errorf("mode of %s is %v", name, fi.Mode())
		}
		b, err := os.ReadFile(filepath.Join(i.o.DataDir, name))
		must(t, err)
		return string(b)
	}
	must(t, i.prepare(c, true))
	if got, want := read(firstConf), "port = '5432'\n"; got != want {
		t.Errorf("first configuration without another = %q, want %q", got, want)
	}
	must(t, i.prepare(c, false))
	must(t, i.prepare(c, true))
	if got, want := read(firstConf), "include 'postgresql.conf'\nport = '5432'\n"; got != want {
		t.Errorf("first configuration = %q, want %q", got, want)
	}
	if got, want := read("postgresql.conf"), "port = '5432'\n"; got != want {
		t.Errorf("postgresql.conf = %q, want %q", got, want)
	}
	if got, want := read("pg_hba.conf"), "local all all trust\n"; got != want {
		t.Errorf("pg_hba.conf = %q, want %q", got, want)
	}
	must(t, os.Remove(filepath.Join(i.o.DataDir, "postgresql.auto.conf")))
	must(t, os.WriteFile(filepath.Join(i.o.DataDir, "postgresql.auto.conf"), []byte("port = 1"), 0o600))
	must(t, i.prepare(c, false))
	if to, err := os.Readlink(filepath.Join(i.o.DataDir, "postgresql.auto.conf")); err != nil || to != "/dev/null" {
		t.Errorf("postgresql.auto.conf leads to %q, %v", to, err)
	}
	if left, _ := filepath.Glob(filepath.Join(i.o.DataDir, "*.tmp*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestAStandbysDataDoesNotStartAsPrimary(t *testing.T) {
	for state, name := range map[uint32]ControlState{2: ShutDownInRecovery, 5: InArchiveRecovery} {
		i := instance(t)
		dataDir(t, i.o.DataDir, state)
		must(t, os.WriteFile(filepath.Join(i.o.DataDir, "standby.signal"), nil, 0o600))
		err := i.Start(context.Background(), conf.Config{}, false)
		if err == nil || !strings.Contains(err.Error(), "promote") {
			t.Errorf("%s: Start = %v", name, err)
		}
		if !exists(filepath.Join(i.o.DataDir, "standby.signal")) {
			t.Errorf("%s: standby.signal is gone", name)
		}
	}
}

func TestSetAsideKeepsTheBestCopy(t *testing.T) {
	ctx := context.Background()
	mark := func(dir, name string) { must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600)) }
	i := instance(t)
	must(t, i.SetAside(ctx)) // nothing there

	must(t, os.MkdirAll(i.o.DataDir, 0o700))
	must(t, i.SetAside(ctx))
	if exists(i.o.DataDir) || exists(i.asideDir()) {
		t.Error("an empty directory was kept")
	}

	dataDir(t, i.o.DataDir, 1)
	mark(i.o.DataDir, "first")
	must(t, i.SetAside(ctx))
	if exists(i.o.DataDir) || !exists(filepath.Join(i.asideDir(), "first")) {
		t.Error("the data was not set aside")
	}

	must(t, os.MkdirAll(filepath.Join(i.o.DataDir, "base"), 0o700))
	must(t, i.SetAside(ctx))
	if exists(i.o.DataDir) || !exists(filepath.Join(i.asideDir(), "first")) {
		t.Error("an incomplete directory replaced a complete one")
	}

	dataDir(t, i.o.DataDir, 1)
	mark(i.o.DataDir, "second")
	must(t, i.SetAside(ctx))
	if !exists(filepath.Join(i.asideDir(), "second")) {
		t.Error("complete data did not replace what was set aside before")
	}

	must(t, i.DropAside(ctx))
	must(t, i.DropAside(ctx))
	if left, _ := filepath.Glob(i.o.DataDir + "*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestInitDBRefusesADirectoryWithSomethingInIt(t *testing.T) {
	i := instance(t)
	must(t, os.MkdirAll(filepath.Join(i.o.DataDir, "base"), 0o700))
	if err := i.InitDB(context.Background(), InitDB{Superuser: "su"}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("InitDB = %v", err)
	}
	if !exists(filepath.Join(i.o.DataDir, "base")) {
		t.Error("InitDB removed what was there")
	}
}

func walDirWith(t *testing.T, i *Instance, files map[string]string) walFiles {
	t.Helper()
	must(t, os.MkdirAll(i.walDir(), 0o700))
	for name, text := range files {
		must(t, os.WriteFile(filepath.Join(i.walDir(), name), []byte(text), 0o600))
	}
	f, err := readWALDir(i.walDir(), 16<<20)
	must(t, err)
	return f
}

func TestTimelineOfAStandbyInItsFiles(t *testing.T) {
	i := instance(t)
	files := walDirWith(t, i, map[string]string{
		"000000010000000000000002": "", "000000010000000000000003": "", "000000010000000000000004": "",
		"000000020000000000000003": "", "000000020000000000000004": "",
		"00000009000000000000000F":         "", // no history: not a timeline that this server knows
		"00000002.history":                 "1\t0/3000100\tno recovery target specified\n",
		"000000020000000000000003.partial": "", "archive_status": "",
	})
	for pos, want := range map[wal.LSN]uint64{
		0:         0,
		0x2000100: 1,
		0x3000000: 1,
		0x3000100: 1, // at the switch it has nothing of timeline 2 yet
		0x3000101: 2,
		0x4000000: 2,
		0x4000100: 2,
		0x5000001: 0, // no such segment
		0xF000100: 0,
	} {
		if got, err := i.timelineInFiles(files, pos); err != nil || got != want {
			t.Errorf("timelineInFiles(%v) = %d, %v, want %d", pos, got, err, want)
		}
	}
	if got, want := files.oldest(), "000000010000000000000002"; got != want {
		t.Errorf("oldest = %q, want %q", got, want)
	}
	if got := (walFiles{}).oldest(); got != "" {
		t.Errorf("oldest of none = %q", got)
	}
}

func TestHistoryKeepsTheLastTwoLines(t *testing.T) {
	i := instance(t)
	walDirWith(t, i, map[string]string{"00000004.history": "1\t0/10\ta\n2\t0/20\tb\n3\t0/30\tc\n"})
	got, err := i.history(4)
	if err != nil || len(got) != 2 || got[0].TimelineID != 2 || got[1].SwitchPoint != 0x30 || got[1].Reason != "c" {
		t.Errorf("history(4) = %+v, %v", got, err)
	}
	if got, err := i.history(1); got != nil || err != nil {
		t.Errorf("history(1) = %v, %v", got, err)
	}
	if got, err := i.history(3); got != nil || err == nil {
		t.Errorf("history without a file = %v, %v", got, err)
	}
}

func TestProgramsGetNoSettingsThatLeadElsewhere(t *testing.T) {
	t.Setenv("PGHOST", "elsewhere")
	t.Setenv("PGDATA", "/elsewhere")
	t.Setenv("PGSSLROOTCERT", "/ca")
	t.Setenv("STKEEPER_STORE_PASSWORD", "topsecret")
	t.Setenv("STKEEPER_STORE_PASSWORD_FILE", "/password")
	env := environment()
	if slices.Contains(env, "PGHOST=elsewhere") || slices.Contains(env, "PGDATA=/elsewhere") {
		t.Errorf("environment has %v", env)
	}
	if slices.Contains(env, "STKEEPER_STORE_PASSWORD=topsecret") {
		t.Error("environment has the keeper's password")
	}
	for _, want := range []string{"PGSSLROOTCERT=/ca", "STKEEPER_STORE_PASSWORD_FILE=/password"} {
		if !slices.Contains(env, want) {
			t.Errorf("environment lacks %s", want)
		}
	}
}

// shell is an instance whose programs are scripts.
func shell(t *testing.T, name, script string) *Instance {
	t.Helper()
	i := instance(t)
	i.o.BinDir = t.TempDir()
	must(t, os.WriteFile(filepath.Join(i.o.BinDir, name), []byte("#!/bin/sh\n"+script), 0o700))
	return i
}

func TestAProgramReadsItsSecretFromMemory(t *testing.T) {
	i := shell(t, "p", `cat /proc/self/fd/3; cat /proc/self/fd/3; stat -L -c %a:%F /proc/self/fd/3; echo "$0 $@"`)
	var lines []string
	err := i.run(context.Background(), program{name: "p", args: []string{"x"}, secret: "s3cret\n", line: func(l string) { lines = append(lines, l) }})
	want := []string{"s3cret", "s3cret", "600:regular file", filepath.Join(i.o.BinDir, "p") + " x"}
	if err != nil || !slices.Equal(lines, want) {
		t.Errorf("run = %v, told %q, want %q", err, lines, want)
	}
}

func TestAProgramsErrorTellsItsLastLinesWithoutStatements(t *testing.T) {
	i := shell(t, "p", `printf 'one\rtwo\n'; echo "STATEMENT:  ALTER USER x PASSWORD 's3cret'"; echo three >&2; exit 3`)
	err := i.run(context.Background(), program{name: "p"})
	if want := "p: exit status 3: one; two; three"; err == nil || err.Error() != want {
		t.Errorf("run = %v, want %s", err, want)
	}
}

func TestAProgramEndsWithItsContextAndTakesItsChildrenAlong(t *testing.T) {
	i := shell(t, "p", "sleep 600 & echo $!; wait")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	began := time.Now()
	var child string
	err := i.run(ctx, program{name: "p", line: func(l string) { child = l; cancel() }})
	if !errors.Is(err, context.Canceled) || time.Since(began) > 4*time.Second {
		t.Errorf("run = %v after %v", err, time.Since(began))
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + child + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("child %s lives on: %s", child, stat)
		}
	}
}

func TestPasswordsWithLineBreaksAreRefused(t *testing.T) {
	if _, err := (Source{User: "u", Password: "a\nb"}).passfile(); err == nil {
		t.Error("passfile takes a password with a line break")
	}
	if got, err := (Source{Host: "h", Port: "1", User: "u", Password: `a:\`}).passfile(); err != nil || got != `h:1:*:u:a\:\\`+"\n" {
		t.Errorf("passfile = %q, %v", got, err)
	}
	if c := (Source{Host: "h", Port: "1", User: "u", Password: "s3cret"}).conninfo("postgres"); strings.Contains(c, "s3cret") {
		t.Errorf("conninfo = %q", c)
	}
}
