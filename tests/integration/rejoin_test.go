//go:build integration

package integration

import (
	"os"
	"testing"

	"stolon/tests/harness"
)

// An old master comes back after kill -9 (HA-5): as it is where it holds
// nothing more than the new one, whatever usePgrewind says; by a rewind where it
// does; by a copy where it can't be rewound, and then its data is kept.
func TestHowAKilledMasterRejoins(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		diverged bool
		spec     string // patched while it is away
		rewind   bool   // from the beginning
		logs     []string
		aside    bool
	}{
		{"as it is", false, `{}`, false, []string{"rejoined without a copy"}, false},
		{"by a rewind", true, `{}`, true, []string{"pg_rewind succeeded"}, false},
		{"by a copy", true, `{}`, false, []string{"pg_basebackup", "keeping the old data directory"}, true},
		{"by a copy, as it wrote no hints", true, `{"usePgrewind":true}`, false,
			[]string{"pg_rewind can't be used", "neither data checksums nor wal_log_hints", "pg_basebackup", "keeping the old data directory"}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := harness.Start(t, harness.Options{Keepers: 2, Proxies: 1, Spec: harness.Quick(harness.Spec{"usePgrewind": tt.rewind, "maxStandbyLag": 1 << 30})})
			old, standbys := c.Roles()
			if tt.name == "by a copy, as it wrote no hints" && old.SQL().Query("show data_checksums") == "on" {
				t.Skip("initdb of PostgreSQL 18 and later turns data checksums on")
			}
			heir := standbys[0]
			if tt.spec != "{}" && old.SQL().Query("show data_checksums") == "on" { // initdb's default since 18
				tt.logs, tt.aside = []string{"pg_rewind succeeded"}, false
			}
			old.SQL().Query("create table rows (n int)")
			old.SQL().Query(insert(1))
			c.AwaitCaughtUp(soon, old, heir)
			if tt.diverged {
				heir.Freeze()
				// More than lies in the socket of the heir, who doesn't get row 9.
				old.SQL().Query("create table bulk as select md5(n::text) as m from generate_series(1, 300000) n")
				old.SQL().Query(insert(9))
			}
			old.KillBoth()
			if tt.diverged {
				heir.Resume()
			}
			c.AwaitMaster(2*soon, heir)
			heir.SQL().Query(insert(2))
			c.Patch(tt.spec)
			mark := old.Mark()
			old.Start()
			c.AwaitHealthy(2*soon, 2)
			old.SQL().AwaitQuery(soon, "select string_agg(n::text, ',' order by n) from rows", "1,2")
			for _, text := range tt.logs {
				old.AwaitLog(soon, mark, text)
			}
			if !tt.aside && old.Logged(mark, "pg_basebackup") {
				t.Error("everything was copied")
			}
			if _, err := os.Stat(old.PGDir() + ".aside"); (err == nil) != tt.aside {
				t.Errorf("old data kept: %t, want %t", err == nil, tt.aside)
			}
		})
	}
}
