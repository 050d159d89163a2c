// Command aliquot-apm is a plugin of the Nomad Autoscaler; see docs/scaling.md.
package main

import (
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/plugins"

	"aliquot/autoscaler-plugin/apm"
)

func main() {
	plugins.Serve(func(log hclog.Logger) any { return apm.New(log) })
}
