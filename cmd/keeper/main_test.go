package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	"stolon/internal/flagutil/flagtest"
	"stolon/internal/keeper"
	"stolon/internal/log"
)

func TestFlagsAreThoseOf017(t *testing.T) { flagtest.Check(t, command(io.Discard), "STKEEPER") }

func TestCommandLine(t *testing.T) {
	cluster := []string{"--cluster-name", "c", "--store-backend", "etcdv3", "--data-dir", "/nowhere"}
	tests := []struct {
		args []string
		env  map[string]string
		code int
		want string // on stderr, or stdout with code 0
	}{
		{[]string{"--version"}, nil, 0, "stolon-keeper version No version defined at build time\n"},
		{[]string{"--help"}, nil, 0, "--can-be-master"},
		{nil, nil, 1, "data dir required (--data-dir)"},
		{[]string{"--data-dir", "x", "ignored"}, nil, 1, "cluster name required (--cluster-name)"},
		{nil, map[string]string{"STKEEPER_DATA_DIR": "x", "STKEEPER_CLUSTER_NAME": "c"}, 1, "store backend type required (--store-backend"},
		{[]string{"--data-dir", "x", "--cluster-name", "c", "--store-backend", "kubernetes"}, nil, 1, "not supported"},
		{append(cluster, "--log-level", "loud"), nil, 1, "invalid log level: loud"},
		{append(cluster, "--nope"), nil, 1, "Error: unknown flag: --nope\nUsage:"},
		{append(cluster, "--can-be-master=perhaps"), nil, 1, "Error: invalid argument \"perhaps\""},
		{nil, map[string]string{"STKEEPER_STORE_TIMEOUT": "5"}, 1, `invalid value "5" for STKEEPER_STORE_TIMEOUT`},
		{append(cluster, "--store-timeout", "0"), nil, 1, "--store-timeout must be positive"},
		{[]string{"--id", "a"}, nil, 1, "Flag --id has been deprecated, please use --uid\n"},
	}
	if os.Geteuid() == 0 {
		tests = append(tests, tests[0])
		last := &tests[len(tests)-1]
		last.args, last.code, last.want = cluster, 1, "must not run as root"
	}
	for _, tt := range tests {
		var out, errout bytes.Buffer
		code := run(tt.args, func(k string) string { return tt.env[k] }, &out, &errout)
		if code != tt.code || !strings.Contains(map[bool]string{true: out.String(), false: errout.String()}[code == 0], tt.want) {
			t.Errorf("stolon-keeper %q, env %q: exit code %d, stdout %q, stderr %q; want %d and %q", tt.args, tt.env, code, out.String(), errout.String(), tt.code, tt.want)
		}
		if code != 0 && strings.Count(errout.String(), "\tFATAL\t") != 1 {
			t.Errorf("stolon-keeper %q: stderr %q, want one fatal line", tt.args, errout.String())
		}
	}
	if _, err := os.Stat("/nowhere"); err == nil {
		t.Error("the data dir was made although something else was wrong")
	}
}

// valid are options that pass checkLogins.
func valid() *options {
	o := &options{listenAddress: "10.0.0.1", port: "5432"}
	o.repl = login{kind: "repl", name: "replication user", user: "repl", method: "md5", password: "r"}
	o.su = login{kind: "su", name: "superuser", user: "su", method: "md5", password: "s"}
	return o
}

func logger() (*zap.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return log.New(&b, zap.InfoLevel, false), &b
}

