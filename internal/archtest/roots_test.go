package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What reads the kernel's files takes a root (internal/host), so that a test can
// give it a machine that is not there.
func TestKernelFilesAreReadBelowARoot(t *testing.T) {
	eachProductFile(t, func(rel string, file *ast.File) {
		for _, path := range kernelPaths(file) {
			t.Errorf("%s opens %s: take a host.Root and read below it", rel, path)
		}
	})
}

// kernelPaths lists the paths below /proc and /sys that a file hands to the
// packages that open files, or puts together for them.
func kernelPaths(file *ast.File) []string {
	direct := func(call *ast.CallExpr) bool {
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return false
		}
		pkg, ok := sel.X.(*ast.Ident)
		return ok && (slices.Contains([]string{"os", "filepath", "unix", "syscall"}, pkg.Name) || pkg.Name == "fmt" && sel.Sel.Name == "Sprintf")
	}
	var found []string
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || !direct(call) {
			return true
		}
		for _, arg := range call.Args {
			ast.Inspect(arg, func(n ast.Node) bool {
				if _, nested := n.(*ast.CallExpr); nested {
					return false // looked at by itself
				}
				lit, ok := n.(*ast.BasicLit)
				if !ok || lit.Kind != token.STRING {
					return true
				}
				if path, err := strconv.Unquote(lit.Value); err == nil && (strings.HasPrefix(path, "/proc") || strings.HasPrefix(path, "/sys")) {
					found = append(found, path)
				}
				return true
			})
		}
		return true
	})
	return found
}

func TestKernelPathsAreFound(t *testing.T) {
	for body, want := range map[string]int{
		`os.ReadFile("/proc/1/comm")`: 1, `os.ReadFile("/proc/" + pid + "/comm")`: 1, `os.ReadFile(fmt.Sprintf("/sys/%d", n))`: 1,
		`root.Text("/proc", pid)`: 0, `os.ReadFile(root.Path("/proc/devices"))`: 0, `fmt.Errorf("/proc/%d is hidden", n)`: 0,
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\nfunc f() { "+body+" }", 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := kernelPaths(file); len(got) != want {
			t.Errorf("%s: found %q", body, got)
		}
	}
}
