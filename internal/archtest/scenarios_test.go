package archtest

import (
	"go/ast"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestScenariosAreShownByTestsThatExist reads the table tests/SCENARIOS.md.
func TestScenariosAreShownByTestsThatExist(t *testing.T) {
	text, err := os.ReadFile("../../tests/SCENARIOS.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := Load("../..")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	for _, f := range files {
		for _, d := range f.AST.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && f.Test {
				tests[fn.Name.Name] = true
			}
		}
	}
	row := regexp.MustCompile(`(?m)^\| ([A-Z][A-Za-z0-9., -]*) \| .* \| (.*) \|$`)
	name := regexp.MustCompile("`([^`]+)`")
	rows := row.FindAllStringSubmatch(string(text), -1)
	if len(rows) < 90 {
		t.Fatalf("only %d rows are read", len(rows))
	}
	for _, r := range rows {
		if r[1] == "Id" {
			continue
		}
		names := name.FindAllStringSubmatch(r[2], -1)
		if len(names) == 0 {
			t.Errorf("%s: no test", r[1])
		}
		for _, m := range names {
			if script, ok := strings.CutSuffix(m[1], ".txt"); ok {
				if _, err := os.Stat("../sentinel/decide/testdata/" + script + ".txt"); err != nil {
					t.Errorf("%s: %v", r[1], err)
				}
			} else if !tests[m[1]] {
				t.Errorf("%s: there is no %s", r[1], m[1])
			}
		}
	}
}
