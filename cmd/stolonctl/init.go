package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"stolon/internal/cluster"
	"stolon/internal/store"
)

func (c *ctl) init() *cobra.Command {
	var file string
	var yes bool
	cmd := &cobra.Command{
		Use:   "init [cluster spec as JSON]",
		Short: "make a new cluster, forgetting an existing one",
		RunE: c.with(func(ctx context.Context, st *store.Client, args []string) error {
			if err := tooMany(args, 1); err != nil {
				return err
			}
			data := []byte(`{"initMode":"new"}`)
			switch {
			case len(args) == 1:
				data = []byte(args[0])
			case file != "":
				var err error
				if data, err = c.readInput(file); err != nil {
					return err
				}
			}
			spec, err := cluster.ParseSpec(data)
			if err != nil {
				return fmt.Errorf("failed to unmarshal cluster spec: %w", err)
			}
			if err := spec.Validate(); err != nil {
				return fmt.Errorf("invalid cluster spec: %w", err)
			}
			cd, rev, err := st.ClusterData(ctx)
			if err != nil {
				return fmt.Errorf("cannot get cluster data: %w", err)
			}
			if cd != nil {
				fmt.Fprintln(c.stdout, "WARNING: The current cluster data will be removed")
			}
			fmt.Fprintln(c.stdout, "WARNING: The databases managed by the keepers will be overwritten depending on the provided cluster spec.")
			if !yes {
				if ok, err := c.confirm(); err != nil || !ok {
					return err
				}
			}
			return c.replace(ctx, st, cd == nil, rev, cluster.New(c.newUID(), spec, c.now()))
		}),
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", `file with the cluster spec, "-" for standard input`)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// replace writes new cluster data. An existing cluster is replaced whatever
// its sentinel writes meanwhile; where there was none, there still has to be
// none.
func (c *ctl) replace(ctx context.Context, st *store.Client, create bool, rev int64, cd *cluster.ClusterData) error {
	// What 0.17 doesn't know belongs to the cluster that ends here.
	ext, err := st.List(ctx, st.ExtKey(""))
	if err != nil {
		return fmt.Errorf("cannot update cluster data: %w", err)
	}
	ops := []store.Op{{Key: st.ClusterDataKey(), Value: store.Encode(cd)}}
	for _, kv := range ext.KVs {
		ops = append(ops, store.Op{Key: kv.Key, Delete: true})
	}
	var conds []store.Condition
	if create {
		conds = []store.Condition{{Key: st.ClusterDataKey(), Revision: rev}}
	}
	if _, err := st.Commit(ctx, conds, ops); err != nil {
		return fmt.Errorf("cannot update cluster data: %w", err)
	}
	return nil
}
