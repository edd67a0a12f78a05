//go:build integration

package integration

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"stolon/internal/store/open"
	"stolon/tests/certs"
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

// A client whose certificate etcd refuses goes on once the files hold another.
func TestRenewedClientCertificateNeedsNoRestart(t *testing.T) {
	t.Parallel()
	ours, theirs := certs.New(t, t.TempDir(), "ours"), certs.New(t, t.TempDir(), "theirs")
	serverCert, serverKey := ours.Sign("server")
	cert, key := theirs.Sign("client")
	etcd := servers.StartEtcdTLS(t, serverCert, serverKey, ours.File)
	b, err := open.Backend(open.Config{
		Backend: "etcdv3", Endpoints: etcd.Endpoint, Timeout: 5 * time.Second, CAFile: ours.File, CertFile: cert, KeyFile: key,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.Get(context.Background(), "some key"); err == nil {
		t.Fatal("etcd took a certificate of an authority that it doesn't know")
	}
	newCert, newKey := ours.Sign("client")
	for file, with := range map[string]string{cert: newCert, key: newKey} {
		if err := os.Rename(with, file); err != nil {
			t.Fatal(err)
		}
	}
	eventuallyNil(t, "a read with the renewed certificate", func() error { _, err := b.Get(t.Context(), "some key"); return err })
}

// A client that doesn't trust etcd goes on once --store-ca-file holds who
// signed etcd's certificate.
func TestRenewedAuthoritiesNeedNoRestart(t *testing.T) {
	t.Parallel()
	ours, theirs := certs.New(t, t.TempDir(), "ours"), certs.New(t, t.TempDir(), "theirs")
	serverCert, serverKey := ours.Sign("server")
	cert, key := ours.Sign("client")
	etcd := servers.StartEtcdTLS(t, serverCert, serverKey, ours.File)
	b, err := open.Backend(open.Config{
		Backend: "etcdv3", Endpoints: etcd.Endpoint, Timeout: 5 * time.Second, CAFile: theirs.File, CertFile: cert, KeyFile: key,
	})
	if err != nil {
		t.Fatal(err)
	}
	closing(t, b)
	if _, err := b.Get(t.Context(), "some key"); err == nil {
		t.Fatal("an etcd is trusted whose authority isn't")
	}
	if err := os.Rename(ours.File, theirs.File); err != nil {
		t.Fatal(err)
	}
	eventuallyNil(t, "a read with the right authority", func() error { _, err := b.Get(t.Context(), "some key"); return err })
}
