package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"stolon/internal/cluster"
	"stolon/internal/store"
)

// statusReport is what "status -f json" prints.
type statusReport struct {
	Sentinels []sentinelStatus `json:"sentinels"`
	Proxies   []proxyStatus    `json:"proxies"`
	Keepers   []keeperStatus   `json:"keepers"`
	Cluster   clusterStatus    `json:"cluster"`
	// Problems is what an operator must end; 0.17 has no such list.
	Problems []string `json:"problems,omitempty"`
}

type sentinelStatus struct {
	UID    string `json:"uid"`
	Leader bool   `json:"leader"`
}

type proxyStatus struct {
	UID        string `json:"uid"`
	Generation int64  `json:"generation"`
}

type keeperStatus struct {
	UID                 string `json:"uid"`
	ListenAddress       string `json:"listen_address"`
	Healthy             bool   `json:"healthy"`
	PgHealthy           bool   `json:"pg_healthy"`
	PgWantedGeneration  int64  `json:"pg_wanted_generation"`
	PgCurrentGeneration int64  `json:"pg_current_generation"`
}

type clusterStatus struct {
	Available       bool   `json:"available"`
	MasterKeeperUID string `json:"master_keeper_uid"`
	MasterDBUID     string `json:"master_db_uid"`
}

func (c *ctl) status() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "print the state of the cluster",
		RunE: c.with(func(st *store.Client, _ []string) error {
			ctx, cancel := c.request()
			defer cancel()
			// One snapshot, so that no two parts of the output disagree.
			state, err := st.State(ctx)
			if err != nil {
				return fmt.Errorf("cannot get cluster data: %w", err)
			}
			if state.DataErr != nil {
				return fmt.Errorf("cannot get cluster data: %w", state.DataErr)
			}
			if err := c.usable(state.Data); err != nil {
				return err
			}
			leader, err := st.Leader(ctx, st.ElectionKey())
			if err != nil {
				return fmt.Errorf("cannot get the leading sentinel: %w", err)
			}
			r := report(state, leader)
			switch format {
			case "", "text":
				r.print(c.stdout, state.Data)
				return nil
			case "json":
				out, err := json.MarshalIndent(r, "", "\t")
				if err != nil {
					return err
				}
				fmt.Fprintf(c.stdout, "%s\n", out)
				return nil
			}
			return fmt.Errorf("unrecognised output format %s", format)
		}),
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "text or json (default text)")
	return cmd
}

func report(st *store.State, leader string) statusReport {
	r := statusReport{Sentinels: []sentinelStatus{}, Proxies: []proxyStatus{}, Keepers: []keeperStatus{}}
	for _, uid := range cluster.SortedKeys(st.Sentinels) {
		r.Sentinels = append(r.Sentinels, sentinelStatus{uid, uid == leader})
		if uid == leader {
			r.Problems = append(r.Problems, st.Sentinels[uid].Problems...)
		}
	}
	for _, uid := range cluster.SortedKeys(st.Proxies) {
		r.Proxies = append(r.Proxies, proxyStatus{uid, st.Proxies[uid].Generation})
	}
	for _, uid := range cluster.SortedKeys(st.Data.Keepers) {
		k := keeperStatus{UID: uid, ListenAddress: "(no db assigned)", Healthy: st.Data.Keepers[uid].Status.Healthy}
		if db := st.Data.DBOf(uid); db != nil {
			k.ListenAddress = "(unknown)"
			if db.Status.ListenAddress != "" {
				k.ListenAddress = db.Status.ListenAddress + ":" + db.Status.Port
			}
			k.PgHealthy, k.PgWantedGeneration, k.PgCurrentGeneration = db.Status.Healthy, db.Generation, db.Status.CurrentGeneration
		}
		r.Keepers = append(r.Keepers, k)
	}
	for _, uid := range cluster.SortedKeys(st.Keepers) {
		if why := st.Keepers[uid].Refuses; why != "" {
			r.Problems = append(r.Problems, "keeper "+uid+": "+why)
		}
	}
	r.Cluster.Available = st.Data.DBs != nil
	if m := st.Data.Master(); m != nil {
		r.Cluster.MasterDBUID, r.Cluster.MasterKeeperUID = st.Data.Cluster.Status.Master, m.Spec.KeeperUID
	}
	return r
}

// print writes the text form. 0.17 flushes its table after each row, which
// aligns the header with the first row only; scripts split at tabs.
func (r statusReport) print(w io.Writer, cd *cluster.ClusterData) {
	defer func() {
		if len(r.Problems) > 0 {
			section(w, "\n=== Problems ===")
			fmt.Fprintf(w, "%s\n\n", strings.Join(r.Problems, "\n"))
		}
	}()
	tab := tabwriter.NewWriter(w, 0, 8, 1, '\t', 0)
	section(w, "=== Active sentinels ===")
	if len(r.Sentinels) == 0 {
		fmt.Fprintln(w, "No active sentinels")
	} else {
		fmt.Fprintf(tab, "ID\tLEADER\n")
		for _, s := range r.Sentinels {
			fmt.Fprintf(tab, "%s\t%t\n", s.UID, s.Leader)
			tab.Flush()
		}
	}
	section(w, "\n=== Active proxies ===")
	if len(r.Proxies) == 0 {
		fmt.Fprintln(w, "No active proxies")
	} else {
		fmt.Fprintln(w, "ID")
		for _, p := range r.Proxies {
			fmt.Fprintln(w, p.UID)
		}
	}
	section(w, "\n=== Keepers ===")
	if len(r.Keepers) == 0 {
		fmt.Fprintf(w, "No keepers available\n\n")
	} else {
		fmt.Fprintf(tab, "UID\tHEALTHY\tPG LISTENADDRESS\tPG HEALTHY\tPG WANTEDGENERATION\tPG CURRENTGENERATION\n")
		for _, k := range r.Keepers {
			fmt.Fprintf(tab, "%s\t%t\t%s\t%t\t%d\t%d\t\n", k.UID, k.Healthy, k.ListenAddress, k.PgHealthy, k.PgWantedGeneration, k.PgCurrentGeneration)
			tab.Flush()
		}
	}
	if r.Cluster.MasterDBUID == "" {
		fmt.Fprintf(w, "\nNo cluster available\n")
		return
	}
	section(w, "\n=== Cluster Info ===")
	fmt.Fprintf(w, "Master Keeper: %s\n", r.Cluster.MasterKeeperUID)
	section(w, "\n===== Keepers/DB tree =====")
	fmt.Fprintf(w, "%s (master)\n", r.Cluster.MasterKeeperUID)
	printFollowers(w, cd, r.Cluster.MasterDBUID, "", map[string]bool{})
	fmt.Fprintln(w)
}

func section(w io.Writer, title string) { fmt.Fprintf(w, "%s\n\n", title) }

// printFollowers prints who follows the db, and who follows those. Odd data
// may go in circles: each db is printed once.
func printFollowers(w io.Writer, cd *cluster.ClusterData, uid, indent string, seen map[string]bool) {
	seen[uid] = true
	followers := slices.DeleteFunc(slices.Clone(cd.DBs[uid].Spec.Followers), func(f string) bool {
		return cd.DBs[f] == nil || seen[f]
	})
	for i, f := range followers {
		branch, more := "├─", "│ "
		if i == len(followers)-1 {
			branch, more = "└─", "  "
		}
		fmt.Fprintf(w, "%s%s%s\n", indent, branch, cd.DBs[f].Spec.KeeperUID)
		printFollowers(w, cd, f, indent+more, seen)
	}
}
