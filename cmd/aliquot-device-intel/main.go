// Command aliquot-device-intel is the Nomad device plugin for Intel GPUs.
package main

import (
	"github.com/hashicorp/nomad/plugins/base"

	"aliquot.example/devices/intel"
	"aliquot.example/devices/plugin"
	"aliquot.example/internal/plugincmd"
)

func main() {
	plugincmd.Plugin{
		Name:   "aliquot-device-intel",
		What:   "the Nomad device plugin that offers Intel GPUs whole or as virtual functions",
		Cookie: base.Handshake.MagicCookieKey,
		Host:   "the Nomad agent",
		Page:   "docs/intel.md",
		Config: `  plugin "aliquot-device-intel" {
    config {
      gpu "*" {
        mode = "whole"
      }
    }
  }
`,
	}.Answer()
	plugin.Serve(intel.Maker())
}
