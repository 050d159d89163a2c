package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"aliquot.example/internal/gpu"
)

// product are the folders of what is shipped. Stand-ins and the demo's figures
// imitate vendors and so name them.
var product = []string{"cmd", "devices", "drivers", "internal", "gateway", "router", "cache", "autoscaler-plugin", "simulate", "ui", "profiler", "node"}

// vendorWords are the constants of package gpu and the texts by which code could
// tell vendors apart.
func vendorWords() (constants, texts []string) {
	for _, m := range gpu.Makers() {
		constants = append(constants, m.Name)
		texts = append(texts, string(m.Vendor), m.Image, m.Plugin)
	}
	return constants, texts
}

// ofVendor reports whether a file belongs to one vendor: its name or that of a
// folder above it has the vendor as a word.
func ofVendor(path string) bool {
	words := strings.FieldsFunc(filepath.ToSlash(path), func(r rune) bool { return strings.ContainsRune("/-_.", r) })
	return slices.ContainsFunc(gpu.Makers(), func(m gpu.Maker) bool { return slices.Contains(words, string(m.Vendor)) })
}

// A new vendor is values in files of its own, so all other code names none: no
// comparison, no case, no map by vendor, and no default that means one of them.
func TestOnlyVendorsFilesNameVendors(t *testing.T) {
	eachProductFile(t, func(rel string, file *ast.File) {
		if ofVendor(rel) || rel == "internal/gpu/hardware.go" { // the table has a vendor in every row
			return
		}
		for _, name := range vendorsNamed(file) {
			t.Errorf("%s names %s: what differs between vendors is a field of their values (gpu.Maker, plugin.Maker, the driver's vendor)", rel, name)
		}
	})
}

// eachProductFile parses every file of the product that is no test.
func eachProductFile(t *testing.T, look func(rel string, file *ast.File)) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, top := range product {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && d.Name() == "testdata":
				return filepath.SkipDir
			case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
				return nil
			}
			seen++
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(root, path)
			look(filepath.ToSlash(rel), file)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen < 100 {
		t.Errorf("%d files were looked at: the folders of the product have other names now", seen)
	}
}

func vendorsNamed(file *ast.File) []string {
	constants, texts := vendorWords()
	var found []string
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if id, ok := n.X.(*ast.Ident); ok && id.Name == "gpu" && slices.Contains(constants, n.Sel.Name) {
				found = append(found, "gpu."+n.Sel.Name)
			}
		case *ast.Ident:
			if file.Name.Name == "gpu" && slices.Contains(constants, n.Name) {
				found = append(found, n.Name)
			}
		case *ast.BasicLit:
			if text, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil && slices.Contains(texts, text) {
				found = append(found, n.Value)
			}
		}
		return true
	})
	return found
}

// The rule catches each form in which a vendor was told apart before.
func TestVendorsNamedAreFound(t *testing.T) {
	for _, body := range []string{
		`if v == gpu.NVIDIA {}`, `switch v { case gpu.AMD: }`, `_ = map[gpu.Vendor]string{gpu.NVIDIA: "x"}`,
		`if v != "amd" {}`, `keys := []string{"cuda"}; _ = keys`,
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\nfunc f() { "+body+" }", 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(vendorsNamed(file)) != 1 {
			t.Errorf("%s: found %v", body, vendorsNamed(file))
		}
	}
	for path, want := range map[string]bool{
		"devices/nvidia/mig.go": true, "drivers/aliquot/host_amd.go": true, "cmd/aliquot-device-amd/main.go": true,
		"devices/plugin/loop.go": false, "drivers/aliquot/nvidiafy.go": false,
	} {
		if ofVendor(path) != want {
			t.Errorf("%s belongs to a vendor: %v", path, !want)
		}
	}
}