func passwordFile(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(name, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestLogins(t *testing.T) {
	trust := func(l *login) { l.method, l.password = "trust", "" }
	tests := []struct {
		name    string
		edit    func(*options)
		err     string
		warning string
	}{
		{"both with passwords", func(*options) {}, "", ""},
		{"scram-sha-256 is a method", func(o *options) { o.repl.method, o.su.method = "scram-sha-256", "scram-sha-256" }, "", ""},
		{"repl method", func(o *options) { o.repl.method = "password"; o.repl.user = "" }, "--pg-repl-auth-method must be one of: md5, scram-sha-256, cert, trust", ""},
		{"repl user", func(o *options) { o.repl.user = "" }, "--pg-repl-username is required", ""},
		{"repl trust", func(o *options) { trust(&o.repl) }, "", "not utilizing a password for the replication user"},
		{"su trust", func(o *options) { trust(&o.su) }, "", "not utilizing a password for the superuser"},
		{"repl trust with password", func(o *options) { o.repl.method = "trust" }, "can not utilize --pg-repl-auth-method trust together with --pg-repl-password or --pg-repl-passwordfile", ""},
		{"su trust with file", func(o *options) { trust(&o.su); o.su.file = "x" }, "can not utilize --pg-su-auth-method trust together with --pg-su-password or --pg-su-passwordfile", ""},
		{"no repl password", func(o *options) { o.repl.password = "" }, "one of --pg-repl-password or --pg-repl-passwordfile is required", ""},
		{"two repl passwords", func(o *options) { o.repl.file = "x" }, "only one of --pg-repl-password or --pg-repl-passwordfile must be provided", ""},
		{"su method", func(o *options) { o.su.method = "password" }, "--pg-su-auth-method must be one of: md5, scram-sha-256, cert, trust", ""},
		{"no su password", func(o *options) { o.su.password = "" }, "one of --pg-su-password or --pg-su-passwordfile is required", ""},
		{"two su passwords", func(o *options) { o.su.file = "x" }, "only one of --pg-su-password or --pg-su-passwordfile must be provided", ""},
		{"no such repl file", func(o *options) { o.repl.password, o.repl.file = "", "/nowhere/x" }, "cannot read pg replication user password: stat /nowhere/x", ""},
		{"no such su file", func(o *options) { o.su.password, o.su.file = "", "/nowhere/x" }, "cannot read pg superuser password: stat /nowhere/x", ""},
		{"empty su file", func(o *options) { o.su.password, o.su.file = "", passwordFile(t, "", 0o600) }, "--pg-su-passwordfile", ""},
		{"su password with newline", func(o *options) { o.su.password = "s\r\n" }, "", "superuser password contain trailing new line, removing"},
		{"repl file with newline", func(o *options) { o.repl.password, o.repl.file = "", passwordFile(t, "r\n", 0o600) }, "", "replication user password contain trailing new line, removing"},
		{"su password of newlines", func(o *options) { o.su.password = "\n\n" }, "superuser password is empty after removing trailing new line", "removing"},
		{"repl password of newlines", func(o *options) { o.repl.password = "\n" }, "replication user password is empty after removing trailing new line", "removing"},
		{"open file", func(o *options) { o.repl.password, o.repl.file = "", passwordFile(t, "r", 0o644) }, "", "password file permissions are too open"},
		{"cert without a certificate", func(o *options) { o.repl.method = "cert" }, "--pg-repl-auth-method cert needs --pg-repl-sslcert and --pg-repl-sslkey", ""},
		{"a certificate without a key", func(o *options) { o.tls.mode, o.su.cert = "require", passwordFile(t, "c", 0o644) }, "--pg-su-sslcert and --pg-su-sslkey belong together", ""},
		{"a certificate without TLS", func(o *options) {
			o.su.cert, o.su.key = passwordFile(t, "c", 0o644), passwordFile(t, "k", 0o600)
		}, "--pg-su-sslcert needs --pg-sslmode require, verify-ca or verify-full", ""},
		{"a key for everybody", func(o *options) {
			o.tls.mode, o.su.cert, o.su.key = "require", passwordFile(t, "c", 0o644), passwordFile(t, "k", 0o644)
		}, "which others can read; chmod 0600 it", ""},
		{"no such key", func(o *options) {
			o.tls.mode, o.su.cert, o.su.key = "require", passwordFile(t, "c", 0o644), "/nowhere/key"
		}, "--pg-su-sslkey: open /nowhere/key", ""},
		{"cert", func(o *options) {
			o.tls.mode, o.su.method, o.su.cert, o.su.key = "require", "cert", passwordFile(t, "c", 0o644), passwordFile(t, "k", 0o600)
		}, "", ""},
		{"cert of a superuser who is nobody here", func(o *options) {
			o.tls.mode, o.su.method, o.su.cert, o.su.key = "require", "cert", passwordFile(t, "c", 0o644), passwordFile(t, "k", 0o600)
			o.su.password = ""
		}, "give --pg-su-passwordfile", ""},
		{"one user", func(o *options) { o.repl.user, o.repl.password = "su", "s" }, "", "superuser name and replication user name are the same"},
		{"one user, two methods", func(o *options) { o.repl.user, o.repl.password, o.repl.method = "su", "s", "scram-sha-256" }, "do not support different auth methods when utilizing superuser for replication.", ""},
		{"one user, two passwords", func(o *options) { o.repl.user = "su" }, "provided superuser name and replication user name are the same but provided passwords are different", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := valid()
			tt.edit(o)
			l, logged := logger()
			err := o.checkLogins(l)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("checkLogins = %v, want %q", err, tt.err)
			}
			if tt.err == "" && tt.warning == "" && logged.Len() > 0 || !strings.Contains(logged.String(), tt.warning) {
				t.Errorf("logged %q, want %q", logged, tt.warning)
			}
			if err == nil && (o.repl.method != "trust" && o.repl.password != "r" && o.repl.password != "s" || o.su.method != "trust" && o.su.password != "s") {
				t.Errorf("passwords %q and %q", o.repl.password, o.su.password)
			}
		})
	}
}

