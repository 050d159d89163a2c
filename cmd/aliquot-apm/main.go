// Command aliquot-apm is an APM plugin of the Nomad Autoscaler; see docs/scaling.md.
package main

import (
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/plugins"

	"aliquot.example/autoscaler-plugin/apm"
	"aliquot.example/autoscaler-plugin/siblings"
	"aliquot.example/internal/plugincmd"
)

func main() {
	plugincmd.Plugin{
		Name:   "aliquot-apm",
		What:   "the APM plugin of the Nomad Autoscaler that reports the demand of services behind aliquot gateways",
		Cookie: plugincmd.AutoscalerCookie,
		Host:   "the Nomad Autoscaler",
		Page:   "docs/scaling.md",
		Config: `  apm "aliquot-apm" {
    driver = "aliquot-apm"
    config = {
      consul_address = "127.0.0.1:8500"
    }
  }
`,
	}.Answer()
	plugins.Serve(func(log hclog.Logger) any {
		siblings.Watch(log)
		return apm.New(log)
	})
}
