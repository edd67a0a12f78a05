//go:build integration

package integration

import (
	"fmt"
	"strings"
	"testing"

	"stolon/tests/harness"
)

// defaultSUReplAccessMode strict lets stolon's roles in from the other dbs'
// addresses only, which is enough to copy, to stream and to fail over; "all"
// lets them in from everywhere again.
func TestStrictAccess(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 2, Proxies: 1, Spec: harness.Quick(harness.Spec{"defaultSUReplAccessMode": "strict", "usePgrewind": true})})
	const rules = `select coalesce(string_agg(user_name[1] || ' ' || database[1] || ' ' || address, ', ' order by line_number), '')
		from pg_hba_file_rules where type = 'host' and user_name[1] <> 'all'`
	strict := fmt.Sprintf("%s all 127.0.0.1, %s replication 127.0.0.1", harness.Superuser, harness.Replication)
	master, standbys := c.Roles()
	master.SQL().AwaitQuery(soon, rules, strict)
	standbys[0].SQL().AwaitQuery(soon, rules, "")

	k := c.AddKeeper()
	k.Start()
	c.AwaitHealthy(2*soon, 3)
	master.KillBoth()
	next := c.AwaitAnother(2*soon, master)
	next.SQL().AwaitQuery(soon, rules, strict)
	master.Start()
	c.AwaitHealthy(2*soon, 3)
	master.SQL().AwaitQuery(soon, rules, "")

	c.Patch(`{"defaultSUReplAccessMode":"all"}`)
	all := fmt.Sprintf("%[1]s all 0.0.0.0, %[1]s all ::, %[2]s replication 0.0.0.0, %[2]s replication ::", harness.Superuser, harness.Replication)
	for _, k := range c.Keepers {
		k.SQL().AwaitQuery(soon, rules, all)
	}
}

// pgHBA decides who else comes in, on every instance and by a reload: nobody,
// those of its lines, or everybody with a password.
func TestWhoElseComesIn(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 2, Proxies: 1})
	master, standbys := c.Roles()
	master.SQL().Query("create role app login password 'app'")
	master.SQL().Query("create role other login password 'other'")
	c.AwaitCaughtUp(soon, master, standbys...)
	pids := map[*harness.Keeper]int{}
	for _, k := range c.Keepers {
		pids[k] = k.Postmaster()
	}
	await := func(user string, in bool) {
		t.Helper()
		for _, k := range c.Keepers {
			s := k.SQL().As(user, user)
			harness.Await(t, soon, fmt.Sprintf("%s comes in: %t", user, in), func() (string, bool) {
				out, err := s.Try(soon, "select 1")
				if !in {
					return fmt.Sprint(out, err), err != nil && strings.Contains(err.Error(), "no pg_hba.conf entry")
				}
				return fmt.Sprint(out, err), err == nil
			})
		}
	}
	await("app", true)
	c.Patch(`{"pgHBA":["host postgres app 127.0.0.1/32 md5"]}`)
	await("other", false)
	await("app", true)
	c.Patch(`{"pgHBA":[]}`)
	await("app", false)
	c.Patch(`{"pgHBA":null}`)
	await("app", true)
	await("other", true)
	for k, pid := range pids {
		if got := k.Postmaster(); got != pid {
			t.Errorf("%s: the postmaster is %d, no longer %d", k.UID, got, pid)
		}
	}
}