func TestTLSFlags(t *testing.T) {
	root := passwordFile(t, "x", 0o644)
	for name, tt := range map[string]struct {
		in  tls
		err string
	}{
		"the default":            {tls{mode: "prefer"}, ""},
		"verify-full":            {tls{mode: "verify-full", rootCert: root}, ""},
		"no such mode":           {tls{mode: "on"}, "--pg-sslmode must be one of: disable, allow, prefer, require, verify-ca, verify-full"},
		"nothing to verify by":   {tls{mode: "verify-ca"}, "--pg-sslmode verify-ca needs --pg-sslrootcert"},
		"no such certificates":   {tls{mode: "require", rootCert: "/nowhere/ca"}, "--pg-sslrootcert: open /nowhere/ca"},
		"the mode's case counts": {tls{mode: "Require"}, "--pg-sslmode must be one of"},
	} {
		err := tt.in.check()
		if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%s: %v, want %q", name, err, tt.err)
		}
	}
}

func TestALinkedPasswordFileIsJudgedByItsTarget(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link") // a link's own mode is 0777
	if err := os.Symlink(passwordFile(t, "r", 0o600), link); err != nil {
		t.Fatal(err)
	}
	o := valid()
	o.repl.password, o.repl.file = "", link
	l, logged := logger()
	if err := o.checkLogins(l); err != nil || logged.Len() > 0 {
		t.Errorf("checkLogins = %v, logged %q", err, logged)
	}
}

func TestAddresses(t *testing.T) {
	tests := []struct{ listen, advertise, want, err, warning string }{
		{"", "", "", "--pg-listen-address is required", ""},
		{"10.0.0.1", "", "10.0.0.1", "", ""},
		{"*", "10.0.0.1", "10.0.0.1", "", ""},
		{"*", "", "", "--pg-advertise-address", ""},
		{"0.0.0.0", "", "0.0.0.0", "", "loopback"},
		{"127.0.0.1", "", "127.0.0.1", "", "loopback"},
		{"::1", "", "::1", "", "loopback"},
		{"localhost", "", "localhost", "", "is not an ip address but a hostname"},
		{"10.0.0.1", "no such host", "no such host", "", "can't be resolved"},
	}
	for _, tt := range tests {
		o := &options{listenAddress: tt.listen, advertiseAddress: tt.advertise, port: "6000"}
		l, logged := logger()
		err := o.checkAddresses(t.Context(), l)
		if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("checkAddresses of %q, %q = %v, want %q", tt.listen, tt.advertise, err, tt.err)
		}
		if err == nil && (o.advertiseAddress != tt.want || o.advertPort != "6000") {
			t.Errorf("%q, %q is advertised as %s:%s", tt.listen, tt.advertise, o.advertiseAddress, o.advertPort)
		}
		if tt.warning == "" && logged.Len() > 0 || !strings.Contains(logged.String(), tt.warning) {
			t.Errorf("%q, %q logged %q, want %q", tt.listen, tt.advertise, logged, tt.warning)
		}
	}
}

