package main

import (
	"fmt"
	"strings"

	"github.com/hashicorp/cli"
)

// jobCommand is only the name that its subcommands begin with.
type jobCommand struct{ ui cli.Ui }

func (jobCommand) Synopsis() string { return "Submit jobs that keep free GPU capacity usable" }

func (jobCommand) Help() string {
	return `Usage: aliquot job <command> [flags] <file>

  Submits jobs of Nomad with the spread and the affinities of a packing policy, so
  that fractions of GPUs are placed where the rest stays of most use.

Commands:

  inspect      Say what a policy adds to a job, and why.
  plan         Plan the job as Nomad does, with what the policy adds.
  run          Submit the job with what the policy adds.
  defrag       Move allocations so that stranded capacity can be used.
  right-size   Say which slice count serves the job at the least cost.

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
