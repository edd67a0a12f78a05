package main

import (
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
		Long:  "Make a new cluster from a cluster spec, by default {\"initMode\":\"new\"}, and forget an existing one.\nThe keepers' databases will be overwritten as the spec says.",
		RunE: c.with(func(st *store.Client, args []string) error {
			if err := tooMany(args, 1); err != nil {
				return err
			}
			spec, err := c.initialSpec(args, file)
			if err != nil {
				return err
			}
			old, rev, err := c.read(st)
			if err != nil {
				return err
			}
			if old != nil {
				fmt.Fprintln(c.stdout, "WARNING: The current cluster data will be removed")
			}
			fmt.Fprintln(c.stdout, "WARNING: The databases managed by the keepers will be overwritten depending on the provided cluster spec.")
			if !yes {
				if ok, err := c.confirm(); err != nil || !ok {
					return err
				}
			}
			next := cluster.New(c.newUID(), spec, c.now())
			asked := store.Op{Key: st.ExtKey(cluster.ExtInit), Value: store.Encode(cluster.InitRecord{ClusterUID: next.Cluster.UID})}
			if err := c.replace(st, old, rev, next, asked); err != nil {
				return fmt.Errorf("cannot update cluster data: %w", err)
			}
			return nil
		}),
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", `file with the cluster spec, "-" for standard input`)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// initialSpec reads and checks the spec before anybody is asked anything.
func (c *ctl) initialSpec(args []string, file string) (*cluster.Spec, error) {
	data := []byte(`{"initMode":"new"}`)
	switch {
	case len(args) == 1:
		data = []byte(args[0])
	case file != "":
		var err error
		if data, err = c.readInput(file); err != nil {
			return nil, err
		}
	}
	spec, err := cluster.ParseSpec(data)
	if err != nil {
		return nil, fmt.Errorf("failed to unmarshal cluster spec: %w", err)
	}
	if err := spec.Validate(); err != nil {
		return nil, fmt.Errorf("invalid cluster spec: %w", err)
	}
	c.tellUnknown(data)
	return spec, nil
}

// replace writes new cluster data. An existing cluster is replaced whatever
// its sentinel wrote since it was read; where there was none, nobody else may
// have made one meanwhile.
func (c *ctl) replace(st *store.Client, old *cluster.ClusterData, rev int64, next *cluster.ClusterData, also ...store.Op) error {
	var conds []store.Condition
	if old == nil {
		conds = []store.Condition{{Key: st.ClusterDataKey(), Revision: rev}}
	}
	ctx, cancel := c.request()
	defer cancel()
	_, err := st.Commit(ctx, conds, append([]store.Op{{Key: st.ClusterDataKey(), Value: store.Encode(next)}}, also...))
	return err
}
