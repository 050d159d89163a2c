package aliquot

import (
	"path"
	"slices"
	"strings"

	"aliquot.example/internal/gpu"
)

// ungranted lists the ways in which a job or an image could get GPUs of one vendor without a grant, so that
// the driver can close them.
type ungranted struct {
	vendor gpu.Vendor
	// env has the variables with which jobs and images request GPUs from the vendor's container
	// runtime, each with the value that requests none.
	env map[string]string
	// runtimes are patterns of the names under which the vendor's container runtime
	// is registered at the engine.
	runtimes []string
	// nodes are patterns of device nodes and of folders of them.
	nodes []string
	// majors are patterns of names in /proc/devices. A node with such a major number is a GPU's,
	// whatever its path is.
	majors []string
	// requests are the directories of the container in which the vendor's runtime interprets
	// mounts as requests for GPUs.
	requests []string
}

// ungrantedWays has every vendor whose GPUs a host may have, offered or not.
var ungrantedWays = []ungranted{nvidiaReach, amdReach, intelReach}

// noGPU returns all variables that request GPUs from a vendor's runtime, with the values that request
// none.
func noGPU() map[string]string {
	out := map[string]string{}
	for _, r := range ungrantedWays {
		for name, none := range r.env {
			out[name] = none
		}
	}
	return out
}

// runtimeOf returns the vendor of the container runtime with a name, or "".
func (s settings) runtimeOf(name string) gpu.Vendor {
	for _, r := range ungrantedWays {
		if matches(r.runtimes, name) {
			return r.vendor
		}
	}
	if name != "" && name == s.runtime {
		return nvidiaReach.vendor // the configuration (nvidia_runtime) names NVIDIA's runtime
	}
	return ""
}

// isGPUNode reports whether a path is a GPU's device node, or is in a directory of them.
func isGPUNode(p string) bool {
	for ; p != "/" && p != "."; p = path.Dir(p) {
		if slices.ContainsFunc(ungrantedWays, func(r ungranted) bool { return matches(r.nodes, p) }) {
			return true
		}
	}
	return false
}

// holdsGPUNodes reports whether a directory is a place for GPU nodes.
func holdsGPUNodes(dir string) bool {
	dir = strings.TrimSuffix(dir, "/") + "/"
	return slices.ContainsFunc(ungrantedWays, func(r ungranted) bool {
		return slices.ContainsFunc(r.nodes, func(pattern string) bool { return strings.HasPrefix(pattern, dir) })
	})
}

// asksForGPU reports whether a vendor's runtime would interpret a mount at a path of the container as a
// request for a GPU.
func asksForGPU(target string) bool {
	return slices.ContainsFunc(ungrantedWays, func(r ungranted) bool {
		return slices.ContainsFunc(r.requests, func(dir string) bool { return within(dir, target) })
	})
}

// gpuMajors returns the major numbers of GPU nodes: those that the kernel has
// fixed, and those that it lists.
func (h host) gpuMajors() map[uint32]bool {
	out := map[uint32]bool{195: true, 226: true, 261: true} // Linux, devices.txt: NVIDIA, DRM, accel
	for number, names := range h.characterDrivers() {
		for _, name := range names {
			if slices.ContainsFunc(ungrantedWays, func(r ungranted) bool { return matches(r.majors, name) }) {
				out[number] = true
			}
		}
	}
	return out
}

func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, _ := path.Match(pattern, name)
		return ok
	})
}

// within reports whether a clean path is a folder or lies below it.
func within(dir, p string) bool {
	dir, p = path.Clean(dir), path.Clean(p)
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}
