// Command aliquot-target is a plugin of the Nomad Autoscaler; see docs/scaling.md.
package main

import (
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/plugins"

	"aliquot/autoscaler-plugin/target"
)

func main() {
	plugins.Serve(func(log hclog.Logger) any { return target.New(log) })
}
