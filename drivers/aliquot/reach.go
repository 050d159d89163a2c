package aliquot

import (
	"path"
	"slices"
	"strings"

	"aliquot.example/internal/gpu"
)

// reach is how GPUs of one vendor come into a container without a grant: what a
// job or an image could name, and the value that makes the name mean nothing.
type reach struct {
	vendor gpu.Vendor
	// env holds the variables by which the vendor's container runtime is asked for
	// GPUs, each with the value for none. Images set them as often as jobs.
	env map[string]string
	// runtimes are patterns of the names under which the vendor's container runtime
	// is registered at the engine.
	runtimes []string
	// nodes are patterns of device nodes and of folders of them.
	nodes []string
	// majors are patterns of names in /proc/devices: a node of these is a GPU's
	// wherever it is and whatever it is called.
	majors []string
	// requests are the folders of the container in which the vendor's runtime takes
	// mounts for requests.
	requests []string
}

// reaches holds every vendor whose GPUs a host may have, offered or not.
var reaches = []reach{nvidiaReach, amdReach, intelReach}

// noGPU returns every variable that asks a vendor's runtime for GPUs, set to none.
func noGPU() map[string]string {
	out := map[string]string{}
	for _, r := range reaches {
		for name, none := range r.env {
			out[name] = none
		}
	}
	return out
}

// runtimeOf returns the vendor whose container runtime has a name, "" for none.
func (s settings) runtimeOf(name string) gpu.Vendor {
	for _, r := range reaches {
		if matches(r.runtimes, name) {
			return r.vendor
		}
	}
	if name != "" && name == s.runtime {
		return nvidiaReach.vendor // its own key in the configuration names it
	}
	return ""
}

// isGPUNode reports whether a path is that of a GPU's device node, or lies in a folder
// of them.
func isGPUNode(p string) bool {
	for ; p != "/" && p != "."; p = path.Dir(p) {
		if slices.ContainsFunc(reaches, func(r reach) bool { return matches(r.nodes, p) }) {
			return true
		}
	}
	return false
}

// holdsGPUNodes reports whether GPU nodes belong into a folder.
func holdsGPUNodes(dir string) bool {
	dir = strings.TrimSuffix(dir, "/") + "/"
	return slices.ContainsFunc(reaches, func(r reach) bool {
		return slices.ContainsFunc(r.nodes, func(pattern string) bool { return strings.HasPrefix(pattern, dir) })
	})
}

// asksForGPU reports whether a mount at a place of the container is a request to a
// vendor's runtime.
func asksForGPU(target string) bool {
	return slices.ContainsFunc(reaches, func(r reach) bool {
		return slices.ContainsFunc(r.requests, func(dir string) bool { return within(dir, target) })
	})
}

// gpuMajors returns the major numbers of GPU nodes: those that the kernel has
// fixed, and those that it lists.
func (h host) gpuMajors() map[uint32]bool {
	out := map[uint32]bool{195: true, 226: true, 261: true} // Linux, devices.txt: NVIDIA, DRM, accel
	for number, names := range h.characterDrivers() {
		for _, name := range names {
			if slices.ContainsFunc(reaches, func(r reach) bool { return matches(r.majors, name) }) {
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
