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
		{"aliquot node rollout -", []string{"-pause", "-free", "-reset-slots"}, "-interval"},
		{"aliquot node rollout cha", []string{"chat.nomad.hcl"}, "-pause"},
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

// Every command of more than one word is offered behind the first.
func TestCompletionHasEveryCommand(t *testing.T) {
	program := filepath.Join(built(t), "aliquot")
	offered := map[string][]string{}
	for name := range commands() {
		first, second, two := strings.Cut(name, " ")
		if !two {
			continue
		}
		if offered[first] == nil {
			got := executeIn(t, t.TempDir(), []string{"COMP_LINE=aliquot " + first + " "}, program)
			offered[first] = strings.Fields(got.out)
		}
		if !slices.Contains(offered[first], second) {
			t.Errorf("aliquot %s: no %s among %v", first, second, offered[first])
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
