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
  that fractions of GPUs are placed where the remaining capacity stays most useful.

Commands:

  inspect      Show what a policy adds to a job, and why.
  plan         Plan the job as Nomad does, with the policy's additions.
  run          Submit the job with the policy's additions.
  defrag       Move allocations so that stranded capacity becomes usable.
  right-size   Show which slice count serves the job at the least cost.

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
