// Package archtest holds the house rules that a machine can check: who may
// import whom, that the deciding packages stay pure, and that nothing is
// hidden in package variables. Its test runs the rules over the repository.
package archtest

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const module = "stolon/"

// A File is one parsed source file.
type File struct {
	Path    string // relative to the repository
	Package string // import path below the module, such as internal/cluster
	Test    bool
	AST     *ast.File
	Fset    *token.FileSet
}

// A Finding is a broken rule.
type Finding struct {
	Where string
	What  string
}

func (f Finding) String() string { return f.Where + ": " + f.What }

// pure packages decide or are words: values in, values out.
var pure = []string{
	"internal/cluster", "internal/postgresql/wal", "internal/postgresql/conf",
	"internal/sentinel/decide", "internal/keeper/decide", "internal/proxy/decide",
}

// words is all of the standard library, and of others, that a pure package may
// import: nothing there reaches outside the program.
var words = []string{
	"bytes", "cmp", "encoding/json", "errors", "fmt", "iter", "maps", "math", "math/bits", "net/netip", "reflect", "regexp",
	"slices", "sort", "strconv", "strings", "time", "unicode", "unicode/utf8", "github.com/evanphx/json-patch/v5",
}

// selectors are the only parts of further packages that a pure package may use.
var selectors = map[string][]string{"net": {"JoinHostPort"}}

// outside are the parts of words that reach outside the program all the same.
var outside = map[string][]string{
	"time": {"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick", "Local", "LoadLocation"},
	"fmt":  {"Print", "Printf", "Println", "Scan", "Scanf", "Scanln"},
}

// only lists imports with the few packages that may have them.
var only = map[string][]string{
	"os/exec":                  {"internal/postgresql"},
	"database/sql":             {"internal/postgresql"},
	"github.com/lib/pq":        {"internal/postgresql"},
	"go.etcd.io/etcd":          {"internal/store/etcd"},
	"github.com/hashicorp":     {"internal/store/consul", "internal/register/consul"},
	"github.com/spf13/cobra":   {"cmd", "internal/flagutil"},
	"github.com/spf13/pflag":   {"cmd", "internal/flagutil"},
	"internal/store/etcd":      {"internal/store/open"},
	"internal/store/consul":    {"internal/store/open"},
	"internal/store/memory":    {},
	"internal/store/storetest": {},
}

// daemons never import each other: they meet in the store.
var daemons = []string{"internal/sentinel", "internal/keeper", "internal/proxy"}

// long are the few files and functions that may be longer than others.
var long = map[string]string{
	"internal/store/storetest/storetest.go":          "a suite of tests, each of which stands alone",
	"internal/postgresql/postgresqltest/instance.go": "one PostgreSQL instance made of variables",
}

const (
	longestFile     = 600
	longestFunction = 100
)

// waiting are the tests with real servers, which wait for conditions.
var waiting = []string{"tests/integration", "tests/harness", "tests/servers"}

// sleeps are the tests that let time pass instead of waiting for a condition.
var sleeps = map[string]string{
	"tests/integration/idle_test.go TestAClusterAtRestIsSilent":               "nothing must happen",
	"tests/integration/input_test.go TestAnotherFormatVersionIsLeftAlone":     "nothing must happen",
	"tests/integration/proxy_test.go TestAFrozenProxyComesBackWithoutClients": "the proxy is frozen for so long",
	"tests/integration/sentinel_test.go TestAnotherSentinelLeads":             "the follower has entered the election",
	"tests/integration/store_auth_test.go rest":                               "it waits for time to pass, see there",
	"tests/integration/store_etcd_test.go TestEtcdWatchSurvivesCompaction":    "etcd is frozen for so long",
}

// Load parses the Go files below the repository's cmd, internal and tests.
func Load(root string) ([]File, error) {
	var files []File
	fset := token.NewFileSet()
	for _, top := range []string{"cmd", "internal", "tests"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
				return err
			}
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			parsed, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
			if err != nil {
				return err
			}
			files = append(files, File{
				Path: rel, Package: filepath.ToSlash(filepath.Dir(rel)), Test: strings.HasSuffix(path, "_test.go"), AST: parsed, Fset: fset,
			})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

// Check returns what breaks the rules in the files.
func Check(files []File) []Finding {
	var out []Finding
	packages := map[string][]File{}
	for _, f := range files {
		c := checker{File: f}
		switch {
		case below(f.Package, "tests"):
			if slices.Contains(waiting, f.Package) {
				c.checkSleeps()
			}
		case !f.Test:
			c.checkFile()
			packages[f.Package] = append(packages[f.Package], f)
		}
		out = append(out, c.out...)
	}
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		out = append(out, checkVariables(packages[name])...)
	}
	return out
}

