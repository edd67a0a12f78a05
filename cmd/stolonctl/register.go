package main

import (
	"errors"

	"github.com/spf13/cobra"

	"stolon/internal/flagutil"
	"stolon/internal/store"
)

// register keeps 0.17's flags; the command itself comes with the Consul store.
func (c *ctl) register() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "register",
		Short: "register the cluster's dbs for service discovery (not supported yet)",
		RunE: c.with(func(*store.Client, []string) error {
			return errors.New("register is not supported yet by this version: it comes with the consul backend")
		}),
	}
	flagutil.AddVersion(cmd)
	fs := cmd.Flags()
	fs.String("register-backend", "consul", "service discovery to register with")
	fs.String("register-endpoints", "http://127.0.0.1:8500", "its endpoints")
	fs.String("register-cert-file", "", "client certificate, PEM")
	fs.String("register-key", "", "key of the client certificate, PEM")
	fs.String("register-ca-file", "", "certificates to verify with, PEM")
	fs.Bool("register-skip-tls-verify", false, "do not verify the certificate (insecure)")
	fs.Bool("register-master", false, "register the master too")
	fs.String("tag-master-as", "master", "tags of the master, comma separated")
	fs.String("tag-slave-as", "slave", "tags of the standbys, comma separated")
	fs.Int("sleep-interval", 10, "seconds between looks at the cluster")
	fs.Bool("debug", false, "log more")
	return cmd
}
