package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"stolon/internal/store"
)

func (c *ctl) spec() *cobra.Command {
	var defaults bool
	cmd := &cobra.Command{
		Use:   "spec",
		Short: "print the cluster spec",
		RunE: c.with(func(st *store.Client, _ []string) error {
			cd, _, err := c.read(st)
			if err != nil {
				return err
			}
			if err := c.usable(cd); err != nil {
				return err
			}
			var out []byte
			if defaults {
				out, err = json.MarshalIndent(cd.Cluster.Spec.Settings(), "", "\t")
			} else {
				out, err = cd.Cluster.Spec.SetOnly()
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(c.stdout, "%s\n", out)
			return nil
		}),
	}
	cmd.Flags().BoolVar(&defaults, "defaults", false, "print every field, with its default where it is not set")
	return cmd
}
