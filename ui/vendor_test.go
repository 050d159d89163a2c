package ui

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"strings"
	"testing"
)

// The libraries are those that scripts/page-libraries brought, unchanged, each with its
// licence. That they are still npm's, the script tells with --check.
func TestLibrariesAreUnchanged(t *testing.T) {
	sums, err := fs.ReadFile(web, "web/vendor/SHA256SUMS")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for line := range strings.Lines(string(sums)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		want[name] = sum
	}
	err = fs.WalkDir(web, "web/vendor", func(path string, d fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, "web/vendor/")
		if err != nil || d.IsDir() || name == "SHA256SUMS" {
			return err
		}
		text, err := fs.ReadFile(web, path)
		sum := sha256.Sum256(text)
		if hex.EncodeToString(sum[:]) != want[name] {
			t.Errorf("%s is not what scripts/page-libraries brought: run it again", path)
		}
		delete(want, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
}

// The page asks no other host for anything.
func TestPageNamesNoOtherHost(t *testing.T) {
	err := fs.WalkDir(web, "web", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(path, "web/vendor/") {
			return err
		}
		text, err := fs.ReadFile(web, path)
		if rest := strings.ReplaceAll(string(text), "http://www.w3.org/2000/svg", ""); strings.Contains(rest, "://") {
			t.Errorf("%s has an address in it", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
