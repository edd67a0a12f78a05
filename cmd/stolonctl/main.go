// Command stolonctl administers a cluster.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"

	"stolon/internal/cluster"
	"stolon/internal/daemon"
	"stolon/internal/flagutil"
	"stolon/internal/store"
)

func main() {
	os.Exit(run(os.Args[1:], world{
		getenv: os.Getenv, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, newUID: daemon.NewUID, now: time.Now,
		open: func(c *flagutil.Common) (*store.Client, error) { return c.Open() },
	}))
}

// world is everything outside that a command touches.
type world struct {
	getenv         func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer
	newUID         func() string
	now            func() time.Time
	open           func(*flagutil.Common) (*store.Client, error)
}

// ctl is one call of stolonctl.
type ctl struct {
	world
	flagutil.Common
}

// run returns the exit code.
func run(args []string, w world) int {
	c := &ctl{world: w}
	root := &cobra.Command{
		Use:           "stolonctl",
		Short:         "administer a stolon cluster",
		Version:       daemon.Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetArgs(args)
	root.SetIn(w.stdin)
	root.SetOut(w.stdout)
	root.SetErr(w.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("Error: %w\n%s", err, cmd.UsageString()) //nolint:staticcheck // 0.17's words
	})
	c.Add(root.PersistentFlags())
	c.AddCtl(root.PersistentFlags())
	root.AddCommand(c.status(), c.spec(), c.update(), c.init(), c.promote(), c.failkeeper(), c.removekeeper(), c.clusterdata(), c.register(), c.version())
	if err := flagutil.FromEnv(root.PersistentFlags(), "STOLONCTL", w.getenv); err != nil {
		fmt.Fprintln(w.stderr, err)
		return 1
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(w.stderr, err)
		return 1
	}
	return 0
}

// with wraps a command's work: it checks the flags that find the cluster and
// opens its store.
func (c *ctl) with(do func(ctx context.Context, st *store.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := c.Check(); err != nil {
			return err
		}
		st, err := c.open(&c.Common)
		if err != nil {
			return err
		}
		defer st.Close()
		// Several requests, each bounded by --store-timeout; a command never
		// hangs on a store that is down.
		ctx, cancel := context.WithTimeout(cmd.Context(), 4*c.StoreTimeout)
		defer cancel()
		return do(ctx, st, args)
	}
}

// usable reports why cluster data can't be worked with, and what to do.
func (c *ctl) usable(cd *cluster.ClusterData) error {
	if cd == nil {
		return fmt.Errorf(`cannot get cluster data: nil cluster data: <nil>; cluster %q has no cluster data in this store, run "stolonctl init" first`, c.ClusterName)
	}
	if cd.Cluster == nil || cd.Cluster.Spec == nil {
		return errors.New("no cluster spec available")
	}
	return cd.Check()
}

// change edits the cluster data and writes it back, as often as others write
// in between.
func (c *ctl) change(ctx context.Context, st *store.Client, edit func(*cluster.ClusterData) error) error {
	return st.Update(ctx, func(cd *cluster.ClusterData) error {
		if err := c.usable(cd); err != nil {
			return err
		}
		return edit(cd)
	})
}

func (c *ctl) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the version",
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(c.stdout, "stolonctl version %s\n", daemon.Version)
		},
	}
}
