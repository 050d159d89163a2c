// Command aliquot-strategy is a strategy plugin of the Nomad Autoscaler; see docs/scaling.md.
package main

import (
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/plugins"

	"aliquot.example/autoscaler-plugin/siblings"
	"aliquot.example/autoscaler-plugin/strategy"
	"aliquot.example/internal/plugincmd"
)

func main() {
	plugincmd.Plugin{
		Name:   "aliquot-strategy",
		What:   "the strategy plugin of the Nomad Autoscaler that turns demand into counts",
		Cookie: plugincmd.AutoscalerCookie,
		Host:   "the Nomad Autoscaler",
		Page:   "docs/scaling.md",
		Config: `  strategy "aliquot-strategy" {
    driver = "aliquot-strategy"
    config = {
      consul_address = "127.0.0.1:8500"
    }
  }
`,
	}.Answer()
	plugins.Serve(func(log hclog.Logger) any {
		siblings.Watch(log)
		return strategy.New(log)
	})
}
