package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"stolon/internal/store"
	"stolon/internal/store/dial"
)

// DefaultEndpoint is where Consul is looked for when nothing is said, as in 0.17.
const DefaultEndpoint = "http://127.0.0.1:8500"

// Config says where Consul is and how to reach it.
type Config struct {
	Endpoint string        // one agent's host:port, http:// or https:// URL; "" is DefaultEndpoint
	Timeout  time.Duration // of one request
	TLS      dial.TLS
	// TokenFile holds the ACL token; it is read for every request, so that a
	// renewed one is used without a restart. "" leaves the token, like other
	// settings of Consul's clients, to their environment: CONSUL_HTTP_TOKEN,
	// CONSUL_HTTP_TOKEN_FILE, CONSUL_HTTP_AUTH, CONSUL_NAMESPACE.
	TokenFile string
}

// A Backend is a client of one Consul agent.
type Backend struct {
	endpoint string
	client   *api.Client
	http     *http.Client
	timeout  time.Duration
	work     store.Background

	mu sync.Mutex
	// calm ends when a request fails for want of an answer; see watch.go.
	calm    context.Context
	disturb context.CancelFunc
}

var _ store.Backend = (*Backend)(nil)

// Open returns a client. It checks the configuration and reads the files, but
// doesn't wait for Consul to answer.
func Open(c Config) (*Backend, error) {
	endpoints, https, err := dial.Endpoints(cmp.Or(c.Endpoint, DefaultEndpoint))
	if err != nil {
		return nil, err
	}
	if len(endpoints) > 1 {
		return nil, errors.New("consul does not support multiple endpoints; name one agent (--store-endpoints)")
	}
	if c.Timeout <= 0 {
		return nil, fmt.Errorf("--store-timeout must be positive, not %s", c.Timeout)
	}
	tlsConfig, err := c.TLS.Config(endpoints[0])
	if err != nil {
		return nil, err
	}
	tokenFile := cmp.Or(c.TokenFile, os.Getenv(api.HTTPTokenFileEnvName))
	if tokenFile != "" {
		if _, err := readToken(tokenFile); err != nil {
			return nil, err
		}
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = tlsConfig
	// Not HTTP/2: a connection that hangs would be everybody's.
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	t.MaxIdleConnsPerHost = t.MaxIdleConns
	if https {
		t.Proxy = nil // as 0.17
	}
	b := &Backend{endpoint: endpoints[0], timeout: c.Timeout, http: &http.Client{Transport: &transport{next: t, tokenFile: tokenFile}}}
	b.calm, b.disturb = context.WithCancel(context.Background())
	conf := api.DefaultConfig() // what the environment says
	conf.Scheme, conf.Address, _ = strings.Cut(endpoints[0], "://")
	conf.HttpClient = b.http
	if b.client, err = api.NewClient(conf); err != nil {
		return nil, fmt.Errorf("endpoint %s: %w", endpoints[0], err)
	}
	return b, nil
}

// Close implements store.Backend.
func (b *Backend) Close() error {
	b.work.Close()
	b.mu.Lock()
	b.disturb()
	b.mu.Unlock()
	b.http.CloseIdleConnections()
	return nil
}

// A transport adds the token and makes an error of what is no answer to the
// question: the library would tell these in as many ways as it has calls.
type transport struct {
	next      *http.Transport
	tokenFile string
}

// A statusError is an HTTP status that answers nothing.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("HTTP status %d: %s", e.code, e.text))
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if t.tokenFile != "" {
		token, err := readToken(t.tokenFile)
		if err != nil {
			return nil, err
		}
		req = req.Clone(req.Context()) // a RoundTripper leaves its request as it is
		req.Header.Set("X-Consul-Token", token)
	}
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusNotFound, http.StatusConflict:
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1000))
	if err != nil {
		return nil, err
	}
	return nil, &statusError{resp.StatusCode, string(text)}
}

// CloseIdleConnections is for http.Client's.
func (t *transport) CloseIdleConnections() { t.next.CloseIdleConnections() }

func readToken(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", &tokenError{fmt.Errorf("--store-token-file: %w", err)}
	}
	token := strings.TrimSpace(string(b))
	if token == "" || strings.ContainsAny(token, "\r\n") {
		return "", &tokenError{fmt.Errorf("--store-token-file %s holds no token: one line is expected", file)}
	}
	return token, nil
}

// A tokenError is the user's to mend: the same request fares no better later.
type tokenError struct{ error }
