package main

import (
	"fmt"
	"strings"

	"github.com/hashicorp/cli"
)

// simulateCommand is the parent of the simulate subcommands.
type simulateCommand struct{ ui cli.Ui }

func (simulateCommand) Synopsis() string { return "Try settings on recorded requests" }

func (simulateCommand) Help() string {
	return `Usage: aliquot simulate <command> [flags]

  Tries settings on recorded requests, in simulated time.

Example:

  aliquot simulate scale -help
`
}

func (c simulateCommand) Run(args []string) int {
	what := "no command"
	if len(args) > 0 {
		what = fmt.Sprintf("unknown command %q", strings.Join(args, " "))
	}
	c.ui.Error("aliquot simulate: " + what + ": want scale; see aliquot simulate -help")
	return 2
}
