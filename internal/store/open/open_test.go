package open_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stolon/internal/store/dial"
	"stolon/internal/store/open"
)

// files writes a certificate, its key, and a file that is neither.
func files(t *testing.T) (cert, key, junk string) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	certDER, err := x509.CreateCertificate(rand.Reader, template, template, &priv.PublicKey, priv)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certDER})),
		write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})),
		write("junk.pem", []byte("junk"))
}

func TestBackend(t *testing.T) {
	cert, key, junk := files(t)
	tests := []struct {
		name string
		conf open.Config
		err  string // "" when it opens
	}{
		{"no backend", open.Config{}, "store backend type required"},
		{"unknown backend", open.Config{Backend: "redis"}, `Unknown store backend: "redis"`},
		{"etcd names etcdv3", open.Config{Backend: "etcd"}, "--store-backend etcdv3"},
		{"etcdv2 names etcdv3", open.Config{Backend: "etcdv2"}, "--store-backend etcdv3"},
		{"kubernetes", open.Config{Backend: "kubernetes"}, "use --store-backend etcdv3 or consul"},
		{"consul", open.Config{Backend: "consul"}, ""},
		{"consul with everything", open.Config{Backend: "consul", Endpoints: "https://a:1", CertFile: cert, KeyFile: key, CAFile: cert, TokenFile: junk}, ""},
		{"two consul agents", open.Config{Backend: "consul", Endpoints: "a:1,b:2"}, "cannot create kv store: consul does not support multiple endpoints"},
		{"consul without port", open.Config{Backend: "consul", Endpoints: "http://a"}, "--store-endpoints"},
		{"consul, missing CA", open.Config{Backend: "consul", CAFile: "/no/such"}, "--store-ca-file: open /no/such"},
		{"missing token", open.Config{Backend: "consul", TokenFile: "/no/such"}, "--store-token-file: open /no/such"},
		{"two tokens", open.Config{Backend: "consul", TokenFile: cert}, "--store-token-file " + cert + " holds no token"},
		{"a token for etcd", open.Config{Backend: "etcdv3", TokenFile: junk}, "--store-token-file is Consul's"},
		{"a user for consul", open.Config{Backend: "consul", Username: "u", Password: dial.Password{File: cert}}, "--store-username and --store-password-file are etcd's"},
		{"a user", open.Config{Backend: "etcdv3", Username: "u", Password: dial.Password{File: junk}}, ""},
		{"a user without password", open.Config{Backend: "etcdv3", Username: "u"}, "--store-username is given without a password"},
		{"a password without user", open.Config{Backend: "etcdv3", Password: dial.Password{File: junk}}, "(--store-password-file " + junk + ") without --store-username"},
		{"missing password", open.Config{Backend: "etcdv3", Username: "u", Password: dial.Password{File: "/no/such"}}, "--store-password-file: open /no/such"},
		{"empty password", open.Config{Backend: "etcdv3", Username: "u", Password: dial.Password{File: "/dev/null"}}, "--store-password-file /dev/null holds no password"},
		{"default endpoints", open.Config{Backend: "etcdv3"}, ""},
		{"host and port", open.Config{Backend: "etcdv3", Endpoints: "a:1,b:2"}, ""},
		{"mixed forms of http", open.Config{Backend: "etcdv3", Endpoints: "a:1,http://b:2"}, ""},
		{"IPv6", open.Config{Backend: "etcdv3", Endpoints: "[::1]:2379"}, ""},
		{"https with everything", open.Config{Backend: "etcdv3", Endpoints: "https://a:1", CertFile: cert, KeyFile: key, CAFile: cert}, ""},
		{"two schemes", open.Config{Backend: "etcdv3", Endpoints: "http://a:1,https://b:2"}, "cannot create kv store: all the endpoints must have the same scheme"},
		{"other scheme", open.Config{Backend: "etcdv3", Endpoints: "unix://a:1"}, "cannot create kv store: endpoints scheme must be http or https"},
		{"no port", open.Config{Backend: "etcdv3", Endpoints: "http://a"}, "--store-endpoints"},
		{"an empty item", open.Config{Backend: "etcdv3", Endpoints: "a:1,"}, "--store-endpoints"},
		{"blanks", open.Config{Backend: "etcdv3", Endpoints: "a:1, http://b:2"}, "--store-endpoints"},
		{"negative timeout", open.Config{Backend: "etcdv3", Timeout: -1}, "--store-timeout"},
		{"certificate without key", open.Config{Backend: "etcdv3", CertFile: cert}, "--store-cert-file is given without --store-key"},
		{"key without certificate", open.Config{Backend: "etcdv3", KeyFile: key}, "--store-key is given without --store-cert-file"},
		{"missing certificate", open.Config{Backend: "etcdv3", CertFile: "/no/such", KeyFile: key}, "--store-cert-file: open /no/such"},
		{"missing key", open.Config{Backend: "etcdv3", CertFile: cert, KeyFile: "/no/such"}, "--store-key: open /no/such"},
		{"missing CA", open.Config{Backend: "etcdv3", CAFile: "/no/such"}, "--store-ca-file: open /no/such"},
		{"key that is none", open.Config{Backend: "etcdv3", CertFile: cert, KeyFile: junk}, "--store-key " + junk},
		{"CA that is none", open.Config{Backend: "etcdv3", CAFile: junk}, "--store-ca-file " + junk + " holds no PEM certificate"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, err := open.Backend(tt.conf)
			if tt.err == "" {
				if err != nil {
					t.Fatalf("Backend(%+v) = %v", tt.conf, err)
				}
				if err := b.Close(); err != nil {
					t.Errorf("Close() = %v", err)
				}
				return
			}
			if err == nil || b != nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("Backend(%+v) = %v, %v, want nil and an error with %q", tt.conf, b, err, tt.err)
			}
		})
	}
}

func TestPasswordsInEndpointsAreNotShown(t *testing.T) {
	for _, endpoints := range []string{"http://root:topsecret@a:1", "http://root:topsecret@a:1:2", "http://root:topsecret@a:%zz"} {
		if _, err := open.Backend(open.Config{Backend: "etcdv3", Endpoints: endpoints}); err == nil || strings.Contains(err.Error(), "topsecret") {
			t.Errorf("Backend(%s) = %v, want an error without the password", endpoints, err)
		}
	}
}
