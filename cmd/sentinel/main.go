// Command stolon-sentinel watches a cluster and, while it is the elected
// leader, decides what its keepers and proxies shall do.
package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/spf13/cobra"

	"stolon/internal/clock"
	"stolon/internal/cluster"
	"stolon/internal/daemon"
	"stolon/internal/flagutil"
	"stolon/internal/lifeline"
	"stolon/internal/sentinel"
)

func main() {
	os.Exit(run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

type options struct {
	flagutil.Common
	lifeline    flagutil.Lifeline
	initialSpec string
}

// run returns the exit code.
func run(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	return flagutil.Execute(command(stderr), "STSENTINEL", args, getenv, stdout, stderr)
}

func command(stderr io.Writer) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "stolon-sentinel",
		Short: "watch a cluster and decide its master",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.Main(cmd, "sentinel", stderr, o.run)
		},
	}
	o.Add(cmd.PersistentFlags())
	o.AddDaemon(cmd.PersistentFlags())
	o.lifeline.Add(cmd.PersistentFlags())
	cmd.PersistentFlags().StringVar(&o.initialSpec, "initial-cluster-spec", "", "file with the cluster spec, JSON, that a cluster is made from when the store has no cluster data")
	return cmd
}

func (o *options) run(ctx context.Context, d flagutil.Daemon) error {
	if err := o.Check(); err != nil {
		return err
	}
	if err := o.lifeline.Check(); err != nil {
		return err
	}
	spec, err := o.spec()
	if err != nil {
		return fmt.Errorf("cannot create sentinel: %w", err)
	}
	return d.Run(ctx, &o.Common, func(ctx context.Context, p flagutil.Parts) error {
		uid := daemon.NewUID()
		line, unserve, err := o.lifeline.Serve(ctx, &o.Common, uid, p.Log)
		if err != nil {
			return err
		}
		defer unserve()
		s, err := sentinel.New(sentinel.Options{
			UID: uid, InitialSpec: spec, Lifeline: line, Host: lifeline.Host(), Store: p.Store, Clock: clock.Boot, Wall: time.Now, NewUID: daemon.NewUID, Pick: rand.IntN,
			Log: p.Log, Metrics: p.Metrics, StoreTimeout: o.StoreTimeout,
		})
		if err != nil {
			return fmt.Errorf("cannot create sentinel: %w", err)
		}
		return s.Run(ctx)
	})
}

// spec reads --initial-cluster-spec. It is checked at each start, though used
// only when the store has no cluster data.
func (o *options) spec() (*cluster.Spec, error) {
	if o.initialSpec == "" {
		return nil, nil
	}
	b, err := os.ReadFile(o.initialSpec)
	if err != nil {
		return nil, fmt.Errorf("cannot read provided initial cluster config file: %w", err)
	}
	s, err := cluster.ParseSpec(b)
	if err != nil {
		return nil, fmt.Errorf("cannot parse provided initial cluster config: %w", err)
	}
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("invalid initial cluster: %w", err)
	}
	return s, nil
}
