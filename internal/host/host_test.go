package host

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func tree(t *testing.T, files map[string]string) Root {
	t.Helper()
	r := Root(t.TempDir())
	for path, text := range files {
		path = r.Path(path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// What a file holds that is not what it should hold is one line with its path.
func TestFilesThatAreNoNumbers(t *testing.T) {
	r := tree(t, map[string]string{
		"number": " 12\n", "text": "twelve\nand more\n", "huge": strings.Repeat("1", MaxFile+1), "fields": "Device Minor: \t 3\nOther: x\n",
	})
	if n, err := r.Number("number"); n != 12 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := r.NumberField("fields", "Device Minor"); n != 3 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	number := func(path string) error { _, err := r.Number(path); return err }
	field := func(name string) error { _, err := r.NumberField("fields", name); return err }
	for want, err := range map[string]error{
		"text holds":              number("text"),
		"is larger than":          number("huge"),
		"no such file":            number("gone"),
		`has no field "Minor"`:    field("Minor"),
		`field "Other" is "x"`:    field("Other"),
		"node /dev/x is missing":  r.Device("/dev/x"),
		"no render node for 0:1.": func() error { _, err := r.RenderMinor("0:1.0"); return err }(),
	} {
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v, want %q on one line", err, want)
		}
	}
}

func TestNumbered(t *testing.T) {
	r := tree(t, map[string]string{"proc/12/x": "", "proc/3/x": "", "proc/self/x": "", "proc/-1/x": "", "proc/1e3/x": ""})
	if got := r.Numbered("proc"); !slices.Equal(got, []int{3, 12}) {
		t.Errorf("got %v", got)
	}
}

func TestKernelPCI(t *testing.T) {
	for pci, want := range map[string]string{
		"00000000:3B:00.0": "0000:3b:00.0", "0000:3b:00.0": "0000:3b:00.0", "00010000:01:00.0": "00010000:01:00.0", "": "",
	} {
		if got := KernelPCI(pci); got != want {
			t.Errorf("%q is %q, want %q", pci, got, want)
		}
	}
}
