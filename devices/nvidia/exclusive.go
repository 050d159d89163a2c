package nvidia

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"aliquot.example/devices/nvidia/nvml"
	"aliquot.example/devices/plugin"
	"aliquot.example/internal/gpu"
	machine "aliquot.example/internal/host"
	"aliquot.example/internal/mps"
)

// remembered is the compute mode that a GPU had before it was shared. It is saved beside the GPU's MPS
// daemon, so that it survives restarts of the plugin and of the daemon.
type remembered struct{ Before nvml.ComputeMode }

func (d *daemons) modeFile(id gpu.ID) string {
	return filepath.Join(d.dir, string(id), "compute_mode.json")
}

// occupants are the processes on a shared GPU, by PID, that are neither MPS clients
// nor servers of the plugin's own daemon.
type occupants []int

// mpsOf returns the first process that is an MPS server, with its pipe directory.
func (o occupants) mpsOf() (pid int, pipe string) {
	for _, pid := range o {
		if exe, _ := os.Readlink(filepath.Join(machine.Running.Process(pid), "exe")); filepath.Base(exe) != mpsServer {
			continue
		}
		env, _ := os.ReadFile(filepath.Join(machine.Running.Process(pid), "environ"))
		for _, e := range strings.Split(string(env), "\x00") {
			if value, ok := strings.CutPrefix(e, "CUDA_MPS_PIPE_DIRECTORY="); ok {
				return pid, value
			}
		}
		return pid, mps.DefaultPipe
	}
	return 0, ""
}

// errProhibited is the problem of a GPU on which the operator allows no programs.
var errProhibited = errors.New(
	"the GPU has compute mode PROHIBITED, so no program can use it; set another with nvidia-smi -c, " +
		"or give the GPU mode off")

// exclusive sets the compute mode of a shared GPU whose daemon has these servers. With
// EXCLUSIVE_PROCESS only the server can use the GPU, so a task that cannot find the pipe directory
// fails instead of getting the whole GPU. While there are other processes on the GPU, exclusive
// restores the former mode and returns these processes: otherwise no new server could start beside,
// for example, the server of a killed daemon.
func (v *vendor) exclusive(id gpu.ID, servers []int) (occupants, error) {
	h, release, err := v.lib.acquireGPU(id)
	if err != nil {
		return nil, err
	}
	defer release()
	if mode, r := h.ComputeMode(); r == nvml.Success && mode == nvml.ComputeProhibited {
		return nil, errProhibited
	}
	others, err := v.occupants(h, servers)
	if err != nil {
		return nil, err
	}
	if v.exclusiveMode && len(others) == 0 {
		return nil, v.setMode(id, h)
	}
	return others, v.restoreMode(id, h, false)
}

func (v *vendor) occupants(h nvml.Device, servers []int) (occupants, error) {
	if !v.lib.anyOf("nvmlDeviceGetComputeRunningProcesses") {
		return nil, nil
	}
	var clients []nvml.Process
	r1 := nvml.Success
	switch {
	case v.lib.anyOf("nvmlDeviceGetMPSComputeRunningProcesses"):
		clients, r1 = h.MPSProcesses()
	case len(servers) > 0:
		return nil, nil // this driver does not distinguish clients from other processes
	}
	all, r2 := h.ComputeProcesses()
	if r1 != nvml.Success || r2 != nvml.Success {
		return nil, fmt.Errorf("NVML cannot list the GPU's processes: %s, %s", describe(r1), describe(r2))
	}
	var out occupants
	for _, p := range all {
		pid := int(p.PID)
		if !slices.Contains(servers, pid) && !slices.ContainsFunc(clients, func(c nvml.Process) bool {
			return c.PID == p.PID
		}) {
			out = append(out, pid)
		}
	}
	return out, nil
}

// setMode saves a GPU's compute mode and sets EXCLUSIVE_PROCESS.
func (v *vendor) setMode(id gpu.ID, h nvml.Device) error {
	if !v.lib.has("nvmlDeviceGetComputeMode") || !v.lib.has("nvmlDeviceSetComputeMode") {
		return nil
	}
	mode, r := h.ComputeMode()
	if r != nvml.Success || mode == nvml.ComputeExclusiveProcess {
		return nil // the GPU has no compute modes, or the operator or this plugin has set this one
	}
	text, err := json.Marshal(remembered{Before: mode})
	if err != nil {
		return err
	}
	if err := plugin.WriteFile(v.mps.modeFile(id), text); err != nil {
		return fmt.Errorf("compute mode not set to EXCLUSIVE_PROCESS, because the present one cannot be saved: %w", err)
	}
	if r := h.SetComputeMode(nvml.ComputeExclusiveProcess); r != nvml.Success && r != nvml.NotSupported {
		return fmt.Errorf("the compute mode cannot be set to EXCLUSIVE_PROCESS: %s", describe(r))
	}
	return nil
}

// restoreMode restores the former compute mode of a GPU that the plugin made exclusive. With last, it
// also forgets that mode.
func (v *vendor) restoreMode(id gpu.ID, h nvml.Device, last bool) error {
	text, err := os.ReadFile(v.mps.modeFile(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var was remembered
	if err == nil {
		err = json.Unmarshal(text, &was)
	}
	if err != nil {
		was.Before = nvml.ComputeDefault
	}
	if mode, r := h.ComputeMode(); r == nvml.Success && mode == nvml.ComputeExclusiveProcess {
		if r := h.SetComputeMode(was.Before); r != nvml.Success {
			return fmt.Errorf("the compute mode cannot be restored: %s", describe(r))
		}
	}
	if last {
		return os.Remove(v.mps.modeFile(id))
	}
	return nil
}

// restoreShared restores the compute mode of a GPU that is no longer shared.
func (v *vendor) restoreShared(id gpu.ID) error {
	h, release, err := v.lib.acquireGPU(id)
	if err != nil {
		return err
	}
	defer release()
	return v.restoreMode(id, h, true)
}
