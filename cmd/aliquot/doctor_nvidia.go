package main

import (
	"aliquot/internal/host"
	"aliquot/internal/host/nvidia"
)

// unnamed lists device nodes of GPUs on this host that systemd cannot name.
func unnamed() []string { return nvidia.Unnamed(host.Running) }
