// Command aliquot-device-nvidia is the Nomad device plugin for NVIDIA GPUs.
package main

import (
	"os"

	"github.com/hashicorp/nomad/plugins/base"

	"aliquot.example/devices/nvidia"
	"aliquot.example/devices/plugin"
	"aliquot.example/internal/plugincmd"
)

func main() {
	nvidia.AnswerDriver(os.Args)
	plugincmd.Plugin{
		Name:   "aliquot-device-nvidia",
		What:   "the Nomad device plugin that offers NVIDIA GPUs in slices, as MIG devices or whole",
		Cookie: base.Handshake.MagicCookieKey,
		Host:   "the Nomad agent",
		Page:   "docs/nvidia.md",
		Config: `  plugin "aliquot-device-nvidia" {
    config {
      gpu "*" {
        slices = 20
      }
    }
  }
`,
	}.Answer()
	plugin.Serve(nvidia.Maker())
}
