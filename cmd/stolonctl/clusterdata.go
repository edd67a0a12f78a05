package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"stolon/internal/cluster"
	"stolon/internal/store"
)

func (c *ctl) clusterdata() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "clusterdata",
		Short: "read or write the raw cluster data",
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.clusterdataRead(), c.clusterdataWrite())
	return cmd
}

func (c *ctl) clusterdataRead() *cobra.Command {
	var pretty bool
	cmd := &cobra.Command{
		Use:   "read",
		Short: "print the cluster data as JSON",
		RunE: c.with(func(st *store.Client, _ []string) error {
			cd, _, err := c.read(st)
			if err != nil {
				return err
			}
			if cd == nil || cd.Cluster == nil {
				return fmt.Errorf(`no cluster clusterdata available: cluster %q has none in this store, check --cluster-name and --store-prefix or run "stolonctl init"`, c.ClusterName)
			}
			out := store.Encode(cd)
			if pretty {
				var b bytes.Buffer
				if err := json.Indent(&b, out, "", "\t"); err != nil {
					return err
				}
				out = b.Bytes()
			}
			fmt.Fprintf(c.stdout, "%s\n", out)
			return nil
		}),
	}
	cmd.Flags().BoolVar(&pretty, "pretty", false, "indent the output")
	return cmd
}

func (c *ctl) clusterdataWrite() *cobra.Command {
	var file string
	var yes bool
	cmd := &cobra.Command{
		Use:   "write",
		Short: "write cluster data as JSON, as when moving to another store",
		RunE: c.with(func(st *store.Client, _ []string) error {
			data, err := c.readInput(cmp.Or(file, "-"))
			if err != nil {
				return err
			}
			var cd *cluster.ClusterData
			if err := json.Unmarshal(data, &cd); err != nil {
				return fmt.Errorf("invalid cluster data: %w", err)
			}
			old, rev, err := c.read(st)
			if err != nil {
				return err
			}
			if old != nil && !yes {
				return errors.New("WARNING: cluster data already available use --yes to override")
			}
			if err := cd.Check(); err != nil {
				return fmt.Errorf("invalid cluster data: %w; nothing was written", err)
			}
			if old != nil {
				fmt.Fprintln(c.stdout, "WARNING: The current cluster data will be removed")
			}
			if err := c.replace(st, old, rev, cd); err != nil {
				return fmt.Errorf("failed to write cluster data into new store: %w", err)
			}
			fmt.Fprintln(c.stdout, "successfully wrote cluster data into the new store")
			return nil
		}),
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", `file with the cluster data, "-" or nothing for standard input`)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "overwrite existing cluster data")
	return cmd
}
