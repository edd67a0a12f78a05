package flagutil

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"stolon/internal/daemon"
	"stolon/internal/log"
	"stolon/internal/store"
)

// Execute runs a root command with flags from the environment and args, and
// returns the exit code.
func Execute(cmd *cobra.Command, prefix string, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	cmd.Version = daemon.Version
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.Args = cobra.ArbitraryArgs
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		fmt.Fprintf(stderr, "Error: %v\n%s\n", err, c.UsageString())
		return err
	})
	logger := log.New(stderr, zap.InfoLevel, false)
	if err := FromEnv(cmd.PersistentFlags(), prefix, getenv); err != nil {
		fatal(logger, err)
		return 1
	}
	if err := cmd.Execute(); err != nil {
		fatal(logger, err)
		return 1
	}
	return 0
}

// fatal logs the error that ends the program, which then exits by itself.
func fatal(l *zap.Logger, err error) {
	l.WithOptions(zap.WithFatalHook(noExit{})).Fatal(err.Error())
}

// Daemon is a daemon that starts.
type Daemon struct {
	component string
	log       *zap.Logger
}

// Parts is what a daemon's loop is made of.
type Parts struct {
	Store   *store.Client
	Log     *zap.Logger
	Metrics prometheus.Registerer
}

// Main makes the logger of a daemon and runs it until a signal comes.
func (c *Common) Main(cmd *cobra.Command, component string, stderr io.Writer, run func(context.Context, Daemon) error) error {
	level, err := log.ParseLevel(c.LogLevel)
	if err != nil {
		return err
	}
	if c.Debug {
		level = zap.DebugLevel
	}
	colour := c.LogColor
	if f, ok := stderr.(*os.File); ok && !cmd.Flags().Changed("log-color") {
		colour = term.IsTerminal(int(f.Fd()))
	}
	ctx, cancel := daemon.Context()
	defer cancel()
	return run(ctx, Daemon{component: component, log: log.New(stderr, level, colour)})
}

// Log is the daemon's logger.
func (d Daemon) Log() *zap.Logger { return d.log }

// Run opens the store, serves the metrics and runs the daemon's loop. When the
// metrics can't be served any more the loop is ended in order.
func (d Daemon) Run(ctx context.Context, c *Common, loop func(context.Context, Parts) error) error {
	registry, err := daemon.Metrics(c.ClusterName, d.component)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	serving, err := daemon.ServeMetrics(ctx, c.MetricsAddress, registry)
	if err != nil {
		return err
	}
	st, err := c.Open()
	if err != nil {
		return fmt.Errorf("cannot create %s: %w", d.component, err)
	}
	defer st.Close()
	var g errgroup.Group
	g.Go(func() error {
		defer cancel()
		return loop(ctx, Parts{Store: st, Log: d.log, Metrics: registry})
	})
	g.Go(func() error {
		err := serving()
		if err != nil {
			d.log.Error("metrics are no longer served, stopping", zap.Error(err))
		}
		cancel()
		return nil
	})
	return g.Wait()
}
