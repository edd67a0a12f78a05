// Package consul registers services with a Consul agent.
package consul

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/hashicorp/consul/api"

	"stolon/internal/register"
)

// CheckInterval is how often Consul tries to connect to a service.
const CheckInterval = "10s"

// Config finds an agent. The token and other settings of Consul's clients come
// from their own environment, such as CONSUL_HTTP_TOKEN.
type Config struct {
	Endpoint              string // one URL, of http or https
	CertFile, KeyFile, CA string
	SkipTLSVerify         bool
}

// client is the configuration of Consul's library.
func (c Config) client() (*api.Config, error) {
	if strings.Contains(c.Endpoint, ",") {
		return nil, fmt.Errorf("consul does not support multiple endpoints: %s; name one agent (--register-endpoints)", c.Endpoint)
	}
	u, err := url.Parse(c.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("--register-endpoints: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("--register-endpoints %q is no URL such as http://127.0.0.1:8500", c.Endpoint)
	}
	out := api.DefaultConfig()
	out.Scheme, out.Address = u.Scheme, u.Host
	if u.Scheme == "https" {
		out.TLSConfig.CertFile, out.TLSConfig.KeyFile, out.TLSConfig.CAFile = c.CertFile, c.KeyFile, c.CA
		out.TLSConfig.InsecureSkipVerify = c.SkipTLSVerify
	}
	return out, nil
}

// Agent is a Consul agent as a catalog.
type Agent struct{ c *api.Client }

// New checks the configuration; it connects to nobody.
func New(c Config) (*Agent, error) {
	config, err := c.client()
	if err != nil {
		return nil, err
	}
	client, err := api.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("consul client (--register-endpoints): %w", err)
	}
	return &Agent{client}, nil
}

// Services lists those of the whole datacenter.
func (a *Agent) Services(ctx context.Context, name string) ([]register.Service, error) {
	q := (&api.QueryOptions{}).WithContext(ctx)
	entries, _, err := a.c.Catalog().Service(name, "", q)
	if err != nil || len(entries) == 0 {
		return nil, err
	}
	node, err := a.node(ctx)
	if err != nil {
		return nil, err
	}
	return services(entries, node), nil
}

// node is the agent's own name.
func (a *Agent) node(ctx context.Context) (string, error) {
	var self struct{ Config struct{ NodeName string } }
	if _, err := a.c.Raw().Query("/v1/agent/self", &self, (&api.QueryOptions{}).WithContext(ctx)); err != nil {
		return "", fmt.Errorf("name of the agent: %w", err)
	}
	return self.Config.NodeName, nil
}

func services(entries []*api.CatalogService, node string) []register.Service {
	var out []register.Service
	for _, e := range entries {
		if e != nil {
			out = append(out, register.Service{ID: e.ServiceID, Name: e.ServiceName, Address: e.ServiceAddress, Port: e.ServicePort, Tags: e.ServiceTags, Foreign: e.Node != node})
		}
	}
	return out
}

// Register registers the service with a check that connects to it.
func (a *Agent) Register(ctx context.Context, s register.Service) error {
	return a.c.Agent().ServiceRegisterOpts(registration(s), api.ServiceRegisterOpts{}.WithContext(ctx))
}

func registration(s register.Service) *api.AgentServiceRegistration {
	return &api.AgentServiceRegistration{
		ID: s.ID, Name: s.Name, Address: s.Address, Port: s.Port, Tags: s.Tags,
		Check: &api.AgentServiceCheck{TCP: net.JoinHostPort(s.Address, strconv.Itoa(s.Port)), Interval: CheckInterval},
	}
}

// Deregister removes the service from the agent.
func (a *Agent) Deregister(ctx context.Context, id string) error {
	return a.c.Agent().ServiceDeregisterOpts(id, (&api.QueryOptions{}).WithContext(ctx))
}
