package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"stolon/internal/cluster"
	"stolon/internal/store"
)

func (c *ctl) promote() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "promote",
		Short: "make a standby cluster a cluster with a master of its own",
		RunE: c.with(func(st *store.Client, args []string) error {
			if err := tooMany(args, 0); err != nil {
				return err
			}
			if !yes {
				if ok, err := c.confirm(); err != nil || !ok {
					return err
				}
			}
			already := false
			err := c.change(st, func(cd *cluster.ClusterData) error {
				if already = cd.Cluster.Spec.Settings().Role == cluster.RoleMaster; already {
					return nil
				}
				next := *cd.Cluster.Spec
				role := cluster.RoleMaster
				next.Role = &role
				return c.updateSpec(cd, &next)
			})
			if already {
				fmt.Fprintln(c.stderr, "cluster spec role already set to master")
			}
			return err
		}),
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}
