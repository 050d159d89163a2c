package main

import (
	"aliquot.example/internal/host"
	"aliquot.example/internal/host/nvidia"
)

// unnamed lists the GPU device nodes of this host that systemd cannot name.
func unnamed() []string { return nvidia.Unnamed(host.Running) }
