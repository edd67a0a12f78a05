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
	for _, finding := range Check(files) {
		t.Error(finding)
	}
}

func TestRulesCanFail(t *testing.T) {
	tests := []struct {
		pkg, source, want string // want "" when the source is fine
	}{
		{"internal/cluster", `import "time"; var _ time.Duration`, ""},
		{"internal/cluster", `import "os"`, "does no I/O"},
		{"internal/cluster", `import "go.uber.org/zap"`, "does no I/O"},
		{"internal/cluster", `import t "time"`, "by its own name"},
		{"internal/proxy/decide", `import "net"; var _ = net.JoinHostPort`, ""},
		{"internal/proxy/decide", `import "net"; var _ = net.Dial`, "net.Dial"},
		{"internal/cluster", `import "fmt"; func f() { fmt.Println() }`, "fmt.Println"},
		{"internal/keeper/decide", `import "time"; func f() { _ = time.Now() }`, "time.Now"},
		{"internal/keeper/decide", `import "time"; func f(time options) { time.After() }`, ""},
		{"internal/keeper/decide", `func f() { go f() }`, "goroutine"},
		{"internal/keeper/decide", `import "stolon/internal/store"`, "pure ones only"},
		{"internal/keeper", `import "stolon/internal/sentinel/decide"`, "meet only in the store"},
		{"internal/keeper", `import "stolon/internal/keeper/decide"`, ""},
		{"internal/keeper", `import "os/exec"`, "only internal/postgresql"},
		{"internal/postgresql", `import "os/exec"`, ""},
		{"internal/sentinel", `import "go.etcd.io/etcd/client/v3"`, "only internal/store/etcd"},
		{"internal/sentinel", `import "stolon/internal/store/memory"`, "may import internal/store/memory"},
		{"internal/sentinel", `func init() {}`, "no init functions"},
		{"internal/sentinel", "func f() {\n" + strings.Repeat("\n", 98) + "}", ""},
		{"internal/sentinel", "func f() {\n" + strings.Repeat("\n", 99) + "}", "has 101 lines"},
		{"internal/sentinel", strings.Repeat("\n", 599) + "type x int", ""},
		{"internal/sentinel", strings.Repeat("\n", 600) + "type x int", "split it"},
		{"internal/sentinel", `var x = map[string]int{}; func f() { _ = x["a"]; x := 1; x = 2; _ = x }`, ""},
		{"internal/sentinel", `var x = map[string]int{}; func f() { x["a"] = 1 }`, "x is written"},
		{"internal/sentinel", `var x = 1; func f() { x++ }`, "x is written"},
		{"internal/sentinel", `var x = 1; func f() { g(&x) }`, "x is written"},
		{"internal/sentinel", `var x = map[int]int{}; func f() { delete(x, 1) }`, "x is written"},
		{"internal/sentinel", `var x int`, "x can change"},
		{"internal/sentinel", `import "sync"; var x = sync.Map{}`, "x can change"},
		{"internal/sentinel", `import "sync"; var x = sync.OnceFunc(func() {})`, ""},
		{"internal/sentinel", "import _ \"embed\"\n//go:embed a\nvar x []byte", ""},
		{"tests/integration", `import "time"; func TestX() { time.Sleep(1) }`, "TestX sleeps for luck"},
		{"tests/integration", `import "time"; func TestX() { for !done() { time.Sleep(1) } }`, ""},
		{"internal/proxy", `import "stolon/cmd/proxy"`, "don't know cmd/proxy"},
		{"internal/proxy", `import "stolon/tests/harness"`, "don't know tests/harness"},
	}
	for _, tt := range tests {
		fset := token.NewFileSet()
		parsed, err := parser.ParseFile(fset, "x.go", "package x; "+tt.source, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, f := range Check([]File{{Path: "x.go", Package: tt.pkg, AST: parsed, Fset: fset}}) {
			got += f.String() + "\n"
		}
		if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
			t.Errorf("Check(%s: %.40q) = %q, want %q", tt.pkg, tt.source, got, tt.want)
		}
	}
}
