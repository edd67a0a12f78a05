package archtest

import (
	"go/parser"
	"go/token"
	"strings"
	"testing"
)

func TestRepositoryKeepsTheRules(t *testing.T) {
	files, err := Load("../..")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 50 {
		t.Fatalf("only %d files found: the rules looked at nothing", len(files))
	}
	for _, f := range files {
		for _, finding := range Check(f) {
			t.Error(finding)
		}
	}
}

func TestRulesCanFail(t *testing.T) {
	tests := []struct {
		pkg, source, want string // want "" when the source is fine
	}{
		{"internal/cluster", `import "time"; var _ time.Duration`, ""},
		{"internal/cluster", `import "os"`, "does no I/O"},
		{"internal/keeper/decide", `import "time"; func f() { _ = time.Now() }`, "time.Now"},
		{"internal/keeper/decide", `func f() { go f() }`, "goroutine"},
		{"internal/keeper/decide", `import "stolon/internal/store"`, "pure ones only"},
		{"internal/keeper", `import "stolon/internal/sentinel/decide"`, "meet only in the store"},
		{"internal/keeper", `import "stolon/internal/keeper/decide"`, ""},
		{"internal/keeper", `import "os/exec"`, "only internal/postgresql"},
		{"internal/postgresql", `import "os/exec"`, ""},
		{"internal/sentinel", `import "go.etcd.io/etcd/client/v3"`, "only internal/store/etcd"},
		{"internal/sentinel", `import "stolon/internal/store/memory"`, "may import internal/store/memory"},
		{"internal/sentinel", `func init() {}`, "no init functions"},
		{"internal/sentinel", "func f() {\n" + strings.Repeat("\n", 101) + "}", "has 102 lines"},
		{"internal/sentinel", strings.Repeat("\n", 651) + "var x int", "split it"},
		{"internal/proxy", `import "stolon/cmd/proxy"`, "don't know the commands"},
	}
	for _, tt := range tests {
		fset := token.NewFileSet()
		parsed, err := parser.ParseFile(fset, "x.go", "package x\n"+tt.source, 0)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, f := range Check(File{Path: "x.go", Package: tt.pkg, AST: parsed, Fset: fset}) {
			got += f.String() + "\n"
		}
		if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
			t.Errorf("Check(%s: %.40q) = %q, want %q", tt.pkg, tt.source, got, tt.want)
		}
	}
}
