// Package open chooses and opens the store that the --store-* flags name. It
// is the only place that knows every backend; the rest of the program sees a
// store.Backend.
package open

import (
	"errors"
	"fmt"
	"time"

	"stolon/internal/store"
	"stolon/internal/store/etcd"
)

// DefaultTimeout is the request timeout where none is given, as in 0.17.
const DefaultTimeout = etcd.DefaultTimeout

// Config is what the --store-* flags say, as the user wrote it.
type Config struct {
	Backend       string        // --store-backend
	Endpoints     string        // --store-endpoints, comma separated; "" is the backend's default
	Timeout       time.Duration // --store-timeout, of one request; 0 is DefaultTimeout
	CertFile      string        // --store-cert-file
	KeyFile       string        // --store-key
	CAFile        string        // --store-ca-file; "" is the system's roots
	SkipTLSVerify bool          // --store-skip-tls-verify
}

// Check reports what is wrong with the choice of backend, without opening
// anything.
func (c Config) Check() error {
	switch c.Backend {
	case "":
		return errors.New("store backend type required (--store-backend etcdv3)")
	case "etcdv3":
		return nil
	case "etcd", "etcdv2":
		return fmt.Errorf("store backend %q is not supported: the etcd v2 API is gone from etcd itself; use --store-backend etcdv3 (the data of 0.17's etcdv2 backend moves by \"stolonctl clusterdata read\" and \"write\")", c.Backend)
	case "consul", "kubernetes":
		return fmt.Errorf("store backend %q is not supported yet by this build; use --store-backend etcdv3", c.Backend)
	}
	return fmt.Errorf("Unknown store backend: %q (--store-backend); use etcdv3", c.Backend) //nolint:staticcheck // 0.17's words
}

// Backend opens the store. It doesn't wait for it to answer: a store that is
// away shows in the first request. Each error names the flag at fault.
func Backend(c Config) (store.Backend, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	b, err := etcd.Open(etcd.Config{
		Endpoints:     c.Endpoints,
		Timeout:       c.Timeout,
		CertFile:      c.CertFile,
		KeyFile:       c.KeyFile,
		CAFile:        c.CAFile,
		SkipTLSVerify: c.SkipTLSVerify,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot create kv store: %w", err)
	}
	return b, nil
}
