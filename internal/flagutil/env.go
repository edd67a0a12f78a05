// Package flagutil is what the command lines of all programs share: flags from
// the environment, and the flags that find a cluster.
package flagutil

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// FromEnv sets flags from the environment: flag "pg-port" with prefix STKEEPER
// from STKEEPER_PG_PORT. An empty variable is as good as none. It is to be
// called before the command line is parsed, which wins.
func FromEnv(fs *pflag.FlagSet, prefix string, getenv func(string) string) error {
	var bad error
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Name == "help" || f.Name == "version" {
			return
		}
		name := EnvName(prefix, f.Name)
		if secret, ok := f.Value.(*secretFile); ok {
			secret.fromEnv(name, getenv)
		}
		value := getenv(name)
		if value == "" {
			return
		}
		notice := f.Deprecated
		f.Deprecated = "" // a deprecated flag by environment isn't told of
		if err := fs.Set(f.Name, value); err != nil {
			bad = fmt.Errorf("invalid value %q for %s: %w", value, name, err)
		}
		f.Deprecated = notice
	})
	return bad
}

// EnvName is the variable that sets a flag.
func EnvName(prefix, flag string) string {
	return prefix + "_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}
