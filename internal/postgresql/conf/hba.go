package conf

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// HBALogin is a role of stolon's and how PostgreSQL authenticates it: trust,
// md5 or scram-sha-256.
type HBALogin struct {
	User, Method string
}

// HBAInput is what pg_hba.conf is made of.
type HBAInput struct {
	Superuser, Replication HBALogin
	// Strict lets stolon's roles in from the addresses of Others only; else
	// from everywhere.
	Strict bool
	// Others are the advertised addresses of the cluster's other DBs, when
	// this instance serves them (a master); nil on a standby.
	Others []string
	// SlotSync lets the replication user into SyncDatabase too: standbys ask
	// there for logical slots.
	SlotSync bool
	// InternalOnly keeps everybody else out.
	InternalOnly bool
	// Users are the pgHBA lines of the cluster spec; nil lets everybody in by
	// password, an empty list nobody.
	Users []string
}

// HBA returns the lines of pg_hba.conf.
func HBA(in HBAInput) []string {
	su, suMethod := hbaName(in.Superuser.User), in.Superuser.Method
	repl, replMethod := hbaName(in.Replication.User), in.Replication.Method
	lines := []string{
		"local postgres " + su + " " + suMethod,
		"local replication " + repl + " " + replMethod,
	}
	if in.Strict {
		var addresses []string
		for _, other := range slices.Compact(slices.Sorted(slices.Values(in.Others))) {
			addresses = append(addresses, hbaAddress(other))
		}
		for _, a := range addresses {
			lines = append(lines,
				"host all "+su+" "+a+" "+suMethod,
				"host replication "+repl+" "+a+" "+replMethod)
		}
	} else {
		lines = append(lines,
			"host all "+su+" 0.0.0.0/0 "+suMethod,
			"host all "+su+" ::0/0 "+suMethod,
			"host replication "+repl+" 0.0.0.0/0 "+replMethod,
			"host replication "+repl+" ::0/0 "+replMethod)
	}
	if in.SlotSync {
		for _, l := range slices.Clone(lines) {
			if rest, ok := strings.CutPrefix(l, "host replication "); ok {
				lines = append(lines, "host "+SyncDatabase+" "+rest)
			}
		}
	}
	switch {
	case in.InternalOnly:
	case in.Users == nil:
		// md5 takes passwords stored as SCRAM too.
		lines = append(lines, "host all all 0.0.0.0/0 md5", "host all all ::0/0 md5")
	default:
		lines = append(lines, in.Users...)
	}
	return lines
}

var plainHBAToken = regexp.MustCompile(`^[A-Za-z0-9_.:$][A-Za-z0-9_.:$-]*$`)

// hbaName quotes a role name where it would otherwise be a keyword, a group, a
// file or several words.
func hbaName(name string) string {
	switch strings.ToLower(name) {
	case "all", "sameuser", "samerole", "samegroup", "replication":
		return hbaQuote(name)
	}
	if !plainHBAToken.MatchString(name) {
		return hbaQuote(name)
	}
	return name
}

// hbaAddress is one host: an address with its full mask, or a name, which
// PostgreSQL resolves itself.
func hbaAddress(address string) string {
	if ip, err := netip.ParseAddr(address); err == nil {
		ip = ip.Unmap().WithZone("")
		return netip.PrefixFrom(ip, ip.BitLen()).String()
	}
	switch strings.ToLower(address) {
	case "all", "samehost", "samenet":
		return hbaQuote(address)
	}
	if !plainHBAToken.MatchString(address) {
		return hbaQuote(address)
	}
	return address
}

func hbaQuote(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
