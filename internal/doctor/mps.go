package doctor

import (
	"fmt"
	"slices"
	"strings"

	"aliquot.example/internal/agent"
	"aliquot.example/internal/gpu"
)

// mps finds MPS daemons that are not the device plugin's. Programs that reach one of them can use a
// GPU without regard to slices.
func mps(f Facts) []Finding {
	var out []Finding
	if f.DefaultMPSDirectory {
		out = append(out, Finding{Warning,
			"mps", "/tmp/nvidia-mps exists: NVIDIA's container runtime mounts it into every GPU container, " +
				"which then uses another MPS daemon instead of its own",
			"stop the daemon that uses it and remove the directory"})
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
			"stop each with  echo quit | CUDA_MPS_PIPE_DIRECTORY=<its directory> nvidia-cuda-mps-control, " +
				"or set mode whole or off for its GPUs"})
	}
	return out
}

// runDirs returns the run directories of this agent's device plugins.
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
