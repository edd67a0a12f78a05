package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/grpclog"

	"stolon/internal/store"
)

// What the flags stand for when they are not given, as in 0.17.
const (
	DefaultTimeout   = 5 * time.Second
	DefaultEndpoints = "http://127.0.0.1:2379"
)

// Config says where etcd is and how to reach it.
type Config struct {
	Endpoints     string        // comma separated host:port, http:// or https:// URLs; "" is DefaultEndpoints
	Timeout       time.Duration // of one request; 0 is DefaultTimeout
	CertFile      string        // the client's certificate and key; both or none
	KeyFile       string
	CAFile        string // who signed etcd's certificate; "" is the system's roots
	SkipTLSVerify bool
}

// A Backend is a client of one etcd cluster. It has a connection of its own
// to each endpoint and uses one of them until that one fails: a stopped or
// cut-off member costs one attempt and not every third request.
type Backend struct {
	endpoints []string
	clients   []*clientv3.Client // by endpoint; they connect when first used
	current   atomic.Int64       // the endpoint in use
	timeout   time.Duration

	mu     sync.Mutex
	closed bool
	ends   map[int]context.CancelFunc // of the background work
	nextID int
	wg     sync.WaitGroup
}

var _ store.Backend = (*Backend)(nil)

// quiet keeps gRPC from writing to stderr on its own: what matters comes back
// as an error. It can only be said for the whole process.
var quiet = sync.OnceFunc(func() {
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
})

// Open returns a client. It checks the configuration and reads the files, but
// doesn't wait for etcd to answer.
func Open(c Config) (*Backend, error) {
	quiet()
	endpoints, https, err := parseEndpoints(c.Endpoints)
	if err != nil {
		return nil, err
	}
	if c.Timeout < 0 {
		return nil, fmt.Errorf("--store-timeout must be positive, not %s", c.Timeout)
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	tlsConfig, err := c.tls()
	if err != nil {
		return nil, err
	}
	if !https {
		tlsConfig = nil
	}
	b := &Backend{endpoints: endpoints, timeout: c.Timeout, ends: map[int]context.CancelFunc{}}
	for _, e := range endpoints {
		client, err := clientv3.New(clientv3.Config{
			Endpoints:            []string{e},
			TLS:                  tlsConfig,
			DialKeepAliveTime:    10 * time.Second, // gRPC takes nothing shorter; 0.17's 1 s meant the same
			DialKeepAliveTimeout: c.Timeout,
			MaxUnaryRetries:      1, // attempts are ours, see attempt.go
			Logger:               zap.NewNop(),
			DialOptions: []grpc.DialOption{
				// A store that comes back is found within a second.
				grpc.WithConnectParams(grpc.ConnectParams{
					Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
					MinConnectTimeout: c.Timeout,
				}),
				// A refused connection is an answer, not something to wait for.
				grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
					return invoker(ctx, method, req, reply, cc, append(opts, grpc.WaitForReady(false))...)
				}),
			},
		})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("endpoint %s: %w", e, err), b.Close())
		}
		b.clients = append(b.clients, client)
	}
	return b, nil
}

// Close implements store.Backend.
func (b *Backend) Close() error {
	b.mu.Lock()
	b.closed = true
	for _, cancel := range b.ends {
		cancel()
	}
	b.mu.Unlock()
	b.wg.Wait()
	var errs []error
	for _, c := range b.clients {
		if err := c.Close(); err != nil && !errors.Is(err, context.Canceled) {
			errs = append(errs, err)
		}
	}
	b.clients = nil
	return errors.Join(errs...)
}

// background runs f in a goroutine that Close ends and waits for. It reports
// false when the backend is closed.
func (b *Backend) background(ctx context.Context, f func(context.Context)) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	ctx, cancel := context.WithCancel(ctx)
	id := b.nextID
	b.nextID++
	b.ends[id] = cancel
	b.wg.Go(func() {
		f(ctx)
		cancel()
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.ends, id)
	})
	return true
}

// parseEndpoints takes the value of --store-endpoints apart, by 0.17's rules.
func parseEndpoints(s string) (endpoints []string, https bool, err error) {
	if s == "" {
		s = DefaultEndpoints
	}
	scheme := ""
	for _, item := range strings.Split(s, ",") {
		if !strings.Contains(item, "://") {
			item = "http://" + item
		}
		if strings.Contains(item, "@") {
			// The item is not shown: it holds a password.
			return nil, false, errors.New("--store-endpoints: user and password in an endpoint are not supported")
		}
		u, err := url.Parse(item)
		if err != nil {
			return nil, false, fmt.Errorf("--store-endpoints: %w", err)
		}
		if u.Scheme != "http" && u.Scheme != "https" {
			return nil, false, errors.New("endpoints scheme must be http or https")
		}
		if _, port, err := net.SplitHostPort(u.Host); err != nil || port == "" || u.Hostname() == "" {
			return nil, false, fmt.Errorf("--store-endpoints: %q is not host:port, http://host:port or https://host:port", item)
		}
		if scheme != "" && u.Scheme != scheme {
			return nil, false, errors.New("all the endpoints must have the same scheme")
		}
		scheme = u.Scheme
		endpoints = append(endpoints, u.Scheme+"://"+u.Host)
	}
	return endpoints, scheme == "https", nil
}

// tls reads the files that the flags name, also when the endpoints are http:
// a wrong flag is wrong either way.
func (c Config) tls() (*tls.Config, error) {
	conf := &tls.Config{InsecureSkipVerify: c.SkipTLSVerify} //nolint:gosec // asked for by name
	switch {
	case c.CertFile != "" && c.KeyFile == "":
		return nil, errors.New("--store-cert-file is given without --store-key; a client certificate needs both")
	case c.CertFile == "" && c.KeyFile != "":
		return nil, errors.New("--store-key is given without --store-cert-file; a client certificate needs both")
	case c.CertFile != "":
		cert, err := newClientCert(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, err
		}
		conf.GetClientCertificate = cert.get
	}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("--store-ca-file: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--store-ca-file %s holds no PEM certificate", c.CAFile)
		}
	}
	return conf, nil
}
