package conf

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestParameters(t *testing.T) {
	base := ParametersInput{ListenAddress: "127.0.0.1", Port: "25471", MaxStandbys: 20, AdditionalWalSenders: 5}
	defaults := map[string]string{
		"unix_socket_directories": "/tmp", "wal_level": "replica", "hot_standby": "on", "wal_keep_size": "128",
		"wal_retrieve_retry_interval": "500ms", "listen_addresses": "127.0.0.1", "port": "25471",
		"max_replication_slots": "20", "max_wal_senders": "47", "synchronous_standby_names": "",
	}
	with := func(pairs ...string) map[string]string {
		out := maps.Clone(defaults)
		for i := 0; i < len(pairs); i += 2 {
			out[pairs[i]] = pairs[i+1]
		}
		return out
	}
	user := func(pairs ...string) func(*ParametersInput) {
		return func(in *ParametersInput) {
			in.User = map[string]string{}
			for i := 0; i < len(pairs); i += 2 {
				in.User[pairs[i]] = pairs[i+1]
			}
		}
	}
	tests := []struct {
		name    string
		edit    func(*ParametersInput)
		want    map[string]string
		warning string // parameter left out
	}{
		{"defaults", func(*ParametersInput) {}, with(), ""},
		{"user's parameters stay", user("work_mem", "8MB"), with("work_mem", "8MB"), ""},
		{"user's win over the previous configuration's", func(in *ParametersInput) {
			in.Previous = map[string]string{"work_mem": "1MB", "datestyle": "iso, mdy"}
			in.User = map[string]string{"work_mem": "8MB"}
		}, with("work_mem", "8MB", "datestyle", "iso, mdy"), ""},
		{"wal_level logical is the user's", user("wal_level", "logical"), with("wal_level", "logical"), ""},
		{"wal_level archive is not", user("wal_level", "archive"), with(), ""},
		{"wal_keep_size is the user's", user("wal_keep_size", "1GB"), with("wal_keep_size", "1GB"), ""},
		{"retry interval is the user's", user("wal_retrieve_retry_interval", "5s"), with("wal_retrieve_retry_interval", "5s"), ""},
		{"what the keeper manages is not", user("port", "1", "hot_standby", "off", "listen_addresses", "*",
			"unix_socket_directories", "/x", "max_wal_senders", "1", "synchronous_standby_names", "x"), with(), ""},
		{"wal_log_hints is the user's without pg_rewind", user("wal_log_hints", "on"), with("wal_log_hints", "on"), ""},
		{"pg_rewind needs wal_log_hints", func(in *ParametersInput) { in.UsePgrewind = true }, with("wal_log_hints", "on"), ""},
		{"max_wal_senders does not wrap", func(in *ParametersInput) { in.MaxStandbys, in.AdditionalWalSenders = 65535, 65535 },
			with("max_replication_slots", "65535", "max_wal_senders", "196607"), ""},
		{"no restart past the keeper under synchronous replication", func(in *ParametersInput) {
			in.Synchronous, in.SyncNames = true, FakeStandby
			in.User = map[string]string{"restart_after_crash": "on"}
		}, with("restart_after_crash", "off", "synchronous_standby_names", "stolonfakestandby"), ""},
		{"parameters of an older version are left out", user("wal_keep_segments", "20"), with(), "wal_keep_segments"},
		{"so are those that this version has dropped", func(in *ParametersInput) { in.Major, in.User = 17, map[string]string{"old_snapshot_threshold": "1h"} }, with(), "old_snapshot_threshold"},
		{"but not those that it still has", func(in *ParametersInput) { in.Major, in.User = 15, map[string]string{"old_snapshot_threshold": "1h"} },
			with("old_snapshot_threshold", "1h"), ""},
		{"nobody but the keeper chooses the primary", user("primary_conninfo", "host=x"), with(), "primary_conninfo"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := base
			tt.edit(&in)
			got, warnings := Parameters(in)
			if !maps.Equal(got, tt.want) {
				t.Errorf("Parameters(%+v) = %v, want %v, differing in %v", in, got, tt.want, Changed(got, tt.want))
			}
			var left string
			if len(warnings) > 0 {
				left = warnings[0].Parameter
			}
			if len(warnings) > 1 || left != tt.warning {
				t.Errorf("Parameters(%+v) warns of %v, want %q", in, warnings, tt.warning)
			}
		})
	}
}

