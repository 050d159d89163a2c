package main

import (
	"fmt"
	"strings"

	"github.com/hashicorp/cli"
)

// nodeCommand is only the name that its subcommands begin with.
type nodeCommand struct{ ui cli.Ui }

func (nodeCommand) Synopsis() string { return "Look after the GPU drivers of nodes" }

func (nodeCommand) Help() string {
	return `Usage: aliquot node <command> [flags]

  Brings nodes to the GPU driver that is wanted of them, some at a time: tasks move
  first, the device plugin verifies the result, and a node that does not come back well
  returns to its former packages. docs/nodes.md says what is never done.

Commands:

  plan      Say what this host has, what its GPUs need and what would be done.
  agent     Look after the driver of this node. Runs as root.
  rollout   Say which drivers are wanted, pause, or free a node's slot.
  status    Show where each node is.

Example:

  aliquot node plan -version=580.126.09
`
}

func (c nodeCommand) Run(args []string) int {
	what := "no command"
	if len(args) > 0 {
		what = fmt.Sprintf("unknown command %q", strings.Join(args, " "))
	}
	c.ui.Error("aliquot node: " + what + ": want plan, agent, rollout or status; see aliquot node -help")
	return 2
}
