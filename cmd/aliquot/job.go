package main

import (
	"fmt"
	"strings"

	"github.com/hashicorp/cli"
)

// jobCommand is the parent of the job subcommands.
type jobCommand struct{ ui cli.Ui }

func (jobCommand) Synopsis() string { return "Submit jobs that keep free GPU capacity usable" }

func (jobCommand) Help() string {
	return `Usage: aliquot job <command> [flags] <file>

  Submits jobs to Nomad with the spread and the affinities of a packing policy, so
  that the capacity that remains on the nodes stays as useful as possible.

Example:

  aliquot job run -pack=fragmentation chat.nomad.hcl
`
}

func (c jobCommand) Run(args []string) int {
	what := "no command"
	if len(args) > 0 {
		what = fmt.Sprintf("unknown command %q", strings.Join(args, " "))
	}
	c.ui.Error("aliquot job: " + what + ": want inspect, plan, run, defrag or right-size; see aliquot job -help")
	return 2
}
