package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/grpclog"

	"stolon/internal/store"
	"stolon/internal/store/dial"
)

// DefaultEndpoints is where etcd is looked for when nothing is said, as in 0.17.
const DefaultEndpoints = "http://127.0.0.1:2379"

// Config says where etcd is and how to reach it.
type Config struct {
	Endpoints string        // comma separated host:port, http:// or https:// URLs; "" is DefaultEndpoints
	Timeout   time.Duration // of one request
	TLS       dial.TLS
	User      string // "" is none
	Password  dial.Password
}

// A Backend is a client of one etcd cluster. It has a connection of its own
// to each endpoint and uses one of them until that one fails: a stopped or
// cut-off member costs one attempt and not every third request.
type Backend struct {
	endpoints []string
	clients   []*clientv3.Client // by endpoint; they connect when first used
	lines     []line             // by endpoint
	current   atomic.Int64       // the endpoint in use
	login     *login             // nil without a user
	timeout   time.Duration
	work      store.Background
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
	endpoints, https, err := dial.Endpoints(cmp.Or(c.Endpoints, DefaultEndpoints))
	if err != nil {
		return nil, err
	}
	if c.Timeout <= 0 {
		return nil, fmt.Errorf("--store-timeout must be positive, not %s", c.Timeout)
	}
	login, err := newLogin(c.User, c.Password, len(endpoints))
	if err != nil {
		return nil, err
	}
	b := &Backend{endpoints: endpoints, login: login, timeout: c.Timeout, lines: make([]line, len(endpoints))}
	for i, e := range endpoints {
		tlsConfig, err := c.TLS.Config(e)
		if err != nil {
			return nil, errors.Join(err, b.Close())
		}
		if !https {
			tlsConfig = nil
		}
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
				grpc.WithContextDialer(b.lines[i].dial),
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
	b.work.Close()
	var errs []error
	for _, c := range b.clients {
		if err := c.Close(); err != nil && !errors.Is(err, context.Canceled) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
