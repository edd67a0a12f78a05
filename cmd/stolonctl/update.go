package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"stolon/internal/cluster"
	"stolon/internal/store"
)

func (c *ctl) update() *cobra.Command {
	var file string
	var patch bool
	cmd := &cobra.Command{
		Use:   "update [cluster spec as JSON]",
		Short: "replace or patch the cluster spec",
		RunE: c.with(func(st *store.Client, args []string) error {
			data, err := c.updateInput(args, file)
			if err != nil {
				return err
			}
			err = c.change(st, func(cd *cluster.ClusterData) error {
				next, err := nextSpec(cd.Cluster.Spec, data, patch)
				if err != nil {
					return err
				}
				return c.updateSpec(cd, next)
			})
			if err == nil {
				c.tellUnknown(data)
			}
			return err
		}),
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", `file with the cluster spec or patch, "-" for standard input`)
	cmd.Flags().BoolVarP(&patch, "patch", "p", false, "merge the given JSON into the spec (RFC 7386) instead of replacing it")
	return cmd
}

func (c *ctl) updateInput(args []string, file string) ([]byte, error) {
	if err := tooMany(args, 1); err != nil {
		return nil, err
	}
	switch {
	case len(args) == 0 && file == "":
		return nil, errors.New("no cluster spec provided as argument and no file provided (--file/-f option)")
	case len(args) == 1 && file != "":
		return nil, errors.New("only one of cluster spec provided as argument or file must provided (--file/-f option)")
	case len(args) == 1:
		return []byte(args[0]), nil
	}
	return c.readInput(file)
}

func (c *ctl) updateSpec(cd *cluster.ClusterData, next *cluster.Spec) error {
	if err := cd.UpdateSpec(next, c.now()); err != nil {
		return fmt.Errorf("Cannot update cluster spec: %w", err) //nolint:staticcheck // 0.17's words
	}
	return nil
}

// nextSpec is what the input makes of the old spec.
func nextSpec(old *cluster.Spec, data []byte, patch bool) (*cluster.Spec, error) {
	if patch {
		next, err := old.Patch(data)
		if err != nil {
			return nil, fmt.Errorf("failed to patch cluster spec: %w", err)
		}
		return next, nil
	}
	next, err := cluster.ParseSpec(data)
	if err != nil {
		return nil, fmt.Errorf("failed to unmarshal cluster spec: %w", err)
	}
	return next, nil
}
