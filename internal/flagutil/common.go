package flagutil

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"stolon/internal/store"
	"stolon/internal/store/open"
)

// Common are the flags of every program.
type Common struct {
	ClusterName     string
	StoreBackend    string
	StoreEndpoints  string
	StoreTimeout    time.Duration
	StorePrefix     string
	StoreCertFile   string
	StoreKey        string
	StoreCAFile     string
	StoreSkipVerify bool
	StoreTokenFile  string
	StoreUsername   string
	StorePassword   secretFile
	MetricsAddress  string
	LogLevel        string

	// Of the daemons.
	LogColor bool
	Debug    bool
}

// Add adds the flags that every program has.
func (c *Common) Add(fs *pflag.FlagSet) {
	fs.StringVar(&c.ClusterName, "cluster-name", "", "name of the cluster (required)")
	fs.StringVar(&c.StoreBackend, "store-backend", "", "store that holds the cluster's state: etcdv3 or consul (required)")
	fs.StringVar(&c.StoreEndpoints, "store-endpoints", "", "comma separated endpoints of the store, host:port or URL, all http or all https; of Consul one agent (default http://127.0.0.1:2379, of Consul http://127.0.0.1:8500)")
	fs.DurationVar(&c.StoreTimeout, "store-timeout", 5*time.Second, "how long one request to the store may take")
	fs.StringVar(&c.StorePrefix, "store-prefix", "stolon/cluster", "path in the store below which clusters live")
	fs.StringVar(&c.StoreCertFile, "store-cert-file", "", "client certificate for the store, PEM; needs --store-key")
	fs.StringVar(&c.StoreKey, "store-key", "", "key of the client certificate for the store, PEM; needs --store-cert-file")
	fs.StringVar(&c.StoreCAFile, "store-ca-file", "", "certificates that the store's is verified with, PEM (default the system's)")
	fs.BoolVar(&c.StoreSkipVerify, "store-skip-tls-verify", false, "do not verify the store's certificate (insecure)")
	fs.StringVar(&c.StoreTokenFile, "store-token-file", "", "file with the ACL token for Consul, read for each request (default what CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE say)")
	fs.StringVar(&c.StoreUsername, "store-username", "", "user of etcd; needs a password")
	fs.Var(&c.StorePassword, "store-password-file", "file with the password of --store-username, read for each login; the password itself may be in the environment, in the variable of this flag without _FILE")
	fs.StringVar(&c.MetricsAddress, "metrics-listen-address", "", "host:port to serve Prometheus metrics on; empty serves none")
	fs.String("kube-resource-kind", "", "kept for 0.17; the kubernetes backend is not supported")
	fs.StringVar(&c.LogLevel, "log-level", "info", "debug, info, warn or error")
}

// AddDaemon adds the flags that only daemons have.
func (c *Common) AddDaemon(fs *pflag.FlagSet) {
	fs.BoolVar(&c.LogColor, "log-color", false, "colour the log's levels (default on a terminal)")
	fs.BoolVar(&c.Debug, "debug", false, "the same as --log-level=debug")
	_ = fs.MarkDeprecated("debug", "use --log-level=debug instead") // the flag exists
}

// AddCtl adds the flags that only stolonctl has, after Add.
func (c *Common) AddCtl(fs *pflag.FlagSet) {
	for _, name := range []string{"kubeconfig", "kube-context", "kube-namespace"} {
		fs.String(name, "", "kept for 0.17; the kubernetes backend is not supported")
	}
	for _, name := range []string{"metrics-listen-address", "log-level"} {
		fs.Lookup(name).Usage = "kept for 0.17; stolonctl doesn't look at it"
	}
}

// Check reports the first thing wrong with what finds the cluster.
func (c *Common) Check() error {
	if c.ClusterName == "" {
		return errors.New("cluster name required (--cluster-name)")
	}
	if err := c.store().Check(); err != nil {
		return err
	}
	if c.StoreTimeout <= 0 {
		return fmt.Errorf("--store-timeout must be positive, not %s", c.StoreTimeout)
	}
	return nil
}

func (c *Common) store() open.Config {
	return open.Config{
		Backend: c.StoreBackend, Endpoints: c.StoreEndpoints, Timeout: c.StoreTimeout,
		CertFile: c.StoreCertFile, KeyFile: c.StoreKey, CAFile: c.StoreCAFile, SkipTLSVerify: c.StoreSkipVerify,
		TokenFile: c.StoreTokenFile,
		Username:  c.StoreUsername, Password: c.StorePassword.password(),
	}
}

// Open opens the store of the cluster.
func (c *Common) Open() (*store.Client, error) {
	b, err := open.Backend(c.store())
	if err != nil {
		return nil, err
	}
	return store.NewClient(b, c.store().Prefix(c.StorePrefix), c.ClusterName), nil
}
