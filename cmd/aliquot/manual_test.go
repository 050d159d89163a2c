package main

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// The manual page names every command with what the program says of it.
func TestManualHasEveryCommand(t *testing.T) {
	text, err := os.ReadFile("../../packaging/aliquot.1")
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	made := commands()
	for _, name := range slices.Sorted(maps.Keys(made)) {
		command, err := made[name]()
		if err != nil {
			t.Fatal(err)
		}
		want.WriteString(".TP\n.B " + name + "\n" + roff(command.Synopsis()) + ".\n")
	}
	_, after, found := strings.Cut(string(text), "\n.SH COMMANDS\n")
	section, _, ended := strings.Cut(after, ".PP\n")
	if !found || !ended || section != want.String() {
		t.Errorf("the section COMMANDS of packaging/aliquot.1 should be\n%s\nand is\n%s", want.String(), section)
	}
	for _, unit := range []string{"gateway", "router", "cache", "node"} {
		if !strings.Contains(string(text), unit) {
			t.Errorf("the manual page does not name the files of unit aliquot-%s", unit)
		}
	}
}

// roff writes text as the formatter of manual pages takes it.
func roff(s string) string { return strings.ReplaceAll(s, "-", `\-`) }
