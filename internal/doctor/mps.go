package doctor

import (
	"fmt"
	"slices"
	"strings"

	"aliquot.example/internal/agent"
	"aliquot.example/internal/gpu"
)

// mps looks for MPS daemons beside those of the device plugin: programs that reach one
// have a GPU past its slices.
func mps(f Facts) []Finding {
	var out []Finding
	if f.DefaultMPSDirectory {
		out = append(out, Finding{Warning,
			"mps", "/tmp/nvidia-mps exists: NVIDIA's container runtime mounts it into every GPU container, " +
				"which then talks to another MPS daemon than its own",
			"end the daemon that uses it and remove the directory"})
	}
	var foreign []string
	for pid, pipe := range f.MPSDaemons {
		if !slices.ContainsFunc(runDirs(f), func(dir string) bool { return strings.HasPrefix(pipe, dir+"/mps/") }) {
			foreign = append(foreign, fmt.Sprintf("PID %d at %s", pid, pipe))
		}
	}
	if len(foreign) > 0 {
		slices.Sort(foreign)
		out = append(out, Finding{Warning, "mps", "MPS control daemons run here that are not the device plugin's: " +
			strings.Join(foreign, ", "),
			"end each with  echo quit | CUDA_MPS_PIPE_DIRECTORY=<its directory> nvidia-cuda-mps-control, " +
				"or give its GPUs mode whole or off"})
	}
	return out
}

// runDirs are the run directories of this agent's device plugins.
func runDirs(f Facts) []string {
	var out []string
	for _, m := range gpu.Makers() {
		dir, _ := agent.Descend(plugin(f.Agent.Config, m.Plugin), "run_dir")
		if text, _ := dir.(string); text != "" {
			out = append(out, strings.TrimSuffix(text, "/"))
			continue
		}
		out = append(out, "/run/aliquot")
	}
	return out
}
