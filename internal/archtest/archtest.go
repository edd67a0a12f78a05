// Package archtest holds the house rules that a machine can check: who may
// import whom, that the deciding packages stay pure, and that nothing is
// hidden in package variables. Its test runs the rules over the repository.
package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
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

// impure is what no pure package may import.
var impure = []string{
	"os", "os/exec", "net", "net/http", "context", "sync", "sync/atomic", "math/rand", "math/rand/v2", "crypto/rand",
	"database/sql", "log", "log/slog", "io/fs", "io/ioutil", "syscall", "go.uber.org/zap", "golang.org/x/sys/unix",
}

// pureExceptions: net has names of addresses that need no network.
var pureExceptions = map[string][]string{
	"internal/proxy/decide":    {"net"},
	"internal/postgresql/conf": {"net", "net/netip"},
}

// clocks are what a pure package may not call although it may import time.
var clocks = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}

// only lists imports with the few packages that may have them.
var only = map[string][]string{
	"os/exec":                  {"internal/postgresql"},
	"database/sql":             {"internal/postgresql"},
	"github.com/lib/pq":        {"internal/postgresql"},
	"go.etcd.io/etcd":          {"internal/store/etcd"},
	"github.com/hashicorp":     {"internal/store/consul"},
	"github.com/spf13/cobra":   {"cmd", "internal/flagutil"},
	"github.com/spf13/pflag":   {"cmd", "internal/flagutil"},
	"internal/store/etcd":      {"internal/store/open"},
	"internal/store/memory":    {},
	"internal/store/storetest": {},
}

// daemons never import each other: they meet in the store.
var daemons = []string{"internal/sentinel", "internal/keeper", "internal/proxy"}

// Load parses the Go files below the repository's cmd and internal.
func Load(root string) ([]File, error) {
	var files []File
	fset := token.NewFileSet()
	for _, top := range []string{"cmd", "internal"} {
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

// Check returns what breaks the rules in one file.
func Check(f File) []Finding {
	var out []Finding
	found := func(pos token.Pos, format string, args ...any) {
		out = append(out, Finding{fmt.Sprintf("%s:%d", f.Path, f.Fset.Position(pos).Line), fmt.Sprintf(format, args...)})
	}
	if f.Test {
		return nil
	}
	for _, spec := range f.AST.Imports {
		path, _ := strconv.Unquote(spec.Path.Value)
		checkImport(f, strings.TrimPrefix(path, module), func(what string) { found(spec.Pos(), "%s", what) })
	}
	isPure := slices.Contains(pure, f.Package)
	ast.Inspect(f.AST, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			if isPure {
				found(n.Pos(), "a pure package starts no goroutine")
			}
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && isPure && x.Name == "time" && slices.Contains(clocks, n.Sel.Name) {
				found(n.Pos(), "a pure package gets the time as an argument, not by time.%s", n.Sel.Name)
			}
		case *ast.FuncDecl:
			if n.Name.Name == "init" && n.Recv == nil {
				found(n.Pos(), "no init functions: two clusters run in one test")
			}
			if lines := f.Fset.Position(n.End()).Line - f.Fset.Position(n.Pos()).Line; lines > 100 {
				found(n.Pos(), "%s has %d lines; a function fits on a screen or two", n.Name.Name, lines)
			}
		}
		return true
	})
	// A suite of tests may be long: each stands alone.
	if lines := f.Fset.Position(f.AST.End()).Line; lines > 650 && f.Package != "internal/store/storetest" {
		found(f.AST.Pos(), "the file has %d lines; split it by subject", lines)
	}
	return out
}

func checkImport(f File, path string, found func(string)) {
	if slices.Contains(pure, f.Package) && slices.Contains(impure, path) && !slices.Contains(pureExceptions[f.Package], path) {
		found("a pure package does no I/O, so it doesn't import " + path)
	}
	for prefix, who := range only {
		if path == prefix || strings.HasPrefix(path, prefix+"/") {
			if strings.HasPrefix(f.Package, prefix) {
				continue
			}
			if !slices.ContainsFunc(who, func(w string) bool { return f.Package == w || strings.HasPrefix(f.Package, w+"/") }) {
				found("only " + strings.Join(who, ", ") + " may import " + path)
			}
		}
	}
	for _, d := range daemons {
		for _, other := range daemons {
			if d != other && below(f.Package, d) && below(path, other) {
				found("daemons meet only in the store: " + d + " doesn't import " + other)
			}
		}
	}
	if slices.Contains(pure, f.Package) && strings.HasPrefix(path, "internal/") && !slices.Contains(pure, path) {
		found("a pure package imports pure ones only, not " + path)
	}
	if strings.HasPrefix(f.Package, "internal/") && strings.HasPrefix(path, "cmd/") {
		found("internal packages don't know the commands")
	}
}

func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
