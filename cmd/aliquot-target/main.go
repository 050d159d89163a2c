// Command aliquot-target is a target plugin of the Nomad Autoscaler; see docs/scaling.md.
package main

import (
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/plugins"

	"aliquot.example/autoscaler-plugin/siblings"
	"aliquot.example/autoscaler-plugin/target"
	"aliquot.example/internal/plugincmd"
)

func main() {
	plugincmd.Plugin{
		Name:   "aliquot-target",
		What:   "the target plugin of the Nomad Autoscaler that sets the counts of task groups",
		Cookie: plugincmd.AutoscalerCookie,
		Host:   "the Nomad Autoscaler",
		Page:   "docs/scaling.md",
		Config: `  target "aliquot-target" {
    driver = "aliquot-target"
  }
`,
	}.Answer()
	plugins.Serve(func(log hclog.Logger) any {
		siblings.Watch(log)
		return target.New(log)
	})
}
