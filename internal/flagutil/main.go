package flagutil

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"stolon/internal/daemon"
	"stolon/internal/log"
	"stolon/internal/store"
)

// Execute runs a daemon's root command with flags from the environment and
// args, and returns the exit code. An error is told by one fatal log line.
func Execute(cmd *cobra.Command, prefix string, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	cmd.Args = cobra.ArbitraryArgs // 0.17 ignores them
	Prepare(cmd, prefix, args, stdout, stderr)
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		fmt.Fprintf(stderr, "Error: %v\n%s\n", err, c.UsageString())
		return err
	})
	err := FromEnv(cmd.PersistentFlags(), prefix, getenv)
	if err == nil {
		err = cmd.Execute()
	}
	if err != nil {
		log.New(stderr, zap.InfoLevel, false).WithOptions(zap.WithFatalHook(noExit{})).Fatal(err.Error())
		return 1
	}
	return 0
}

// noExit lets a fatal line be logged by code that returns its exit code.
type noExit struct{}

func (noExit) OnWrite(*zapcore.CheckedEntry, []zapcore.Field) {}

// Prepare makes a root command, whose flags are in the environment by prefix
// too, speak like those of 0.17.
func Prepare(cmd *cobra.Command, prefix string, args []string, stdout, stderr io.Writer) {
	cmd.Long = fmt.Sprintf("%s\n\nEach flag can be set in the environment too: --store-backend by %s.", cmd.Short, EnvName(prefix, "store-backend"))
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	cmd.Flags().SetOutput(stderr) // of notices about deprecated flags
	AddVersion(cmd)
}

// AddVersion adds --version to a command, without cobra's -v.
func AddVersion(cmd *cobra.Command) {
	cmd.Version = daemon.Version
	cmd.Flags().Bool("version", false, "print the version")
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

// Main makes the logger of a daemon and runs it until a signal comes. A second
// signal ends the process.
func (c *Common) Main(cmd *cobra.Command, component string, stderr io.Writer, run func(context.Context, Daemon) error) error {
	level, err := log.ParseLevel(c.LogLevel)
	if c.Debug {
		level, err = zap.DebugLevel, nil
	}
	if err != nil {
		return fmt.Errorf("%w (--log-level)", err)
	}
	colour := c.LogColor
	if f, ok := stderr.(*os.File); ok && !cmd.Flags().Changed("log-color") {
		colour = term.IsTerminal(int(f.Fd()))
	}
	ctx, stop := daemon.Context(func() { os.Exit(1) })
	defer stop()
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
	st, err := c.Open()
	if err != nil {
		return fmt.Errorf("cannot create %s: %w", d.component, err)
	}
	for _, file := range []string{c.StorePassword.File, c.StoreTokenFile} {
		if fi, err := os.Stat(file); err == nil && fi.Mode().Perm()&0o077 != 0 {
			d.log.Warn("password file permissions are too open: chmod 0600 it", zap.String("file", file), zap.Stringer("mode", fi.Mode().Perm()))
		}
	}
	defer st.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	serve, err := daemon.ServeMetrics(ctx, c.MetricsAddress, registry)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.Go(func() error {
		defer cancel()
		return serve()
	})
	g.Go(func() error {
		defer cancel()
		return loop(ctx, Parts{Store: st, Log: d.log, Metrics: registry})
	})
	return g.Wait()
}