// checker collects the findings in one file.
type checker struct {
	File
	out []Finding
}

func (c *checker) found(pos token.Pos, format string, args ...any) {
	c.out = append(c.out, c.finding(pos, fmt.Sprintf(format, args...)))
}

func (f File) finding(pos token.Pos, what string) Finding {
	return Finding{fmt.Sprintf("%s:%d", f.Path, f.Fset.Position(pos).Line), what}
}

func (f File) lines(from, to token.Pos) int {
	return f.Fset.Position(to).Line - f.Fset.Position(from).Line + 1
}

func (c *checker) checkFile() {
	isPure := slices.Contains(pure, c.Package)
	for _, spec := range c.AST.Imports {
		path, _ := strconv.Unquote(spec.Path.Value) // it was parsed
		path = strings.TrimPrefix(path, module)
		c.checkImport(spec.Pos(), path)
		if isPure {
			c.checkPureImport(spec, path)
		}
	}
	ast.Inspect(c.AST, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			if isPure {
				c.found(n.Pos(), "a pure package starts no goroutine")
			}
		case *ast.SelectorExpr:
			if isPure {
				c.checkPureSelector(n)
			}
		case *ast.FuncDecl:
			if n.Name.Name == "init" && n.Recv == nil {
				c.found(n.Pos(), "no init functions: two clusters run in one test")
			}
			if lines := c.lines(n.Pos(), n.End()); lines > longestFunction && long[c.Path] == "" {
				c.found(n.Pos(), "%s has %d lines; a function fits on a screen or two", n.Name.Name, lines)
			}
		}
		return true
	})
	if lines := c.Fset.Position(c.AST.End()).Line; lines > longestFile && long[c.Path] == "" {
		c.found(c.AST.Pos(), "the file has %d lines; split it by subject", lines)
	}
}

// checkImport holds what is true of every package.
func (c *checker) checkImport(pos token.Pos, path string) {
	for prefix, who := range only {
		if !below(path, prefix) || below(c.Package, prefix) {
			continue
		}
		if !slices.ContainsFunc(who, func(w string) bool { return below(c.Package, w) }) {
			c.found(pos, "only %s may import %s", cmp.Or(strings.Join(who, ", "), "tests"), path)
		}
	}
	for _, d := range daemons {
		for _, other := range daemons {
			if d != other && below(c.Package, d) && below(path, other) {
				c.found(pos, "daemons meet only in the store: %s doesn't import %s", d, other)
			}
		}
	}
	if below(c.Package, "internal") && (below(path, "cmd") || below(path, "tests")) {
		c.found(pos, "internal packages don't know %s", path)
	}
}

func (c *checker) checkPureImport(spec *ast.ImportSpec, path string) {
	switch {
	case spec.Name != nil && (outside[path] != nil || selectors[path] != nil):
		c.found(spec.Pos(), "a pure package imports %s by its own name, or this test can't see what it uses", path)
	case slices.Contains(pure, path), slices.Contains(words, path), selectors[path] != nil:
	case below(path, "internal"):
		c.found(spec.Pos(), "a pure package imports pure ones only, not %s", path)
	default:
		c.found(spec.Pos(), "a pure package does no I/O, so it doesn't import %s", path)
	}
}

func (c *checker) checkPureSelector(n *ast.SelectorExpr) {
	x, ok := n.X.(*ast.Ident)
	if !ok || x.Obj != nil { // a variable
		return
	}
	if slices.Contains(outside[x.Name], n.Sel.Name) {
		c.found(n.Pos(), "a pure package gets everything as arguments, not by %s.%s", x.Name, n.Sel.Name)
	}
	if allowed := selectors[x.Name]; allowed != nil && !slices.Contains(allowed, n.Sel.Name) {
		c.found(n.Pos(), "a pure package does no I/O, so it doesn't use %s.%s", x.Name, n.Sel.Name)
	}
}

// checkSleeps finds sleeps that are not between two looks at a condition.
func (c *checker) checkSleeps() {
	for _, decl := range c.AST.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Body == nil || sleeps[c.Path+" "+f.Name.Name] != "" {
			continue
		}
		ast.Inspect(f.Body, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ForStmt:
				return false
			case *ast.RangeStmt:
				return n.Key != nil // not "for range 1000"
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && n.Sel.Name == "Sleep" {
					c.found(n.Pos(), "%s sleeps for luck; wait for a condition", f.Name.Name)
				}
			}
			return true
		})
	}
}

func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
