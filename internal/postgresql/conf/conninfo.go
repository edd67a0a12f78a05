package conf

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Conninfo is a libpq connection string: key=value, sorted by key, empty
// values left out. Its text is stable, because a change of primary_conninfo's
// means work for the standby.
func Conninfo(values map[string]string) string {
	var pairs []string
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if v := values[key]; v != "" {
			pairs = append(pairs, key+"="+conninfoEscaper.Replace(v))
		}
	}
	return strings.Join(pairs, " ")
}

// conninfoEscaper puts a backslash before what ends or quotes a value: libpq
// takes the byte after a backslash as it is.
var conninfoEscaper = strings.NewReplacer(
	`\`, `\\`, `'`, `\'`, " ", `\ `, "\n", "\\\n", "\r", "\\\r", "\t", "\\\t", "\f", "\\\f", "\v", "\\\v",
)

// TLS is how a connection to another instance is secured, in libpq's words.
type TLS struct {
	Mode      string // sslmode; "" is prefer
	RootCert  string // path of the certificates that the server's is verified with
	Cert, Key string // paths of the client's certificate and its key
}

// Settings are the words of a conninfo.
func (t TLS) Settings() map[string]string {
	return map[string]string{
		"sslcert":     t.Cert,
		"sslkey":      t.Key,
		"sslmode":     cmp.Or(t.Mode, "prefer"),
		"sslrootcert": t.RootCert,
	}
}

// Required reports whether a connection without TLS is none.
func (t TLS) Required() bool {
	return t.Mode == "require" || t.Mode == "verify-ca" || t.Mode == "verify-full"
}

// Primary is a server that a standby follows, and as whom.
type Primary struct {
	Host, Port string
	User       string
	Password   string // "" with trust, or when it is in Passfile
	// Passfile is the path of a libpq password file. PostgreSQL logs the conninfo
	// whenever it changes, so a password is better kept out of it.
	Passfile        string
	ApplicationName string
	// Database is where a standby asks for logical slots; "" for none.
	Database string
	TLS      TLS
}

// Conninfo is the standby's primary_conninfo.
func (p Primary) Conninfo() string {
	values := p.TLS.Settings()
	maps.Copy(values, map[string]string{
		"application_name": p.ApplicationName,
		"dbname":           p.Database,
		"host":             p.Host,
		"passfile":         p.Passfile,
		"password":         p.Password,
		"port":             p.Port,
		"user":             p.User,
	})
	return Conninfo(values)
}

// PassfileLine is a line of a libpq password file, for any database of the
// server. It holds the password of one login; a password with a line break
// can't be written there.
func PassfileLine(host, port, user, password string) string {
	e := passfileEscaper
	return e.Replace(host) + ":" + e.Replace(port) + ":*:" + e.Replace(user) + ":" + e.Replace(password) + "\n"
}

var passfileEscaper = strings.NewReplacer(`\`, `\\`, ":", `\:`)
