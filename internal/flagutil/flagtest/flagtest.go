// Package flagtest checks that a program has the flags of 0.17. cli.json lists
// them as 0.17's binaries were seen to have them.
package flagtest

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"stolon/internal/flagutil"
)

//go:embed cli.json
var list []byte

type flag struct {
	Binary, Command, Flag, Shorthand, Type string
	Default                                any
	Env, Deprecated                        *string
}

// Check checks the flags of all commands of root, and that doc/commands tells
// of them.
func Check(t *testing.T, root *cobra.Command, prefix string) {
	t.Helper()
	var flags []flag
	if err := json.Unmarshal(list, &flags); err != nil {
		t.Fatal(err)
	}
	flagutil.Prepare(root, prefix, nil, io.Discard, io.Discard)
	seen := 0
	for _, want := range flags {
		if want.Binary != root.Name() || want.Command == "help" { // cobra's own
			continue
		}
		seen++
		where := strings.Join([]string{want.Binary, want.Command, "--" + want.Flag}, " ")
		cmd, _, err := root.Find(strings.Fields(want.Command))
		if err != nil {
			t.Errorf("%s: %v", where, err)
			continue
		}
		cmd.InitDefaultHelpFlag()
		persistent := root.PersistentFlags().Lookup(want.Flag)
		got := persistent
		if cmd != root || got == nil {
			got = cmd.LocalFlags().Lookup(want.Flag)
		}
		if got == nil {
			t.Errorf("%s: there is no such flag", where)
			continue
		}
		checkFlag(t, where, got, want)
		env := ""
		if got == persistent {
			env = flagutil.EnvName(prefix, want.Flag)
		}
		if (want.Env == nil) != (env == "") || want.Env != nil && *want.Env != env {
			t.Errorf("%s: environment variable %q, want %v", where, env, want.Env)
		}
	}
	if seen == 0 {
		t.Errorf("no flags of %s in the list", root.Name())
	}
	document(t, root, prefix)
}

func checkFlag(t *testing.T, where string, got *pflag.Flag, want flag) {
	t.Helper()
	if got.Shorthand != want.Shorthand || got.Value.Type() != want.Type {
		t.Errorf("%s: shorthand %q, type %s, want %q, %s", where, got.Shorthand, got.Value.Type(), want.Shorthand, want.Type)
	}
	if def := fmt.Sprint(want.Default); got.DefValue != def {
		t.Errorf("%s: default %q, want %q", where, got.DefValue, def)
	}
	if (got.Deprecated != "") != (want.Deprecated != nil) || want.Deprecated != nil && !strings.Contains(got.Deprecated, *want.Deprecated) {
		t.Errorf("%s: deprecated for %q, want %v", where, got.Deprecated, want.Deprecated)
	}
	if got.Usage == "" || strings.HasSuffix(got.Usage, ".") {
		t.Errorf("%s: help %q", where, got.Usage)
	}
}
