// Command aliquot-device-amd is the Nomad device plugin for AMD GPUs.
package main

import (
	"github.com/hashicorp/nomad/plugins/base"

	"aliquot.example/devices/amd"
	"aliquot.example/devices/plugin"
	"aliquot.example/internal/plugincmd"
)

func main() {
	plugincmd.Plugin{
		Name:   "aliquot-device-amd",
		What:   "the Nomad device plugin that offers AMD GPUs in slices, in partitions or whole",
		Cookie: base.Handshake.MagicCookieKey,
		Host:   "the Nomad agent",
		Page:   "docs/amd.md",
		Config: `  plugin "aliquot-device-amd" {
    config {
      gpu "*" {
        slices = 16
      }
    }
  }
`,
	}.Answer()
	plugin.Serve(amd.Maker())
}