func TestReportedLeavesManagedParametersOut(t *testing.T) {
	file := map[string]string{"work_mem": "8MB", "wal_level": "replica", "port": "1", "restart_after_crash": "off", "wal_retrieve_retry_interval": "500ms"}
	got := Reported(file, map[string]string{"restart_after_crash": "on"})
	want := map[string]string{"work_mem": "8MB", "wal_level": "replica", "restart_after_crash": "on"}
	if !maps.Equal(got, want) {
		t.Errorf("Reported = %v, want %v", got, want)
	}
}

func TestChangedListsAddedRemovedAndChangedNames(t *testing.T) {
	got := Changed(map[string]string{"a": "1", "b": "1", "c": "1"}, map[string]string{"a": "1", "b": "2", "d": "1"})
	if want := []string{"b", "c", "d"}; !slices.Equal(got, want) {
		t.Errorf("Changed = %v, want %v", got, want)
	}
}

func TestFileIsSortedAndEscaped(t *testing.T) {
	restore := `cp '/a b/%f' "%p"`
	c := Config{
		Parameters: map[string]string{
			"work_mem": "8MB", "archive_command": `test 'x' \ y`, "log_line_prefix": "%m\t[%p]\n", "restore_command": "false",
		},
		Recovery: &Recovery{
			Standby: true, PrimaryConninfo: `password=a\ b\'c\\d`, PrimarySlotName: "stolon_x",
			RestoreCommand: &restore, TargetTimeline: "latest",
		},
	}
	want := `archive_command = 'test ''x'' \\ y'
log_line_prefix = '%m\t[%p]\n'
work_mem = '8MB'
primary_conninfo = 'password=a\\ b\\''c\\\\d'
primary_slot_name = 'stolon_x'
recovery_target_timeline = 'latest'
restore_command = 'cp ''/a b/%f'' "%p"'
`
	if got := File(c); got != want {
		t.Errorf("File = %s\nwant %s", got, want)
	}
}

func TestFileOfAStandbyOfNobodyFollowsNobody(t *testing.T) {
	got := File(Config{
		Parameters: map[string]string{"restore_command": "cp"},
		Recovery:   &Recovery{Standby: true, TargetTimeline: "current"},
	})
	want := "primary_conninfo = ''\nprimary_slot_name = ''\nrecovery_target_timeline = 'current'\nrestore_command = ''\n"
	if got != want {
		t.Errorf("File = %s\nwant %s", got, want)
	}
}

func TestFileOfAPointInTimeRecoveryPromotesAtItsEnd(t *testing.T) {
	got := File(Config{Recovery: &Recovery{Target: map[string]string{"recovery_target_time": "2026-01-01 00:00:00+00"}}})
	for _, want := range []string{"recovery_target_time = '2026-01-01 00:00:00+00'\n", "recovery_target_action = 'promote'\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("File = %s\nwithout %s", got, want)
		}
	}
}

// unescapeFile is PostgreSQL's reading of a quoted configuration value.
func unescapeFile(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			if at := strings.IndexByte("bfnrt", s[i]); at >= 0 {
				b.WriteByte("\b\f\n\r\t"[at])
			} else {
				b.WriteByte(s[i])
			}
		case s[i] == '\'':
			i++
			b.WriteByte('\'')
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

func FuzzFileGivesEveryValueBack(f *testing.F) {
	f.Add(`a\b'c "d"` + "\n\t")
	f.Fuzz(func(t *testing.T, v string) {
		text := File(Config{Parameters: map[string]string{"x": v}})
		inner, ok := strings.CutPrefix(text, "x = '")
		inner, ok2 := strings.CutSuffix(inner, "'\n")
		if !ok || !ok2 || strings.Contains(inner, "\n") || unescapeFile(inner) != v {
			t.Errorf("File of %q = %q", v, text)
		}
	})
}

func TestConninfo(t *testing.T) {
	tests := []struct {
		name string
		p    Primary
		want string
	}{
		{"sorted, empty values left out", Primary{Host: "127.0.0.1", Port: "25472", User: "repl", ApplicationName: "stolon_d42b6112"},
			"application_name=stolon_d42b6112 host=127.0.0.1 port=25472 sslmode=prefer user=repl"},
		{"blank, quote and backslash", Primary{Host: "h", User: "r", Password: `a b'c\d`},
			`host=h password=a\ b\'c\\d sslmode=prefer user=r`},
	}
	tests = append(tests, struct {
		name string
		p    Primary
		want string
	}{"TLS", Primary{Host: "h", User: "r", TLS: TLS{Mode: "verify-full", RootCert: "/ca", Cert: "/c", Key: "/k k"}}, `host=h sslcert=/c sslkey=/k\ k sslmode=verify-full sslrootcert=/ca user=r`})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.p.Conninfo(); got != tt.want {
				t.Errorf("%+v.Conninfo() = %q, want %q", tt.p, got, tt.want)
			}
		})
	}
}

