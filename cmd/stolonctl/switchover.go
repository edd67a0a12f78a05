package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"stolon/internal/cluster"
	"stolon/internal/store"
)

// switchoverLimit is what a switchover takes at most after its preparation:
// the sum of what its steps may take, and that of another leader.
const switchoverLimit = 60 * time.Second

func (c *ctl) switchover() *cobra.Command {
	var to string
	var timeout time.Duration
	var yes, force bool
	cmd := &cobra.Command{
		Use:   "switchover",
		Short: "make another keeper's db the master, losing nothing",
		RunE: c.with(func(st *store.Client, args []string) error {
			if err := tooMany(args, 0); err != nil {
				return err
			}
			if timeout <= 0 {
				return fmt.Errorf("--timeout must be positive, not %s", timeout)
			}
			req, from, err := c.switchoverRequest(st, to, timeout, force)
			if err != nil {
				return err
			}
			if !yes {
				target := "the best standby"
				if to != "" {
					target = "keeper " + to
				}
				fmt.Fprintf(c.stderr, "The master moves from keeper %s to %s; clients are disconnected and wait for a moment.\n", from, target)
				if ok, err := c.confirm(); err != nil || !ok {
					return err
				}
			}
			return c.runSwitchover(st, req, from)
		}),
	}
	cmd.Flags().StringVar(&to, "to", "", "keeper that takes over (default the best standby's)")
	cmd.Flags().DurationVar(&timeout, "timeout", 60*time.Second, "how long the preparation may take, in which clients are served")
	cmd.Flags().BoolVar(&force, "force", false, "also when a proxy is silent or of 0.17: it is waited for a second, and its clients wait until it looks at the store again")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// switchoverRequest makes the request, and tells whose the master is now.
func (c *ctl) switchoverRequest(st *store.Client, to string, timeout time.Duration, force bool) (cluster.SwitchoverRequest, string, error) {
	cd, _, err := c.read(st)
	if err != nil {
		return cluster.SwitchoverRequest{}, "", err
	}
	if cd == nil || cd.Cluster == nil || cd.Master() == nil {
		return cluster.SwitchoverRequest{}, "", errors.New(`the cluster has no master; "stolonctl status" tells more`)
	}
	from := cd.Master().Spec.KeeperUID
	switch {
	case to != "" && cd.Keepers[to] == nil:
		return cluster.SwitchoverRequest{}, "", fmt.Errorf(`keeper doesn't exist: %q (--to); "stolonctl status" lists them`, to)
	case to == from:
		return cluster.SwitchoverRequest{}, "", fmt.Errorf("keeper %s has the master already (--to)", to)
	}
	return cluster.SwitchoverRequest{
		ID: c.newUID(), ClusterUID: cd.Cluster.UID, Master: cd.Master().UID, Target: to, Timeout: timeout, Force: force,
	}, from, nil
}

// runSwitchover asks for it and tells of each phase until it has ended.
func (c *ctl) runSwitchover(st *store.Client, req cluster.SwitchoverRequest, from string) error {
	ctx, cancel := context.WithTimeout(context.Background(), req.Timeout+switchoverLimit)
	defer cancel()
	prefix := st.ExtKey("switchover/")
	changes := st.Watch(ctx, prefix)
	if err := st.RequestSwitchover(ctx, req); err != nil {
		return err
	}
	begun := c.now()
	last, phase := begun, cluster.SwitchoverPhase("asking")
	enter := func(next cluster.SwitchoverPhase) {
		if next == phase {
			return
		}
		now := c.now()
		fmt.Fprintf(c.stdout, "%-10s %6.3f s\n", told[phase], now.Sub(last).Seconds())
		last, phase = now, next
	}
	for ch := range changes {
		for _, kv := range ch.Puts {
			switch strings.TrimPrefix(kv.Key, st.ExtKey("")) {
			case cluster.ExtSwitchover:
				var s cluster.Switchover
				if json.Unmarshal(kv.Value, &s) == nil && s.ID == req.ID {
					enter(s.Phase)
				}
			case cluster.ExtSwitchoverOutcome:
				var o cluster.SwitchoverOutcome
				if json.Unmarshal(kv.Value, &o) != nil || o.ID != req.ID {
					continue
				}
				enter("")
				if !o.Done {
					return fmt.Errorf("not switched over: %s", o.Why)
				}
				cd, _, err := c.read(st)
				if err != nil {
					return err
				}
				to := "another keeper"
				if m := cd.Master(); m != nil {
					to = "keeper " + m.Spec.KeeperUID
				}
				fmt.Fprintf(c.stdout, "switched over from keeper %s to %s in %.3f s\n", from, to, c.now().Sub(begun).Seconds())
				return nil
			}
		}
	}
	return errors.New(`it is not known how the switchover ended: no leading sentinel told in time; see "stolonctl status"`)
}

// told is what the phases do, for the account.
var told = map[cluster.SwitchoverPhase]string{
	"asking": "ask", cluster.Preparing: "prepare", cluster.Cutting: "cut", cluster.Stopping: "stop", cluster.Shipping: "ship",
	cluster.Electing: "promote", cluster.RollingBack: "roll back",
}
