package aliquot

import (
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/drivers/docker"

	"aliquot.example/internal/gpu"
)

// cudaVisible returns CUDA_VISIBLE_DEVICES with the numbers that the granted GPUs have in a
// container without others: many programs, such as vLLM, expect numbers in it. A MIG device has no
// number, and CUDA finds a single one by itself. A container that sees more GPUs than were granted
// keeps the UUIDs that the device plugin reserved. CUDA does not use the nodes in /dev/dri.
func (s settings) cudaVisible(g gpu.Grant, task TaskConfig) map[string]string {
	const name = "CUDA_VISIBLE_DEVICES"
	seesMore := task.Privileged || slices.ContainsFunc(task.Devices, func(d docker.DockerDevice) bool {
		node := resolved(d.HostPath)
		return s.host.holdsHost(node) != "" && !within("/dev/dri", node) && !within(s.host.path("/dev/dri"), node)
	})
	switch {
	case seesMore:
		return nil
	case g.Sharing == gpu.SharingMIG:
		return map[string]string{name: ""}
	}
	numbers := make([]string, len(g.GPUs))
	for i := range numbers {
		numbers[i] = strconv.Itoa(i)
	}
	return map[string]string{name: strings.Join(numbers, ",")}
}