func TestTheDataDirIsMadeAndChecked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	o := &options{dataDir: dir}
	for range 2 { // the second time it is there
		if err := o.makeDataDir(); err != nil {
			t.Fatal(err)
		}
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("made %v, %v", fi, err)
	}
	refused := func(what string) {
		t.Helper()
		if err := o.makeDataDir(); err == nil || !strings.Contains(err.Error(), "wrong data dir owner or mode") || !strings.Contains(err.Error(), "--data-dir") {
			t.Errorf("%s: makeDataDir = %v", what, err)
		}
	}
	chmod := func(name string, mode os.FileMode) {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	chmod(dir, 0o777)
	refused("a data dir for everybody")
	chmod(dir, 0o300)
	refused("a data dir that can't be read")
	chmod(dir, 0o750)
	pgdata := filepath.Join(dir, "postgres")
	if err := os.Mkdir(pgdata, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := o.makeDataDir(); err != nil {
		t.Errorf("makeDataDir = %v", err)
	}
	chmod(pgdata, 0o755)
	refused("a PostgreSQL directory for everybody")
	chmod(pgdata, 0o700)
	if os.Geteuid() == 0 {
		for _, name := range []string{pgdata, dir} {
			if err := os.Chown(name, 12345, 12345); err != nil {
				t.Fatal(err)
			}
			refused("a directory of somebody else")
		}
	}
	file := &options{dataDir: passwordFile(t, "", 0o600)}
	if err := file.makeDataDir(); err == nil || !strings.Contains(err.Error(), "cannot create data dir: ") {
		t.Errorf("a file as data dir: %v", err)
	}
}

// bin makes a directory of PostgreSQL programs that tell the version.
func bin(t *testing.T, version string, missing string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range programs {
		if name == missing {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), fmt.Appendf(nil, "#!/bin/sh\necho '%s'\n", version), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestPrograms(t *testing.T) {
	tests := []struct{ version, missing, err string }{
		{"postgres (PostgreSQL) 13.1", "", ""},
		{"postgres (PostgreSQL) 18beta1", "", ""},
		{"postgres (PostgreSQL) 12.22", "", "12"},
		{"postgres (PostgreSQL) 19.0", "", "19"},
		{"something else", "", "cannot tell the version of PostgreSQL in "},
		{"postgres (PostgreSQL) 15.1", "initdb", "program initdb is not in /"},
		{"postgres (PostgreSQL) 15.1", "postgres", "program postgres is not in /"},
	}
	for _, tt := range tests {
		o := valid()
		o.dataDir, o.binPath = t.TempDir(), bin(t, tt.version, tt.missing)
		l, _ := logger()
		err := o.checkPrograms(t.Context(), l)
		if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err) || !strings.Contains(err.Error(), "--pg-bin-path")) {
			t.Errorf("checkPrograms with %q, without %q = %v, want %q and the flag", tt.version, tt.missing, err, tt.err)
		}
	}
	t.Setenv("PATH", bin(t, "postgres (PostgreSQL) 15.1", "pg_rewind"))
	o := valid()
	o.dataDir = t.TempDir()
	l, _ := logger()
	if err := o.checkPrograms(t.Context(), l); err == nil || !strings.Contains(err.Error(), "pg_rewind is not in $PATH; --pg-bin-path must") {
		t.Errorf("checkPrograms = %v", err)
	}
}

func TestKeeperUID(t *testing.T) {
	for _, uid := range []string{"", "keeper_1", "0"} {
		if err := checkUID(uid); err != nil {
			t.Errorf("checkUID(%q) = %v", uid, err)
		}
	}
	for _, uid := range []string{"Keeper", "a-b", "a\n", "ä"} {
		if err := checkUID(uid); err == nil || !strings.Contains(err.Error(), "not valid. It can contain only lower-case letters, numbers and the underscore character") {
			t.Errorf("checkUID(%q) = %v", uid, err)
		}
	}
}

func TestTheSuperuserIsTheSystemsUserUnlessNamed(t *testing.T) {
	var l login
	if err := l.defaultUser(); err != nil || l.user == "" {
		t.Errorf("defaultUser = %v, user %q", err, l.user)
	}
	l = login{user: "me"}
	if err := l.defaultUser(); err != nil || l.user != "me" {
		t.Errorf("defaultUser = %v, user %q", err, l.user)
	}
}

func TestMethodsAreThoseOfTheKeeper(t *testing.T) {
	for _, m := range []keeper.AuthMethod{keeper.Trust, keeper.MD5, keeper.ScramSHA256} {
		if l := (&login{method: string(m)}); !l.knownMethod() || l.keeper().Method != m {
			t.Errorf("method %s is not known", m)
		}
	}
}
