package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"stolon/internal/cluster"
	"stolon/internal/flagutil"
	"stolon/internal/register"
	"stolon/internal/register/consul"
)

// registration is the flags of stolonctl register.
type registration struct {
	backend               string
	agent                 consul.Config
	master                bool
	masterTags, slaveTags string
	interval              int
	debug                 bool
}

func (c *ctl) register() *cobra.Command {
	var r registration
	cmd := &cobra.Command{
		Use:   "register",
		Short: "keep the healthy dbs registered as services in Consul",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Debug = c.Debug || r.debug
			return c.Main(cmd, "register", c.stderr, func(ctx context.Context, d flagutil.Daemon) error { return c.keepRegistered(ctx, d, r) })
		},
	}
	flagutil.AddVersion(cmd)
	fs := cmd.Flags()
	fs.StringVar(&r.backend, "register-backend", "consul", "where to register: consul")
	fs.StringVar(&r.agent.Endpoint, "register-endpoints", "http://127.0.0.1:8500", "URL of the Consul agent; its token comes from CONSUL_HTTP_TOKEN")
	fs.StringVar(&r.agent.CertFile, "register-cert-file", "", "client certificate, PEM")
	fs.StringVar(&r.agent.KeyFile, "register-key", "", "key of the client certificate, PEM")
	fs.StringVar(&r.agent.CA, "register-ca-file", "", "certificates to verify with, PEM")
	fs.BoolVar(&r.agent.SkipTLSVerify, "register-skip-tls-verify", false, "do not verify the certificate (insecure)")
	fs.BoolVar(&r.master, "register-master", false, "register the master too")
	fs.StringVar(&r.masterTags, "tag-master-as", "master", "tags of the master, comma separated")
	fs.StringVar(&r.slaveTags, "tag-slave-as", "slave", "tags of the standbys, comma separated")
	fs.IntVar(&r.interval, "sleep-interval", 10, "seconds between looks at the cluster, at least 1")
	fs.BoolVar(&r.debug, "debug", false, "log more")
	return cmd
}

// check returns the agent.
func (r registration) check(common *flagutil.Common) (*consul.Agent, error) {
	if err := common.Check(); err != nil {
		return nil, err
	}
	switch r.backend {
	case "":
		return nil, errors.New("register backend required (--register-backend)")
	case "consul":
	default:
		return nil, fmt.Errorf("unknown register backend: %q", r.backend)
	}
	return consul.New(r.agent)
}

// keepRegistered runs until a signal.
func (c *ctl) keepRegistered(ctx context.Context, d flagutil.Daemon, r registration) error {
	agent, err := r.check(&c.Common)
	if err != nil {
		return err
	}
	st, err := c.open(&c.Common)
	if err != nil {
		return err
	}
	defer st.Close()
	read := func(ctx context.Context) (*cluster.ClusterData, error) {
		ctx, cancel := context.WithTimeout(ctx, c.StoreTimeout)
		defer cancel()
		cd, _, err := st.ClusterData(ctx)
		return cd, err
	}
	register.Run(ctx, register.Options{
		ClusterName: c.ClusterName, Master: r.master, MasterTags: register.Tags(r.masterTags), SlaveTags: register.Tags(r.slaveTags),
		Pause: time.Duration(max(r.interval, 1)) * time.Second, Log: d.Log(), Catalog: agent, Read: read,
	})
	return nil
}
