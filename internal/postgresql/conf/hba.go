package conf

import (
	"cmp"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// HBALogin is a role of stolon's and how PostgreSQL authenticates it: trust,
// md5, scram-sha-256 or, over TLS only, cert.
type HBALogin struct {
	User, Method string
	// Local is the method by the socket; "" is Method.
	Local string
}

// line is a line that lets the role into a database from an address.
func (l HBALogin) line(database, address string, tlsOnly bool) string {
	kind := "host"
	if tlsOnly || l.Method == "cert" {
		kind = "hostssl"
	}
	return strings.Join([]string{kind, database, hbaName(l.User), address, l.Method}, " ")
}

// local is the line that lets the role into a database by the socket.
func (l HBALogin) local(database string) string {
	return strings.Join([]string{"local", database, hbaName(l.User), cmp.Or(l.Local, l.Method)}, " ")
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
	// TLSOnly lets stolon's roles in over TLS only.
	TLSOnly bool
	// InternalOnly keeps everybody else out.
	InternalOnly bool
	// Users are the pgHBA lines of the cluster spec; nil lets everybody in by
	// password, an empty list nobody.
	Users []string
}

// HBA returns the lines of pg_hba.conf.
func HBA(in HBAInput) []string {
	lines := []string{in.Superuser.local("postgres"), in.Replication.local("replication")}
	addresses := []string{"0.0.0.0/0", "::0/0"}
	if in.Strict {
		addresses = nil
		for _, other := range slices.Compact(slices.Sorted(slices.Values(in.Others))) {
			addresses = append(addresses, hbaAddress(other))
		}
		for _, a := range addresses { // in 0.17's order, which is another one here
			lines = append(lines, in.Superuser.line("all", a, in.TLSOnly), in.Replication.line("replication", a, in.TLSOnly))
		}
	} else {
		for _, a := range addresses {
			lines = append(lines, in.Superuser.line("all", a, in.TLSOnly))
		}
		for _, a := range addresses {
			lines = append(lines, in.Replication.line("replication", a, in.TLSOnly))
		}
	}
	if in.SlotSync {
		for _, a := range addresses {
			lines = append(lines, in.Replication.line(SyncDatabase, a, in.TLSOnly))
		}
	}
	switch {
	case in.InternalOnly && len(in.Users) > 0:
		// They are read all the same: with an error in them PostgreSQL shall not
		// start now, rather than keep everybody out for ever when it is to let
		// them in, which is by a reload that it refuses.
		lines = append(lines, "local all,replication all reject", "host all,replication all all reject")
		lines = append(lines, in.Users...)
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
