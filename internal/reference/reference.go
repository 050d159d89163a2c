// Package reference reads docs/configuration.md and docs/operations.md, for the tests
// that hold them to the schemas and metrics of the programs.
package reference

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Setting is one key as the page describes it.
type Setting struct {
	Type string
	// Default is as it would be written in HCL; "" where nothing is set, or the
	// key is required.
	Default  string
	Required bool
}

// Text returns a default as text, without the quotes that it has in HCL.
func (s Setting) Text() string { return strings.Trim(s.Default, `"`) }

var (
	row    = regexp.MustCompile("(?m)^\\| (`.+?`) \\| (.*?) \\| (.*?) \\| (.*)\\|$")
	quoted = regexp.MustCompile("`([^`]+)`")
)

// types are those that the page uses, by the schema's type that they stand for.
var types = map[string][]string{
	"string":          {"string", "duration", "size"},
	"number":          {"number"},
	"bool":            {"bool"},
	"list of strings": {"list of strings"},
	"map of strings":  {"map of strings"},
	"blocks":          {"blocks"},
}

// Page returns the text of docs/configuration.md.
func Page(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(find(t, "docs/configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// find returns the path of a file of the checkout.
func find(t testing.TB, path string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if full := filepath.Join(dir, path); exists(full) {
			return full
		}
	}
	t.Fatalf("there is no %s above the working directory", path)
	return ""
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// Section returns the settings of the tables between a heading and the next one.
func Section(t testing.TB, heading string) map[string]Setting {
	t.Helper()
	_, text, ok := strings.Cut(Page(t), "# "+heading+"\n")
	if !ok {
		t.Fatalf("docs/configuration.md has no heading %q", heading)
	}
	text, _, _ = strings.Cut(text, "\n#")
	found := map[string]Setting{}
	for _, m := range row.FindAllStringSubmatch(text, -1) {
		setting := Setting{Type: m[2], Required: m[3] == "*required*"}
		switch literal := quoted.FindStringSubmatch(m[3]); {
		case literal != nil && literal[0] == m[3]:
			setting.Default = literal[1]
		case m[3] != "—" && !setting.Required:
			t.Errorf("%s, %s: the default is %q: want a value in backticks, — or *required*", heading, m[1], m[3])
		}
		if !slices.Contains(slices.Concat(types["string"], types["number"], types["bool"], types["list of strings"],
			types["map of strings"], types["blocks"]), setting.Type) {
			t.Errorf("%s, %s: unknown type %q", heading, m[1], setting.Type)
		}
		for _, key := range quoted.FindAllStringSubmatch(m[1], -1) {
			if _, twice := found[key[1]]; twice {
				t.Errorf("%s: %s stands twice", heading, key[1])
			}
			found[key[1]] = setting
		}
	}
	return found
}

// Compare holds a section to a schema: want maps each key to its type, "" where
// the schema does not say.
func Compare(t testing.TB, heading string, want map[string]string) map[string]Setting {
	t.Helper()
	page := Section(t, heading)
	for key, kind := range want {
		setting, ok := page[key]
		switch {
		case !ok:
			t.Errorf("%s lacks the key %s", heading, key)
		case kind != "" && !slices.Contains(types[kind], setting.Type):
			t.Errorf("%s: %s is of type %s, on the page %s", heading, key, kind, setting.Type)
		}
	}
	for key := range page {
		if _, ok := want[key]; !ok {
			t.Errorf("%s has the key %s, which does not exist", heading, key)
		}
	}
	return page
}
