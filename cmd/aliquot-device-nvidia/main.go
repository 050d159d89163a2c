// Program aliquot-device-nvidia is the Nomad device plugin for NVIDIA GPUs.
package main

import (
	"aliquot/devices/nvidia"
	"aliquot/devices/plugin"
)

func main() { plugin.Serve(nvidia.Maker()) }
