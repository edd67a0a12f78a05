package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"stolon/internal/cluster"
	"stolon/internal/store"
)

// onKeeper is a command that edits the cluster data around one keeper.
func (c *ctl) onKeeper(use, short string, edit func(cd *cluster.ClusterData, uid string) error) *cobra.Command {
	return &cobra.Command{
		Use:   use + " <keeper uid>",
		Short: short,
		RunE: c.with(func(ctx context.Context, st *store.Client, args []string) error {
			if err := tooMany(args, 1); err != nil {
				return err
			}
			if len(args) == 0 {
				return errors.New("keeper uid required")
			}
			return c.change(ctx, st, func(cd *cluster.ClusterData) error {
				if cd.Keepers[args[0]] == nil {
					return fmt.Errorf(`keeper doesn't exist: %q; "stolonctl status" lists them`, args[0])
				}
				return edit(cd, args[0])
			})
		}),
	}
}

func (c *ctl) failkeeper() *cobra.Command {
	return c.onKeeper("failkeeper", "take a keeper for failed, once: its master moves away if another can take over", func(cd *cluster.ClusterData, uid string) error {
		cd.Keepers[uid].Status.ForceFail = true
		return nil
	})
}

func (c *ctl) removekeeper() *cobra.Command {
	return c.onKeeper("removekeeper", "forget a keeper and its db", func(cd *cluster.ClusterData, uid string) error {
		if db := cd.DBOf(uid); db != nil {
			if db.UID == cd.Cluster.Status.Master {
				return errors.New("keeper assigned db is the current cluster master db.")
			}
			delete(cd.DBs, db.UID)
		}
		delete(cd.Keepers, uid)
		return nil
	})
}

func (c *ctl) promote() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "promote",
		Short: "make a standby cluster a cluster with a master of its own",
		RunE: c.with(func(ctx context.Context, st *store.Client, args []string) error {
			if err := tooMany(args, 0); err != nil {
				return err
			}
			if !yes {
				if ok, err := c.confirm(); err != nil || !ok {
					return err
				}
			}
			already := false
			err := c.change(ctx, st, func(cd *cluster.ClusterData) error {
				if already = cd.Cluster.Spec.Settings().Role == cluster.RoleMaster; already {
					return nil
				}
				next := *cd.Cluster.Spec
				role := cluster.RoleMaster
				next.Role = &role
				return cd.UpdateSpec(&next, c.now())
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
