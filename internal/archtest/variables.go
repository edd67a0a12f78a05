package archtest

import (
	"go/ast"
	"go/token"
	"slices"
)

// stateful are package variables whose state no cluster can see in another.
var stateful = map[string]string{
	"internal/proxy/forward buffers": "a pool of buffers; whoever takes one writes it before reading",
}

// checkVariables finds variables of one package that can change: two clusters
// run in one test, and would meet there.
func checkVariables(files []File) []Finding {
	vars := map[string]bool{} // whether it holds state, by name
	var out []Finding
	for _, f := range files {
		for _, spec := range variables(f.AST) {
			for _, name := range spec.Names {
				if name.Name == "_" {
					continue
				}
				vars[name.Name] = true
				if stateful[f.Package+" "+name.Name] == "" && holdsState(spec) && !embedded(f.AST, spec) {
					out = append(out, f.finding(name.Pos(), "the package variable "+name.Name+" can change; two clusters run in one test"))
				}
			}
		}
	}
	for _, f := range files {
		for _, target := range written(f.AST) {
			if vars[target.Name] && global(f.AST, target) {
				out = append(out, f.finding(target.Pos(), "the package variable "+target.Name+" is written; two clusters run in one test"))
			}
		}
	}
	return out
}

// variables are the declarations of package variables.
func variables(file *ast.File) []*ast.ValueSpec {
	var out []*ast.ValueSpec
	for _, decl := range file.Decls {
		if d, ok := decl.(*ast.GenDecl); ok && d.Tok == token.VAR {
			for _, spec := range d.Specs {
				out = append(out, spec.(*ast.ValueSpec)) // the parser puts nothing else there
			}
		}
	}
	return out
}

// holdsState reports whether the variable is made to change: it has no first
// value, or is of package sync.
func holdsState(spec *ast.ValueSpec) bool {
	if len(spec.Values) == 0 {
		return true
	}
	state := false
	look := func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			x, ok := sel.X.(*ast.Ident)
			once := sel.Sel.Name == "OnceFunc" || sel.Sel.Name == "OnceValue" || sel.Sel.Name == "OnceValues"
			state = state || ok && (x.Name == "sync" && !once || x.Name == "atomic")
		}
		return !state
	}
	if spec.Type != nil {
		ast.Inspect(spec.Type, look)
	}
	for _, v := range spec.Values {
		ast.Inspect(v, look)
	}
	return state
}

// embedded reports whether the variable is filled by go:embed.
func embedded(file *ast.File, spec *ast.ValueSpec) bool {
	for _, group := range file.Comments {
		for _, c := range group.List {
			if len(c.Text) > 10 && c.Text[:10] == "//go:embed" && c.Pos() < spec.Pos() && spec.Pos()-c.End() < 10 {
				return true
			}
		}
	}
	return false
}

// written are the names of what statements change: x = 1, x.f++, x[i] = 1, &x,
// delete(x, k), clear(x).
func written(file *ast.File) []*ast.Ident {
	var out []*ast.Ident
	add := func(e ast.Expr) {
		if name := root(e); name != nil {
			out = append(out, name)
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if n.Tok != token.DEFINE {
				for _, e := range n.Lhs {
					add(e)
				}
			}
		case *ast.IncDecStmt:
			add(n.X)
		case *ast.UnaryExpr:
			if n.Op == token.AND {
				add(n.X)
			}
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.Ident); ok && slices.Contains([]string{"delete", "clear", "copy"}, f.Name) && len(n.Args) > 0 {
				add(n.Args[0])
			}
		}
		return true
	})
	return out
}

// root is the variable that e is a part of.
func root(e ast.Expr) *ast.Ident {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x
		case *ast.SelectorExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		case *ast.SliceExpr:
			e = x.X
		default:
			return nil
		}
	}
}

// global reports whether name is no local variable of file. What the parser
// can't resolve in the file was declared in another one of the package.
func global(file *ast.File, name *ast.Ident) bool {
	return name.Obj == nil || file.Scope.Lookup(name.Name) == name.Obj
}
