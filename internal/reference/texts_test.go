package reference

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What docs/operations.md quotes is what the programs say: of every quotation in
// the first column of a table, each part between two … stands in the source.
func TestQuotedTextsExist(t *testing.T) {
	page, err := os.ReadFile(find(t, "docs/operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	for heading, table := range map[string]struct {
		folders []string
		column  int
	}{
		"Task events":       {[]string{"drivers", "internal"}, 0},
		"Health of devices": {[]string{"devices", "internal/mps"}, 0},
		"Services":          {[]string{"gateway", "router", "autoscaler-plugin"}, 1},
	} {
		_, text, ok := strings.Cut(string(page), "## "+heading+"\n")
		if !ok {
			t.Fatalf("docs/operations.md has no heading %q", heading)
		}
		text, _, _ = strings.Cut(text, "\n## ")
		source := sources(t, table.folders)
		quotations := 0
		for line := range strings.Lines(text) {
			cells := strings.Split(line, "|")
			if len(cells) < 4 {
				continue
			}
			for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[1+table.column], -1) {
				if heading == "Services" && strings.Contains(m[1], "nomad job status") || m[1] == "wake" || m[1] == "aliquot top" {
					continue // what to run, not what is said
				}
				quotations++
				for _, part := range strings.Split(m[1], "…") {
					if part = strings.TrimSpace(part); part != "" && !strings.Contains(source, part) {
						t.Errorf("%s: no program says %q, of %q", heading, part, m[1])
					}
				}
			}
		}
		if quotations < 5 {
			t.Errorf("%s: %d quotations", heading, quotations)
		}
	}
}

// joined is where a text goes on in the next line of the source.
var joined = regexp.MustCompile(`"\s*\+\s*"`)

// sources are the files of folders that are no tests, one after the other.
func sources(t *testing.T, folders []string) string {
	t.Helper()
	var all strings.Builder
	for _, folder := range folders {
		err := filepath.WalkDir(find(t, folder), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			all.Write(joined.ReplaceAll(text, nil))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}
