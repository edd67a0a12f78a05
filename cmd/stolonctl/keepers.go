package main

import (
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
		RunE: c.with(func(st *store.Client, args []string) error {
			if err := tooMany(args, 1); err != nil {
				return err
			}
			if len(args) == 0 {
				return errors.New(`keeper uid required; "stolonctl status" lists them`)
			}
			return c.change(st, func(cd *cluster.ClusterData) error {
				if cd.Keepers[args[0]] == nil {
					return fmt.Errorf(`keeper doesn't exist: %q; "stolonctl status" lists them`, args[0])
				}
				return edit(cd, args[0])
			})
		}),
	}
}

func (c *ctl) failkeeper() *cobra.Command {
	return c.onKeeper("failkeeper", "take a keeper for failed once, so that another one becomes master", func(cd *cluster.ClusterData, uid string) error {
		cd.Keepers[uid].Status.ForceFail = true
		return nil
	})
}

func (c *ctl) removekeeper() *cobra.Command {
	return c.onKeeper("removekeeper", "forget a keeper and its db, unless that is the master", func(cd *cluster.ClusterData, uid string) error {
		if db := cd.DBOf(uid); db != nil {
			if db.UID == cd.Cluster.Status.Master {
				return fmt.Errorf(`keeper assigned db is the current cluster master db. Run "stolonctl failkeeper %s" first, so that another one becomes master`, uid)
			}
			delete(cd.DBs, db.UID)
		}
		delete(cd.Keepers, uid)
		return nil
	})
}
