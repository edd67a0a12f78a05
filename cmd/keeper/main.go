// Command stolon-keeper runs one PostgreSQL instance of a cluster.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"stolon/internal/clock"
	"stolon/internal/daemon"
	"stolon/internal/flagutil"
	"stolon/internal/keeper"
	"stolon/internal/postgresql"
)

func main() {
	os.Exit(run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

type options struct {
	flagutil.Common
	uid, dataDir                 string
	listenAddress, port          string
	advertiseAddress, advertPort string
	binPath, walDir              string
	repl, su                     login
	tls                          tls
	canBeMaster, canBeSync       bool
	noLock, noAside, handOver    bool
}

// run returns the exit code.
func run(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	return flagutil.Execute(command(stderr), "STKEEPER", args, getenv, stdout, stderr)
}

func command(stderr io.Writer) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "stolon-keeper",
		Short: "run one PostgreSQL instance of a cluster",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.Main(cmd, "keeper", stderr, o.run)
		},
	}
	fs := cmd.PersistentFlags()
	o.Add(fs)
	o.AddDaemon(fs)
	fs.StringVar(&o.uid, "uid", "", "keeper uid, of lower-case letters, digits and underscores (default the one in the data directory, or a random one)")
	fs.StringVar(&o.uid, "id", "", "the same as --uid")
	_ = fs.MarkDeprecated("id", "please use --uid") // the flag exists
	fs.StringVar(&o.dataDir, "data-dir", "", "directory for the keeper's state and PostgreSQL's data (required)")
	fs.StringVar(&o.listenAddress, "pg-listen-address", "", "address that PostgreSQL listens on (required)")
	fs.StringVar(&o.advertiseAddress, "pg-advertise-address", "", "address at which others reach PostgreSQL (default --pg-listen-address)")
	fs.StringVar(&o.port, "pg-port", "5432", "port that PostgreSQL listens on")
	fs.StringVar(&o.advertPort, "pg-advertise-port", "", "port at which others reach PostgreSQL (default --pg-port)")
	fs.StringVar(&o.binPath, "pg-bin-path", "", "directory of PostgreSQL's programs (default found in $PATH)")
	o.repl.add(fs, "repl", "replication user")
	o.su.add(fs, "su", "superuser")
	o.tls.add(fs)
	fs.StringVar(&o.walDir, "wal-dir", "", "directory for WAL, on a disk of its own: data directories that are made from now on have theirs in a directory below (default in the data directory)")
	fs.BoolVar(&o.canBeMaster, "can-be-master", true, "this keeper's db may become master")
	fs.BoolVar(&o.canBeSync, "can-be-synchronous-replica", true, "this keeper's db may become a synchronous standby")
	fs.BoolVar(&o.noLock, "disable-data-dir-locking", false, "do not lock the data directory; only where its file system has no locks")
	fs.BoolVar(&o.handOver, "switchover-on-stop", false, "when told to stop, hand a master over to a standby first; for up to 30s")
	fs.BoolVar(&o.noAside, "resync-without-aside", false, "where a copy has no room beside the old data, remove that first; until the copy is complete this keeper then holds none")
	return cmd
}

// run checks everything in 0.17's order, then keeps the instance.
func (o *options) run(ctx context.Context, d flagutil.Daemon) error {
	log := d.Log()
	for _, check := range []func() error{
		o.su.defaultUser,
		o.needDataDir,
		o.Check,
		keeper.CheckUser,
		o.makeDataDir,
		o.checkWALDir,
		func() error { return o.checkAddresses(ctx, log) },
		o.tls.check,
		func() error { return o.checkLogins(log) },
		func() error { return o.checkPrograms(ctx, log) },
	} {
		if err := check(); err != nil {
			return err
		}
	}
	if !o.noLock {
		lock, err := keeper.LockDataDir(o.dataDir)
		if err != nil {
			return fmt.Errorf("%w (--data-dir)", err)
		}
		defer lock.Close()
		log.Info("exclusive lock on data dir taken")
	}
	if err := checkUID(o.uid); err != nil {
		return err
	}
	instance, err := o.instance(log)
	if err != nil {
		return fmt.Errorf("cannot create keeper: %w", err)
	}
	defer instance.Close()
	return d.Run(ctx, &o.Common, func(ctx context.Context, p flagutil.Parts) error {
		k, err := keeper.New(keeper.Options{
			UID: o.uid, DataDir: o.dataDir, ListenAddress: o.listenAddress, Port: o.port,
			AdvertiseAddress: o.advertiseAddress, AdvertisePort: o.advertPort,
			Superuser: o.su.keeper(), Replication: o.repl.keeper(), SSLMode: o.tls.mode, SSLRootCert: o.tls.rootCert, Passwords: o.passwords,
			CanBeMaster: o.canBeMaster, CanBeSynchronousReplica: o.canBeSync, ResyncWithoutAside: o.noAside, SwitchoverOnStop: o.handOver,
			Store: p.Store, Instance: instance, Files: keeper.NewFiles(o.dataDir), Clock: clock.Boot,
			NewUID: daemon.NewUID, BootUUID: daemon.NewBootUUID(), Log: p.Log, Metrics: p.Metrics, StoreTimeout: o.StoreTimeout,
		})
		if err != nil {
			return fmt.Errorf("cannot create keeper: %w", err)
		}
		return k.Run(ctx)
	})
}

func (o *options) instance(log *zap.Logger) (*postgresql.Instance, error) {
	return postgresql.New(postgresql.Options{
		DataDir: filepath.Join(o.dataDir, "postgres"), BinDir: o.binPath, WALDir: o.walDir, Port: o.port,
		Superuser: o.su.user, SuperuserPassword: o.su.password, Log: log,
	})
}
