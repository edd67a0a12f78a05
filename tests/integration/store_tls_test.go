//go:build integration

package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stolon/internal/store/open"
	"stolon/tests/certs"
	"stolon/tests/harness"
	"stolon/tests/servers"
)

// getOver opens the store and reads once.
func getOver(t *testing.T, conf open.Config) error {
	t.Helper()
	b, err := open.Backend(conf)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	_, err = b.Get(context.Background(), "some key")
	return err
}

func TestEtcdThatDemandsCertificates(t *testing.T) {
	t.Parallel()
	ours := certs.New(t, t.TempDir(), "ours")
	cert, key := ours.Sign("server")
	demandsCertificates(t, servers.StartEtcdTLS(t, cert, key, ours.File), ours)
}

// demandsCertificates tries what a client may say to a server that demands a
// certificate of ours and has one itself.
func demandsCertificates(t *testing.T, server *servers.Store, ours *certs.Authority) {
	t.Helper()
	theirs := certs.New(t, t.TempDir(), "theirs")
	cert, key := ours.Sign("client")
	otherCert, otherKey := theirs.Sign("client")
	tests := []struct {
		name  string
		conf  open.Config
		names string // the flag at fault; "" when the read succeeds
	}{
		{"the client's certificate and the right authority", open.Config{CAFile: ours.File, CertFile: cert, KeyFile: key}, ""},
		{"an authority that did not sign the server's", open.Config{CAFile: theirs.File, CertFile: cert, KeyFile: key}, "--store-ca-file"},
		{"the system's authorities", open.Config{CertFile: cert, KeyFile: key}, "--store-ca-file"},
		{"any server is trusted", open.Config{SkipTLSVerify: true, CertFile: cert, KeyFile: key}, ""},
		{"no client certificate", open.Config{CAFile: ours.File}, "--store-cert-file"},
		{"a client certificate that nobody knows", open.Config{CAFile: ours.File, CertFile: otherCert, KeyFile: otherKey}, "--store-cert-file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.conf.Backend, tt.conf.Endpoints, tt.conf.Timeout = server.Backend, server.Endpoint, 2*time.Second
			err := getOver(t, tt.conf)
			if tt.names == "" && err != nil || tt.names != "" && (err == nil || !strings.Contains(err.Error(), tt.names)) {
				t.Errorf("a read with %+v = %v, want %q in an error", tt.conf, err, tt.names)
			}
			if err != nil && strings.Contains(err.Error(), "does not answer") {
				t.Errorf("a read with %+v = %v, but it does", tt.conf, err)
			}
		})
	}
}

// A client whose certificate etcd refuses, or that doesn't trust etcd, goes on
// once its files hold what they should.
func TestRenewedCertificatesNeedNoRestart(t *testing.T) {
	t.Parallel()
	for _, wrong := range []string{"--store-cert-file", "--store-ca-file"} {
		t.Run(wrong, func(t *testing.T) {
			t.Parallel()
			ours, theirs := certs.New(t, t.TempDir(), "ours"), certs.New(t, t.TempDir(), "theirs")
			serverCert, serverKey := ours.Sign("server")
			cert, key := ours.Sign("client")
			etcd := servers.StartEtcdTLS(t, serverCert, serverKey, ours.File)
			otherCert, otherKey := theirs.Sign("client")
			conf := open.Config{Backend: "etcdv3", Endpoints: etcd.Endpoint, Timeout: 5 * time.Second, CAFile: ours.File, CertFile: otherCert, KeyFile: otherKey}
			renewed := map[string]string{otherCert: cert, otherKey: key}
			if wrong == "--store-ca-file" {
				conf.CAFile, conf.CertFile, conf.KeyFile = theirs.File, cert, key
				renewed = map[string]string{theirs.File: ours.File}
			}
			b, err := open.Backend(conf)
			if err != nil {
				t.Fatal(err)
			}
			closing(t, b)
			if _, err := b.Get(t.Context(), "some key"); err == nil || !strings.Contains(err.Error(), wrong) {
				t.Fatalf("a read = %v, want %s named", err, wrong)
			}
			for file, with := range renewed {
				if err := os.Rename(with, file); err != nil {
					t.Fatal(err)
				}
			}
			eventuallyNil(t, "a read with what was renewed", func() error { _, err := b.Get(t.Context(), "some key"); return err })
		})
	}
}

// A whole cluster, stolonctl included, on a store that demands certificates.
// While it runs the clients' certificate is renewed by another authority, and
// the store, restarted, takes no other: nobody needs a restart.
func TestAClusterOverTLS(t *testing.T) {
	t.Parallel()
	for backend, start := range map[string]func(testing.TB, string, string, string) *servers.Store{"etcd": servers.StartEtcdTLS, "consul": servers.StartConsulTLS} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			servedBy, first := certs.New(t, dir, "servers"), certs.New(t, dir, "clients")
			serverCert, serverKey := servedBy.Sign("server")
			cert, key := first.Sign("client")
			server := start(t, serverCert, serverKey, first.File)
			c := harness.Start(t, harness.Options{Keepers: 2, Sentinels: 2, Proxies: 1,
				TLS: &harness.TLS{Server: server, CAFile: servedBy.File, CertFile: cert, KeyFile: key}})
			db := c.Proxies[0].SQL()
			db.Query("create table rows (n int primary key)")
			db.Query("insert into rows values (1)")

			before := c.Data()
			renewClients(t, server, first, cert, key, servedBy.File)
			if out := c.Ctl("status"); !strings.Contains(out, "keeper1") {
				t.Errorf("stolonctl status with the renewed certificate:\n%s", out)
			}
			c.AwaitHealthy(soon, 2)
			if after := c.Data(); after.Cluster.Status.Master != before.Cluster.Status.Master {
				t.Errorf("the renewal cost a failover: %s, then %s", harness.Summary(before), harness.Summary(after))
			}
			db.Query("insert into rows values (2)")

			master, standbys := c.Roles()
			c.AwaitCaughtUp(soon, master, standbys...)
			master.KillBoth()
			c.AwaitAnother(soon, master)
			db.AwaitQuery(soon, "insert into rows values (3) on conflict (n) do update set n = 3 returning n", "3")
			db.AwaitQuery(soon, "select string_agg(n::text, ',' order by n) from rows", "1,2,3")
		})
	}
}

// renewClients puts a certificate of another authority in the place of the
// clients' and restarts the server so that it takes only such.
func renewClients(t *testing.T, server *servers.Store, old *certs.Authority, cert, key, serverCA string) {
	t.Helper()
	dir := t.TempDir()
	next := certs.New(t, dir, "clients")
	nextCert, nextKey := next.Sign("client")
	wasCert, wasKey := filepath.Join(dir, "was.crt"), filepath.Join(dir, "was.key")
	for _, move := range [][2]string{{cert, wasCert}, {key, wasKey}, {nextCert, cert}, {nextKey, key}, {next.File, old.File}} {
		if err := os.Rename(move[0], move[1]); err != nil {
			t.Fatal(err)
		}
	}
	server.Restart()
	conf := open.Config{Backend: server.Backend, Endpoints: server.Endpoint, Timeout: 2 * time.Second, CAFile: serverCA, CertFile: wasCert, KeyFile: wasKey}
	if err := getOver(t, conf); err == nil {
		t.Errorf("a read with the certificate of before succeeds")
	}
}
