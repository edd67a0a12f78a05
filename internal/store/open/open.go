// Package open chooses and opens the store that the --store-* flags name. It
// is the only place that knows every backend; the rest of the program sees a
// store.Backend.
package open

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"stolon/internal/store"
	"stolon/internal/store/consul"
	"stolon/internal/store/dial"
	"stolon/internal/store/etcd"
)

// DefaultTimeout is the request timeout where none is given, as in 0.17.
const DefaultTimeout = 5 * time.Second

// Config is what the --store-* flags say, as the user wrote it.
type Config struct {
	Backend       string        // --store-backend
	Endpoints     string        // --store-endpoints, comma separated; "" is the backend's default
	Timeout       time.Duration // --store-timeout, of one request; 0 is DefaultTimeout
	CertFile      string        // --store-cert-file
	KeyFile       string        // --store-key
	CAFile        string        // --store-ca-file; "" is the system's roots
	SkipTLSVerify bool          // --store-skip-tls-verify
	TokenFile     string        // --store-token-file, for Consul
	Username      string        // --store-username, for etcd
	Password      dial.Password // --store-password-file or the environment
}

// Check reports what is wrong with the choice of backend, without opening
// anything.
func (c Config) Check() error {
	switch c.Backend {
	case "":
		return errors.New("store backend type required (--store-backend etcdv3 or consul)")
	case "etcdv3":
		if c.TokenFile != "" {
			return errors.New("--store-token-file is Consul's; --store-backend etcdv3 has no token")
		}
		return c.Password.Check(c.Username)
	case "consul":
		if c.Username != "" || c.Password.Given() {
			return errors.New("--store-username and --store-password-file are etcd's; Consul has tokens (--store-token-file)")
		}
		return nil
	case "etcd", "etcdv2":
		return fmt.Errorf("store backend %q is not supported: the etcd v2 API is gone from etcd itself; use --store-backend etcdv3 (the data of 0.17's etcdv2 backend moves by \"stolonctl clusterdata read\" and \"write\")", c.Backend)
	case "kubernetes":
		return fmt.Errorf("store backend %q is not supported; use --store-backend etcdv3 or consul", c.Backend)
	}
	return fmt.Errorf("Unknown store backend: %q (--store-backend); use etcdv3 or consul", c.Backend) //nolint:staticcheck // 0.17's words
}

// Backend opens the store. It doesn't wait for it to answer: a store that is
// away shows in the first request. Each error names the flag at fault.
func Backend(c Config) (store.Backend, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	var b store.Backend
	var err error
	timeout := cmp.Or(c.Timeout, DefaultTimeout)
	tls := dial.TLS{CertFile: c.CertFile, KeyFile: c.KeyFile, CAFile: c.CAFile, SkipVerify: c.SkipTLSVerify}
	switch c.Backend {
	case "etcdv3":
		b, err = etcd.Open(etcd.Config{Endpoints: c.Endpoints, Timeout: timeout, TLS: tls, User: c.Username, Password: c.Password})
	case "consul":
		b, err = consul.Open(consul.Config{Endpoint: c.Endpoints, Timeout: timeout, TLS: tls, TokenFile: c.TokenFile})
	}
	if err != nil {
		return nil, fmt.Errorf("cannot create kv store: %w", err)
	}
	return b, nil
}

// Prefix is what --store-prefix means to the backend: Consul's keys begin with
// no slash, etcd tells such keys apart.
func (c Config) Prefix(prefix string) string {
	if c.Backend == "consul" {
		return strings.TrimLeft(prefix, "/")
	}
	return prefix
}
