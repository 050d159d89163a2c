// Command aliquot-strategy is a plugin of the Nomad Autoscaler; see docs/scaling.md.
package main

import (
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/plugins"

	"aliquot/autoscaler-plugin/strategy"
)

func main() {
	plugins.Serve(func(log hclog.Logger) any { return strategy.New(log) })
}
