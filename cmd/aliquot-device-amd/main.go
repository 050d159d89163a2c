// Command aliquot-device-amd is the Nomad device plugin for AMD GPUs.
package main

import (
	"aliquot/devices/amd"
	"aliquot/devices/plugin"
)

func main() { plugin.Serve(amd.Maker()) }
