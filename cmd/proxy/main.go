// Command stolon-proxy leads PostgreSQL clients to the elected master of a
// cluster, and to nobody else.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"

	"stolon/internal/clock"
	"stolon/internal/daemon"
	"stolon/internal/flagutil"
	"stolon/internal/proxy"
)

func main() {
	os.Exit(run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

type options struct {
	flagutil.Common
	lifeline              flagutil.Lifeline
	listenAddress, port   string
	stopListening         bool
	idle, count, interval int
	hold                  time.Duration
}

// run returns the exit code.
func run(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	return flagutil.Execute(command(stderr), "STPROXY", args, getenv, stdout, stderr)
}

func command(stderr io.Writer) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "stolon-proxy",
		Short: "lead clients to the master of a cluster",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.Main(cmd, "proxy", stderr, o.run)
		},
	}
	fs := cmd.PersistentFlags()
	o.Add(fs)
	o.AddDaemon(fs)
	o.lifeline.Add(fs)
	fs.StringVar(&o.listenAddress, "listen-address", "127.0.0.1", "address to listen on for clients; an IPv6 one without brackets")
	fs.StringVar(&o.port, "port", "5432", "port to listen on for clients")
	fs.BoolVar(&o.stopListening, "stop-listening", true, "stop listening while the store can't be reached for longer than proxyTimeout")
	fs.DurationVar(&o.hold, "hold-timeout", 30*time.Second, "how long clients wait while there is no master that can be reached, before they get an error; 0 not at all")
	fs.IntVar(&o.idle, "tcp-keepalive-idle", 0, "seconds of silence before a client is probed; 0 is the system's default")
	fs.IntVar(&o.count, "tcp-keepalive-count", 0, "unanswered probes before a client is given up; 0 is the system's default")
	fs.IntVar(&o.interval, "tcp-keepalive-interval", 0, "seconds between probes of a client; 0 is the system's default")
	return cmd
}

func (o *options) run(ctx context.Context, d flagutil.Daemon) error {
	if err := o.Check(); err != nil {
		return err
	}
	switch {
	case o.hold < 0:
		return errors.New("--hold-timeout must be 0 or more, such as 30s")
	case o.idle < 0:
		return errors.New("tcp keepalive idle value must be greater or equal to 0")
	case o.count < 0:
		return errors.New("tcp keepalive count value must be greater or equal to 0")
	case o.interval < 0:
		return errors.New("tcp keepalive interval value must be greater or equal to 0")
	}
	if err := o.lifeline.Check(); err != nil {
		return err
	}
	return d.Run(ctx, &o.Common, func(ctx context.Context, p flagutil.Parts) error {
		uid := daemon.NewUID()
		// Served before anybody is led anywhere, and until nobody is any more.
		line, unserve, err := o.lifeline.Serve(ctx, &o.Common, uid, p.Log)
		if err != nil {
			return err
		}
		defer unserve()
		px, err := proxy.New(proxy.Options{
			UID: uid, Lifeline: line, ListenAddress: o.listenAddress, Port: o.port, StopListening: o.stopListening, KeepAlive: o.keepAlive(), HoldTimeout: o.hold,
			Store: p.Store, Clock: clock.Boot, NewUID: daemon.NewUID, Log: p.Log, Metrics: p.Metrics, StoreTimeout: o.StoreTimeout,
		})
		if err != nil {
			return fmt.Errorf("cannot create cluster checker: %w", err)
		}
		return px.Run(ctx)
	})
}

// keepAlive is on always; what is not given stays the system's (-1).
func (o *options) keepAlive() net.KeepAliveConfig {
	k := net.KeepAliveConfig{Enable: true, Idle: -1, Interval: -1, Count: -1}
	if o.idle > 0 {
		k.Idle = time.Duration(o.idle) * time.Second
	}
	if o.interval > 0 {
		k.Interval = time.Duration(o.interval) * time.Second
	}
	if o.count > 0 {
		k.Count = o.count
	}
	return k
}
