// Package archtest pins the import rules of docs/architecture.md, so that a
// line of code has one place where it belongs.
package archtest

import (
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

const module = "aliquot.example"

// graph maps each package of the module ("internal/share") to what its
// non-test files import.
type graph map[string][]string

func load(t *testing.T) graph {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	g := graph{}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && (strings.HasPrefix(name, ".") || name == "tools" || name == "testdata" || name == "bin" || name == "build") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, filepath.Dir(path))
		pkg := filepath.ToSlash(rel)
		g[pkg] = append(g[pkg], "")
		for _, spec := range file.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			g[pkg] = append(g[pkg], imported)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// reaches returns one path of imports from pkg to a package for which bad holds,
// following the module's own packages only.
func (g graph) reaches(pkg string, bad func(string) bool, seen map[string]bool) []string {
	if seen[pkg] {
		return nil
	}
	seen[pkg] = true
	for _, imported := range g[pkg] {
		if bad(imported) {
			return []string{pkg, imported}
		}
		if own, ok := strings.CutPrefix(imported, module+"/"); ok {
			if rest := g.reaches(own, bad, seen); rest != nil {
				return append([]string{pkg}, rest...)
			}
		}
	}
	return nil
}

func (g graph) under(prefix string) []string {
	var out []string
	for pkg := range g {
		if pkg == prefix || strings.HasPrefix(pkg, prefix+"/") {
			out = append(out, pkg)
		}
	}
	slices.Sort(out)
	return out
}

func (g graph) forbid(t *testing.T, from string, why string, bad func(string) bool) {
	t.Helper()
	packages := g.under(from)
	if packages == nil {
		t.Errorf("there is no package %s: a rule of this test is about it; does it have another name now?", from)
	}
	for _, pkg := range packages {
		if path := g.reaches(pkg, bad, map[string]bool{}); path != nil {
			t.Errorf("%s: %s", strings.Join(path, " -> "), why)
		}
	}
}

func within(prefix string) func(string) bool {
	full := module + "/" + prefix
	return func(p string) bool { return p == full || strings.HasPrefix(p, full+"/") }
}

var policies = []string{"share", "variant", "dispatch", "scale", "weigh", "prompt", "meter", "learned", "allowance", "pack", "blob", "compiled", "join", "ownership", "profile", "driver", "rightsize"}

// joining decide by what several policies say. They import policies, and are as pure.
var joining = []string{"objective", "query"}

// A policy that reads a clock, a file or a random source cannot be replayed or
// checked by property, so policies take values and return values.
func TestPoliciesArePure(t *testing.T) {
	g := load(t)
	impure := []string{"os", "net", "net/http", "time/tzdata", "math/rand", "math/rand/v2", "crypto/rand", "log", "log/slog", "context", "os/exec", "os/signal", "io/ioutil", "runtime", "syscall", "unsafe"}
	for _, name := range slices.Concat(policies, joining) {
		pkg := "internal/" + name
		if g[pkg] == nil {
			t.Errorf("there is no policy %s: does it have another name now?", pkg)
		}
		for _, imported := range g[pkg] {
			std := imported == "" || !strings.Contains(strings.Split(imported, "/")[0], ".")
			own := strings.HasPrefix(imported, module+"/")
			switch {
			case own && slices.Contains(joining, name) && slices.Contains(policies, strings.TrimPrefix(imported, module+"/internal/")):
			case own && imported != module+"/internal/gpu":
				t.Errorf("%s -> %s: a policy imports internal/gpu and the standard library only", pkg, imported)
			case !own && !std:
				t.Errorf("%s -> %s: a policy imports internal/gpu and the standard library only", pkg, imported)
			case slices.Contains(impure, imported):
				t.Errorf("%s -> %s: a policy takes now, numbers and values; I/O belongs to its owner", pkg, imported)
			}
		}
	}
}

// The time package itself is allowed in policies for its types; its clock is not.
func TestPoliciesReadNoClock(t *testing.T) {
	root, _ := filepath.Abs("../..")
	for _, name := range slices.Concat(policies, joining) {
		files, _ := filepath.Glob(filepath.Join(root, "internal", name, "*.go"))
		if files == nil {
			t.Errorf("there is no policy internal/%s: does it have another name now?", name)
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			for _, call := range clockCalls(t, path) {
				t.Errorf("%s: %s reads the clock; take now as an argument", filepath.Base(path), call)
			}
		}
	}
}

func TestTheVocabularyImportsNothingOfOurs(t *testing.T) {
	g := load(t)
	for _, words := range []string{"internal/gpu", "internal/api"} {
		g.forbid(t, words, words+" holds words, of which programs speak: it imports nothing of ours", func(p string) bool { return strings.HasPrefix(p, module+"/") })
	}
	for _, imported := range g["internal/api"] {
		if imported != "" && imported != "time" {
			t.Errorf("internal/api -> %s: types and names need nothing but time", imported)
		}
	}
}

func TestVendorsNeverMeet(t *testing.T) {
	g := load(t)
	var folders []func(string) bool
	for _, a := range gpu.Makers() {
		for _, home := range []string{"devices/", "internal/host/"} {
			folders = append(folders, within(home+string(a.Vendor)))
			for _, b := range gpu.Makers() {
				if a.Vendor != b.Vendor {
					other := string(b.Vendor)
					g.forbid(t, home+string(a.Vendor), "a vendor's differences stay in its folder", func(p string) bool {
						return within("devices/"+other)(p) || within("internal/host/"+other)(p)
					})
				}
			}
		}
	}
	vendorLibrary := func(p string) bool {
		return slices.ContainsFunc(folders, func(of func(string) bool) bool { return of(p) }) ||
			strings.HasPrefix(p, "github.com/NVIDIA/") || strings.HasPrefix(p, "github.com/ebitengine/")
	}
	g.forbid(t, "devices/plugin", "the skeleton knows no vendor", vendorLibrary)
}

// Programs without cgo are linked for any machine on any machine, and run on any glibc.
// Tests may use go-nvml, which is NVIDIA's own word.
func TestNobodyUsesCgo(t *testing.T) {
	for pkg, imports := range load(t) {
		for _, imported := range imports {
			if imported == "C" || strings.HasPrefix(imported, "github.com/NVIDIA/go-nvml") {
				t.Errorf("%s -> %s: no program uses cgo; devices/nvidia/nvml calls NVIDIA's library", pkg, imported)
			}
		}
	}
}

// Product code runs on machines without the rack, so it must not know of it.
func TestProductKnowsNoFakes(t *testing.T) {
	g := load(t)
	for _, root := range []string{"cmd", "devices", "drivers", "autoscaler-plugin", "gateway", "router", "cache", "internal", "node"} {
		g.forbid(t, root, "fakes live at the C ABI, under the shipped binary", func(p string) bool {
			return within("e2e")(p) || within("demo")(p) || within("bench")(p)
		})
	}
}

// Nomad's docker driver is BUSL-1.1 and heavy; one package embeds it. Benchmarks
// measure against it and are not shipped.
func TestOnlyTheDriverEmbedsDocker(t *testing.T) {
	for pkg, imports := range load(t) {
		for _, imported := range imports {
			if strings.HasPrefix(imported, "github.com/hashicorp/nomad/drivers/docker") && pkg != "drivers/aliquot" && !strings.HasPrefix(pkg, "drivers/aliquot/") && !strings.HasPrefix(pkg, "bench/") {
				t.Errorf("%s -> %s: only drivers/aliquot embeds the docker driver", pkg, imported)
			}
		}
	}
}

// Nomad's servers are under the Business Source License 1.1: what decides placements is
// measured against them, never built on them.
func TestOnlyBenchmarksImportTheScheduler(t *testing.T) {
	for pkg, imports := range load(t) {
		for _, imported := range imports {
			server := strings.HasPrefix(imported, "github.com/hashicorp/nomad/scheduler") || strings.HasPrefix(imported, "github.com/hashicorp/nomad/nomad/state")
			if server && !strings.HasPrefix(pkg, "bench/") {
				t.Errorf("%s -> %s: only benchmarks import Nomad's scheduler", pkg, imported)
			}
		}
	}
}

func TestNoDrawers(t *testing.T) {
	for pkg := range load(t) {
		for _, part := range strings.Split(pkg, "/") {
			if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "misc", "shared"}, part) {
				t.Errorf("%s: a folder named %q is a missing idea", pkg, part)
			}
		}
	}
}
