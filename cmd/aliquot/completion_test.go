package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The shell calls the program with the line so far, and gets one word a line.
func TestCompletion(t *testing.T) {
	program := filepath.Join(built(t), "aliquot")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "chat.nomad.hcl"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		line string
		want []string // some of the answers
		not  string
	}{
		{"aliquot ", []string{"cache", "doctor", "gateway", "version"}, "-json"},
		{"aliquot ga", []string{"gateway"}, "doctor"},
		{"aliquot job ", []string{"defrag", "inspect", "plan", "run"}, "doctor"},
		{"aliquot top -", []string{"-once", "-json"}, "-config"},
		{"aliquot gateway -", []string{"-config", "-check"}, "-once"},
		{"aliquot gateway -config cha", []string{"chat.nomad.hcl"}, "-check"},
		{"aliquot job run cha", []string{"chat.nomad.hcl"}, "-pack"},
		{"aliquot version -", []string{"-json"}, "-once"},
	} {
		got := executeIn(t, dir, []string{"COMP_LINE=" + c.line}, program)
		words := strings.Fields(strings.ReplaceAll(got.out, "./", ""))
		for _, want := range c.want {
			if !slices.Contains(words, want) {
				t.Errorf("%q: no %s among %v (status %d, %s)", c.line, want, words, got.status, got.problem)
			}
		}
		if slices.Contains(words, c.not) {
			t.Errorf("%q: %s among %v", c.line, c.not, words)
		}
	}
}

// Calls that set completion up name no command. They change the user's own files, so
// none is made here.
func TestCompletionMayBeInstalled(t *testing.T) {
	t.Setenv("COMP_LINE", "")
	for args, want := range map[string]bool{"-autocomplete-install": true, "-autocomplete-uninstall": true, "-autocomplete-install top": false, "-json": false, "": false} {
		if got := completing(strings.Fields(args)); got != want {
			t.Errorf("%q: %v", args, got)
		}
	}
}