func FuzzConninfoGivesThePasswordBack(f *testing.F) {
	f.Add(`a b'c\d`)
	f.Fuzz(func(t *testing.T, password string) {
		if password == "" || strings.ContainsRune(password, 0) {
			return
		}
		value, _ := strings.CutPrefix(Conninfo(map[string]string{"password": password}), "password=")
		var b strings.Builder // as libpq reads an unquoted value
		for i := 0; i < len(value); i++ {
			if value[i] == '\\' {
				if i++; i == len(value) {
					break
				}
			} else if strings.IndexByte(" \t\n\v\f\r", value[i]) >= 0 {
				break
			}
			b.WriteByte(value[i])
		}
		if b.String() != password || value[0] == '\'' {
			t.Errorf("Conninfo of password %q = %q, read as %q", password, value, b.String())
		}
	})
}

func TestPassfileLineEscapesColonAndBackslash(t *testing.T) {
	if got, want := PassfileLine("::1", "5432", "re:pl", `p:w\d x`), `\:\:1:5432:*:re\:pl:p\:w\\d x`+"\n"; got != want {
		t.Errorf("PassfileLine = %q, want %q", got, want)
	}
}

func TestHBA(t *testing.T) {
	su, repl := HBALogin{User: "stolon", Method: "trust"}, HBALogin{User: "repl", Method: "md5"}
	local := []string{"local postgres stolon trust", "local replication repl md5"}
	everywhere := []string{
		"host all stolon 0.0.0.0/0 trust", "host all stolon ::0/0 trust",
		"host replication repl 0.0.0.0/0 md5", "host replication repl ::0/0 md5",
	}
	users := []string{"host all all 0.0.0.0/0 md5", "host all all ::0/0 md5"}
	tests := []struct {
		name string
		in   HBAInput
		want []string
	}{
		{"KEEP-HBA-1: all, no pgHBA", HBAInput{Superuser: su, Replication: repl}, slices.Concat(local, everywhere, users)},
		{"KEEP-HBA-2: all, with pgHBA", HBAInput{Superuser: su, Replication: repl, Users: []string{"host a b 10.0.0.0/8 reject"}},
			slices.Concat(local, everywhere, []string{"host a b 10.0.0.0/8 reject"})},
		{"an empty pgHBA lets nobody in", HBAInput{Superuser: su, Replication: repl, Users: []string{}}, slices.Concat(local, everywhere)},
		{"KEEP-HBA-3: strict, master", HBAInput{Superuser: su, Replication: repl, Strict: true, Others: []string{"192.168.0.3", "192.168.0.2"}},
			slices.Concat(local, []string{
				"host all stolon 192.168.0.2/32 trust", "host replication repl 192.168.0.2/32 md5",
				"host all stolon 192.168.0.3/32 trust", "host replication repl 192.168.0.3/32 md5",
			}, users)},
		{"KEEP-HBA-4: strict, standby", HBAInput{Superuser: su, Replication: repl, Strict: true}, slices.Concat(local, users)},
		{"TLS only", HBAInput{Superuser: su, Replication: repl, TLSOnly: true, SlotSync: true, InternalOnly: true}, slices.Concat(local, []string{
			"hostssl all stolon 0.0.0.0/0 trust", "hostssl all stolon ::0/0 trust",
			"hostssl replication repl 0.0.0.0/0 md5", "hostssl replication repl ::0/0 md5",
			"hostssl postgres repl 0.0.0.0/0 md5", "hostssl postgres repl ::0/0 md5",
		})},
		{"certificates", HBAInput{Superuser: HBALogin{User: "stolon", Method: "cert", Local: "peer"}, Replication: HBALogin{User: "repl", Method: "cert", Local: "md5"}, Strict: true, Others: []string{"::1"}, InternalOnly: true},
			[]string{"local postgres stolon peer", "local replication repl md5", "hostssl all stolon ::1/128 cert", "hostssl replication repl ::1/128 cert"}},
		{"internal only", HBAInput{Superuser: su, Replication: repl, Strict: true, InternalOnly: true}, local},
		{"internal only, with pgHBA", HBAInput{Superuser: su, Replication: repl, Strict: true, InternalOnly: true, Users: []string{"x"}},
			slices.Concat(local, []string{"local all,replication all reject", "host all,replication all all reject", "x"})},
		{"strict takes IPv6 addresses and host names", HBAInput{Superuser: su, Replication: repl, Strict: true, InternalOnly: true,
			Others: []string{"fd00::2", "db2.example.com", "samenet"}},
			slices.Concat(local, []string{
				"host all stolon db2.example.com trust", "host replication repl db2.example.com md5",
				"host all stolon fd00::2/128 trust", "host replication repl fd00::2/128 md5",
				`host all stolon "samenet" trust`, `host replication repl "samenet" md5`,
			})},
		{"names that mean something else are quoted", HBAInput{Superuser: HBALogin{User: "all", Method: "scram-sha-256"}, Replication: HBALogin{User: `a "b",+`, Method: "md5"}, InternalOnly: true, Strict: true},
			[]string{`local postgres "all" scram-sha-256`, `local replication "a ""b"",+" md5`}},
		{"a group sign is quoted", HBAInput{Superuser: HBALogin{User: "+dba", Method: "md5"}, Replication: HBALogin{User: "re-pl", Method: "md5"}, InternalOnly: true, Strict: true},
			[]string{`local postgres "+dba" md5`, `local replication re-pl md5`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := HBA(tt.in); !slices.Equal(got, tt.want) {
				t.Errorf("HBA(%+v) =\n%s\nwant\n%s", tt.in, strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

func TestSyncNames(t *testing.T) {
	tests := []struct {
		uids, others []string
		want         string
	}{
		{nil, nil, ""},
		{[]string{"a"}, nil, "stolon_a"},
		{nil, []string{FakeStandby}, "stolonfakestandby"},
		{[]string{"152523c0", "c3330b75"}, nil, "2 (stolon_152523c0,stolon_c3330b75)"},
		{[]string{"b", "a"}, []string{"ext"}, "3 (stolon_b,stolon_a,ext)"},
	}
	for _, tt := range tests {
		got := SyncNames(tt.uids, tt.others)
		if got != tt.want {
			t.Errorf("SyncNames(%v, %v) = %q, want %q", tt.uids, tt.others, got, tt.want)
		}
		if names, err := ParseSyncNames(got); err != nil || len(names) != len(tt.uids)+len(tt.others) {
			t.Errorf("ParseSyncNames(%q) = %v, %v", got, names, err)
		}
	}
}

func TestParseSyncNames(t *testing.T) {
	tests := []struct {
		in      string
		want    []string
		wantErr string
	}{
		{"", nil, ""},
		{"2 (stolon_a,stolon_b)", []string{"stolon_a", "stolon_b"}, ""},
		{" 2 ( stolon_a , stolon_b ) ", []string{"stolon_a", "stolon_b"}, ""},
		{"2(a,b)", []string{"a", "b"}, ""},
		{`2 ("stolon a","b,)")`, []string{`"stolon a"`, `"b,)"`}, ""},
		{"FIRST 1 (a,b)", []string{"a", "b"}, ""},
		{"any 1 (a,b)", []string{"a", "b"}, ""},
		{"a,b", []string{"a", "b"}, ""},
		{"a", []string{"a"}, ""},
		{"2 (a,b", nil, "synchronous standby string has number but lacks brackets"},
		{"2 a,b", nil, "synchronous standby string has number but lacks brackets"},
		{"x (a)", nil, `synchronous standby string "x (a)": "x" before the brackets is not a number`},
		{"a,,b", nil, "synchronous standby string has an empty name"},
	}
	for _, tt := range tests {
		got, err := ParseSyncNames(tt.in)
		if !slices.Equal(got, tt.want) || (err == nil) != (tt.wantErr == "") || err != nil && err.Error() != tt.wantErr {
			t.Errorf("ParseSyncNames(%q) = %q, %v, want %q, %q", tt.in, got, err, tt.want, tt.wantErr)
		}
	}
}

func FuzzParseSyncNames(f *testing.F) {
	f.Add("2 (a,b)")
	f.Add(`"a,b`)
	f.Fuzz(func(t *testing.T, s string) {
		names, err := ParseSyncNames(s)
		if err == nil && slices.Contains(names, "") {
			t.Errorf("ParseSyncNames(%q) = %q", s, names)
		}
	})
}

func TestParseVersion(t *testing.T) {
	tests := []struct {
		in           string
		major, minor int
	}{
		{"postgres (PostgreSQL) 9.5.7", 9, 5},
		{"postgres (PostgreSQL) 9.6.7\n", 9, 6},
		{"postgres (PostgreSQL) 10beta1", 10, 0},
		{"postgres (PostgreSQL) 10.1.2", 10, 1},
		{"postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)\n", 15, 13},
		{"postgres (Some 2 Vendor) 17.2", 17, 2},
		{"16\n", 16, 0},
	}
	for _, tt := range tests {
		in := tt.in
		major, minor, err := ParseVersion(in)
		if err != nil || major != tt.major || minor != tt.minor {
			t.Errorf("ParseVersion(%q) = %d, %d, %v, want %d, %d", in, major, minor, err, tt.major, tt.minor)
		}
	}
	for _, in := range []string{"", "postgres", "99999999999999999999"} {
		if major, minor, err := ParseVersion(in); err == nil {
			t.Errorf("ParseVersion(%q) = %d, %d, want an error", in, major, minor)
		}
	}
}

func FuzzParseVersion(f *testing.F) {
	f.Add("postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)\n")
	f.Fuzz(func(t *testing.T, s string) {
		if major, minor, err := ParseVersion(s); err == nil && (major < 0 || minor < 0) {
			t.Errorf("ParseVersion(%q) = %d, %d", s, major, minor)
		}
	})
}

func TestCheckVersion(t *testing.T) {
	for major, want := range map[int]bool{9: false, 12: false, 13: true, 15: true, 18: true, 19: false} {
		if err := CheckVersion(major); (err == nil) != want {
			t.Errorf("CheckVersion(%d) = %v", major, err)
		}
	}
}

func TestDBUIDOfNames(t *testing.T) {
	for name, want := range map[string]string{"stolon_152523c0": "152523c0", "stolon_": "", "other": "", "stolonfakestandby": ""} {
		if got, ok := DBUID(name); got != want || ok != (want != "") {
			t.Errorf("DBUID(%q) = %q, %t, want %q", name, got, ok, want)
		}
	}
}

// The lines that 0.17 wrote for the clusters of the fixtures.
func TestHBAIsWhat017Wrote(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "async.keeper0.pg_hba.conf"))
	if err != nil {
		t.Fatal(err)
	}
	c := Config{HBA: HBA(HBAInput{Superuser: HBALogin{User: "stolon", Method: "trust"}, Replication: HBALogin{User: "repl", Method: "trust"}})}
	if got := HBAFile(c); got != string(text) {
		t.Errorf("HBAFile = %s\nwant %s", got, text)
	}
}

func TestParametersAreWhat017Wrote(t *testing.T) {
	for _, tt := range []struct {
		file     string
		in       ParametersInput
		recovery *Recovery
	}{
		{"async.keeper0.postgresql.conf",
			ParametersInput{ListenAddress: "127.0.0.1", Port: "25471", MaxStandbys: 20, AdditionalWalSenders: 5},
			&Recovery{Standby: true, TargetTimeline: "latest", PrimarySlotName: SlotName("d42b6112"),
				PrimaryConninfo: Primary{Host: "127.0.0.1", Port: "25472", User: "repl", ApplicationName: ApplicationName("d42b6112")}.Conninfo()}},
		{"sync.keeper0.postgresql.conf",
			ParametersInput{ListenAddress: "127.0.0.1", Port: "25477", MaxStandbys: 20, AdditionalWalSenders: 5, UsePgrewind: true,
				Synchronous: true, SyncNames: SyncNames([]string{"152523c0", "c3330b75"}, nil)}, nil},
	} {
		t.Run(tt.file, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", tt.file))
			if err != nil {
				t.Fatal(err)
			}
			want := strings.Split(strings.TrimSpace(string(text)), "\n")
			tt.in.User = map[string]string{}
			for _, l := range want {
				name, value, _ := strings.Cut(l, " = ")
				if !Managed(name) {
					tt.in.User[name] = strings.Trim(value, "'")
				}
			}
			params, warnings := Parameters(tt.in)
			if len(warnings) > 0 {
				t.Errorf("warnings: %v", warnings)
			}
			delete(params, "wal_retrieve_retry_interval") // 0.17 leaves PostgreSQL's
			delete(params, "restart_after_crash")
			got := strings.Split(strings.TrimSpace(File(Config{Parameters: params, Recovery: tt.recovery})), "\n")
			slices.Sort(got)
			slices.Sort(want)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("File =\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}
