// Command figures measures trees of Go code: lengths of files and functions, complexity,
// long lines and exported names without a comment. It prints one column per tree.
//
//	usage: figures NAME=FOLDER ...
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// The bounds of revive.toml.
const (
	maxColumns    = 120
	maxLines      = 500
	maxBody       = 60
	maxComplexity = 15
)

// figures are what was measured of one kind of files.
type figures struct {
	files, functions, complexity []int
	lines, wide                  int
	exports, bare                int
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: figures NAME=FOLDER ...")
		os.Exit(2)
	}
	var names []string
	var code, tests []figures
	for _, arg := range os.Args[1:] {
		name, folder, _ := strings.Cut(arg, "=")
		c, t, err := measure(folder)
		if err != nil {
			fmt.Fprintln(os.Stderr, "figures:", err)
			os.Exit(1)
		}
		names, code, tests = append(names, name), append(code, c), append(tests, t)
	}
	print("code", names, code)
	fmt.Println()
	print("tests", names, tests)
}

// measure reads every Go file of a tree.
func measure(root string) (code, tests figures, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f := &code
		if strings.HasSuffix(path, "_test.go") {
			f = &tests
		}
		return f.add(path, text)
	})
	return code, tests, err
}

func (f *figures) add(path string, text []byte) error {
	lines := 0
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); lines++ {
		if utf8.RuneCountInString(strings.ReplaceAll(s.Text(), "\t", "    ")) > maxColumns {
			f.wide++
		}
	}
	f.lines += lines
	f.files = append(f.files, lines)
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, text, parser.ParseComments)
	if err != nil {
		return err
	}
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			f.function(set, d)
		case *ast.GenDecl:
			f.declaration(d)
		}
	}
	return nil
}

func (f *figures) function(set *token.FileSet, d *ast.FuncDecl) {
	if d.Name.IsExported() && (d.Recv == nil || ast.IsExported(receiver(d.Recv.List[0].Type))) {
		f.export(d.Doc != nil || slices.Contains([]string{"Error", "String", "Unwrap", "ServeHTTP"}, d.Name.Name))
	}
	if d.Body != nil {
		// The lines between the braces, as revive counts them.
		body := max(0, set.Position(d.Body.Rbrace).Line-set.Position(d.Body.Lbrace).Line-1)
		f.functions = append(f.functions, body)
		f.complexity = append(f.complexity, complexity(d))
	}
}

// receiver is the name of a method's type.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

// complexity is 1 and one more for each branch: McCabe's, with && and || as branches.
func complexity(d *ast.FuncDecl) int {
	n := 1
	ast.Inspect(d, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.IfStmt, *ast.ForStmt, *ast.RangeStmt:
			n++
		case *ast.CaseClause:
			if node.List != nil {
				n++
			}
		case *ast.CommClause:
			if node.Comm != nil {
				n++
			}
		case *ast.BinaryExpr:
			if node.Op == token.LAND || node.Op == token.LOR {
				n++
			}
		}
		return true
	})
	return n
}

// declaration counts the exported names of a declaration. A comment of a block is one of
// all its names.
func (f *figures) declaration(d *ast.GenDecl) {
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			if s.Name.IsExported() {
				f.export(s.Doc != nil || d.Doc != nil)
			}
		case *ast.ValueSpec:
			for _, name := range s.Names {
				if name.IsExported() {
					f.export(s.Doc != nil || d.Doc != nil || s.Comment != nil)
				}
			}
		}
	}
}

func (f *figures) export(documented bool) {
	f.exports++
	if !documented {
		f.bare++
	}
}

func print(kind string, names []string, all []figures) {
	fmt.Printf("| %s | %s |\n|---|%s\n", kind, strings.Join(names, " | "), strings.Repeat("---|", len(names)))
	row := func(what string, of func(figures) string) {
		fmt.Printf("| %s |", what)
		for _, f := range all {
			fmt.Printf(" %s |", of(f))
		}
		fmt.Println()
	}
	row("files, lines", func(f figures) string { return fmt.Sprintf("%d, %d", len(f.files), f.lines) })
	row("lines of a file: median, 95th percentile, most", func(f figures) string { return spread(f.files) })
	row(fmt.Sprintf("files over %d lines", maxLines), func(f figures) string { return over(f.files, maxLines) })
	row("lines of a function: median, 95th percentile, most", func(f figures) string { return spread(f.functions) })
	row(fmt.Sprintf("functions over %d lines", maxBody), func(f figures) string { return over(f.functions, maxBody) })
	row(fmt.Sprintf("functions over complexity %d", maxComplexity),
		func(f figures) string { return over(f.complexity, maxComplexity) })
	row(fmt.Sprintf("lines over %d columns", maxColumns), func(f figures) string { return fmt.Sprint(f.wide) })
	if kind == "code" {
		row("exported names, without comment",
			func(f figures) string { return fmt.Sprintf("%d, %d", f.exports, f.bare) })
	}
}

func spread(values []int) string {
	if len(values) == 0 {
		return "—"
	}
	slices.Sort(values)
	n := len(values)
	return fmt.Sprintf("%d, %d, %d", values[n/2], values[n*95/100], values[n-1])
}

func over(values []int, bound int) string {
	n := 0
	for _, v := range values {
		if v > bound {
			n++
		}
	}
	return fmt.Sprint(n)
}
