package flagtest

import (
	stdflag "flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"stolon/internal/flagutil"
)

// pages is where the reference of all commands is, seen from cmd/<program>.
const pages = "../../doc/commands"

var update = stdflag.Bool("update", false, "write the pages of doc/commands")

// document checks that doc/commands says what the command and those below it
// say of themselves, or with -update makes it do so.
func document(t *testing.T, cmd *cobra.Command, prefix string) {
	t.Helper()
	for _, c := range cmd.Commands() {
		if c.Name() != "help" {
			document(t, c, prefix)
		}
	}
	name, want := filepath.Join(pages, pageName(cmd)), page(cmd, prefix)
	if *update {
		if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, err := os.ReadFile(name); err != nil || string(got) != want {
		t.Errorf("%s is not what %q says of itself (%v); write it anew: go test ./cmd/... -run TestFlags -update", name, cmd.CommandPath(), err)
	}
}

func pageName(cmd *cobra.Command) string {
	return strings.ReplaceAll(cmd.CommandPath(), " ", "_") + ".md"
}

func page(cmd *cobra.Command, prefix string) string {
	cmd.InitDefaultHelpFlag()
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n%s\n\n```\n%s\n```\n", cmd.CommandPath(), cmd.Short, cmd.UseLine())
	var below []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			below = append(below, fmt.Sprintf("- [%s](%s): %s\n", c.CommandPath(), pageName(c), c.Short))
		}
	}
	if len(below) > 0 {
		fmt.Fprintf(&b, "\n## Commands\n%s", strings.Join(below, ""))
	}
	fmt.Fprintf(&b, "\n## Flags\n```\n%s```\n", cmd.LocalFlags().FlagUsages())
	if root := cmd.Root(); root != cmd {
		fmt.Fprintf(&b, "And those of [%s](%s), which find the cluster.\n", root.Name(), pageName(root))
	} else {
		fmt.Fprintf(&b, "Each but `--help` and `--version` can be set in the environment: `--store-backend` by `%s`.\n", flagutil.EnvName(prefix, "store-backend"))
	}
	return b.String()
}
