package nvidia

import (
	"fmt"
	"os"
	"path/filepath"

	"aliquot.example/devices/nvidia/nvml"
	"aliquot.example/internal/gpu"
	machine "aliquot.example/internal/host"
)

// mpsServer is the program of an MPS server. NVML lists it among the processes of its GPU, although
// it is not a client.
const mpsServer = "nvidia-cuda-mps-server"

// mpsClients lists the processes that use a GPU through MPS according to NVML, which no container can
// deceive. With drivers that do not list them separately, it returns all processes except servers.
func (v *vendor) mpsClients(id gpu.ID) ([]int, error) {
	h, release, err := v.lib.acquireGPU(id)
	if err != nil {
		return nil, err
	}
	defer release()
	list, r := h.MPSProcesses()
	if r == nvml.NotSupported || r == nvml.FunctionNotFound {
		list, r = h.ComputeProcesses()
	}
	if r != nvml.Success {
		return nil, fmt.Errorf("NVML cannot list the processes of GPU %s: %s", id, describe(r))
	}
	var pids []int
	for _, p := range list {
		exe, _ := os.Readlink(filepath.Join(machine.Running.Process(int(p.PID)), "exe"))
		if filepath.Base(exe) != mpsServer {
			pids = append(pids, int(p.PID))
		}
	}
	return pids, nil
}
