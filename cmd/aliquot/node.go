package main

import (
	"fmt"
	"strings"

	"github.com/hashicorp/cli"
)

// nodeCommand is the parent of the node subcommands.
type nodeCommand struct{ ui cli.Ui }

func (nodeCommand) Synopsis() string { return "Manage the GPU drivers of nodes" }

func (nodeCommand) Help() string {
	return `Usage: aliquot node <command> [flags]

  Installs the wanted GPU driver on nodes, some at a time. Each node is drained first, and
  the device plugin verifies the result. A node that fails verification gets its previous
  packages back. docs/nodes.md lists what is never done.

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
