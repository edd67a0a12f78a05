// Command stolonctl administers a cluster: it shows what the store says and
// writes what an operator wishes, which the leading sentinel then carries out.
// One file a subcommand.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
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
		open: (*flagutil.Common).Open,
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

// run returns the exit code. Errors are told in plain text.
func run(args []string, w world) int {
	c := &ctl{world: w}
	root := c.root()
	flagutil.Prepare(root, "STOLONCTL", args, w.stdout, w.stderr)
	err := flagutil.FromEnv(root.PersistentFlags(), "STOLONCTL", w.getenv)
	if err == nil {
		err = root.Execute()
	}
	if err != nil {
		fmt.Fprintln(w.stderr, err)
		return 1
	}
	return 0
}

func (c *ctl) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "stolonctl",
		Short: "administer a stolon cluster",
		Args:  knownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("Error: %w\n%s", err, strings.TrimSpace(cmd.UsageString())) //nolint:staticcheck // 0.17's words
	})
	c.Add(root.PersistentFlags())
	c.AddCtl(root.PersistentFlags())
	root.AddCommand(c.status(), c.spec(), c.update(), c.init(), c.promote(), c.failkeeper(), c.switchover(), c.removekeeper(), c.clusterdata(), c.register(), c.version())
	return root
}

// knownCommand refuses what is left of the arguments of the root command.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	did := ""
	if names := cmd.SuggestionsFor(args[0]); len(names) > 0 {
		did = fmt.Sprintf("\nDid you mean %s?", strings.Join(names, " or "))
	}
	return fmt.Errorf("Error: unknown command %q for \"stolonctl\"%s\nRun 'stolonctl --help' for usage.", args[0], did) //nolint:staticcheck // 0.17's words
}

// with wraps a command's work: it checks the flags that find the cluster and
// opens its store.
func (c *ctl) with(do func(st *store.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(_ *cobra.Command, args []string) error {
		if err := c.Check(); err != nil {
			return err
		}
		st, err := c.open(&c.Common)
		if err != nil {
			return err
		}
		defer st.Close()
		return do(st, args)
	}
}

// request returns a context for a few requests to the store, so that no
// command hangs on a store that is down. It is not for the time that the
// operator takes to answer.
func (c *ctl) request() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 4*c.StoreTimeout)
}

// read reads the cluster data, nil when there is none, and its revision.
func (c *ctl) read(st *store.Client) (*cluster.ClusterData, int64, error) {
	ctx, cancel := c.request()
	defer cancel()
	cd, rev, err := st.ClusterData(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot get cluster data: %w", err)
	}
	return cd, rev, nil
}

// usable reports why cluster data can't be worked with, and what to do.
func (c *ctl) usable(cd *cluster.ClusterData) error {
	switch {
	case cd == nil:
		return fmt.Errorf(`cannot get cluster data: nil cluster data: <nil>; cluster %q has no cluster data in this store, check --cluster-name and --store-prefix or run "stolonctl init"`, c.ClusterName)
	case cd.Cluster == nil || cd.Cluster.Spec == nil:
		return errors.New(`no cluster spec available; run "stolonctl init"`)
	}
	return cd.Check()
}

// change edits the cluster data and writes it back, as often as others write
// in between.
func (c *ctl) change(st *store.Client, edit func(*cluster.ClusterData) error) error {
	ctx, cancel := c.request()
	defer cancel()
	read, refused := false, false // the data by the store, the edit by us
	err := st.Update(ctx, func(cd *cluster.ClusterData) error {
		read = true
		err := c.usable(cd)
		if err == nil {
			err = edit(cd)
		}
		refused = err != nil
		return err
	})
	switch {
	case err == nil || refused:
		return err
	case !read:
		return fmt.Errorf("cannot get cluster data: %w", err)
	}
	return fmt.Errorf("cannot update cluster data: %w", err)
}

func (c *ctl) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the version",
		Run: func(*cobra.Command, []string) {
			fmt.Fprintf(c.stdout, "stolonctl version %s\n", daemon.Version)
		},
	}
}
