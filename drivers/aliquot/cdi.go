package aliquot

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/plugins/drivers"
	"gopkg.in/yaml.v3"
)

// cdiSpec is the part of a Container Device Interface specification that the docker driver can apply:
// nodes, files and environment. It cannot run hooks. NVIDIA's hooks make the dynamic linker find the
// driver's libraries; libraryMounts does this instead.
type cdiSpec struct {
	Kind    string      `yaml:"kind"`
	Devices []cdiDevice `yaml:"devices"`
	Edits   cdiEdits    `yaml:"containerEdits"`
}

type cdiDevice struct {
	Name  string   `yaml:"name"`
	Edits cdiEdits `yaml:"containerEdits"`
}

type cdiEdits struct {
	Env   []string `yaml:"env"`
	Nodes []struct {
		Path        string `yaml:"path"`
		HostPath    string `yaml:"hostPath"`
		Permissions string `yaml:"permissions"`
	} `yaml:"deviceNodes"`
	Mounts []struct {
		HostPath      string   `yaml:"hostPath"`
		ContainerPath string   `yaml:"containerPath"`
		Options       []string `yaml:"options"`
	} `yaml:"mounts"`
}

const cdiKind = "nvidia.com/gpu"

// cdiSpecs reads the host's specifications for NVIDIA GPUs; YAML reads JSON too.
// Files that cannot be read are reported and left out.
func (h host) cdiSpecs(dirs []string) ([]cdiSpec, []error) {
	var out []cdiSpec
	var errs []error
	for _, dir := range dirs {
		for _, pattern := range []string{"*.yaml", "*.yml", "*.json"} {
			files, _ := filepath.Glob(h.path(dir, pattern))
			for _, file := range files {
				content, err := os.ReadFile(file)
				var spec cdiSpec
				if err == nil {
					err = yaml.Unmarshal(content, &spec)
				}
				switch {
				case err != nil:
					errs = append(errs, fmt.Errorf("CDI specification %s: %w", file, err))
				case spec.Kind == cdiKind:
					out = append(out, spec)
				}
			}
		}
	}
	return out, errs
}

// cdiAttachment finds the CDI devices that together have the nodes in own and no node of another GPU or
// MIG device, and returns their attachment. It fails if no such device has a node, or if a listed file
// is missing: the specification is then older than the host's driver.
func (h host) cdiAttachment(specs []cdiSpec, own []string) (attachment, error) {
	a := attachment{env: map[string]string{}}
	for rest := own; len(rest) > 0; {
		spec, device := closest(specs, own, rest)
		if device == nil {
			return a,
				fmt.Errorf("no CDI device of kind %s has %s and nothing of another GPU: "+
					"run nvidia-ctk cdi generate again", cdiKind, rest[0])
		}
		for _, edits := range []cdiEdits{spec.Edits, device.Edits} {
			if err := h.addEdits(&a, edits); err != nil {
				return a, fmt.Errorf("CDI device %s=%s: %w", cdiKind, device.Name, err)
			}
		}
		rest = slices.DeleteFunc(slices.Clone(rest), func(p string) bool { return device.Edits.has(p) })
	}
	return a, nil
}

// closest returns, among the devices that have no GPU's node outside own, the one with most of the nodes
// in rest, and among equals the one with the fewest nodes. The toolkit lists a GPU's node under each of
// its MIG devices, so only the capability nodes distinguish these.
func closest(specs []cdiSpec, own, rest []string) (spec *cdiSpec, device *cdiDevice) {
	most, fewest := 0, 0
	for i := range specs {
		for j := range specs[i].Devices {
			d := &specs[i].Devices[j]
			if !d.Edits.only(own) {
				continue
			}
			n, all := 0, len(d.Edits.Nodes)
			for _, node := range rest {
				if d.Edits.has(node) {
					n++
				}
			}
			if n > most || n == most && n > 0 && all < fewest {
				spec, device, most, fewest = &specs[i], d, n, all
			}
		}
	}
	return spec, device
}

// ofOneGPU are the nodes that open one GPU or one MIG device; the others serve all.
var ofOneGPU = []string{"/dev/nvidia[0-9]*", "/dev/nvidia-caps/nvidia-cap*"}

// only reports whether the edits bring no node of a GPU or MIG device outside own.
func (e cdiEdits) only(own []string) bool {
	for _, n := range e.Nodes {
		if matches(ofOneGPU, n.Path) && !slices.Contains(own, n.Path) {
			return false
		}
	}
	return true
}

func (e cdiEdits) has(node string) bool {
	for _, n := range e.Nodes {
		if n.Path == node {
			return true
		}
	}
	return false
}

func (h host) addEdits(a *attachment, e cdiEdits) error {
	for _, n := range e.Nodes {
		from := n.HostPath
		if from == "" {
			from = n.Path
		}
		node, err := h.node(from)
		if err != nil {
			return err
		}
		node.TaskPath = n.Path
		if n.Permissions != "" {
			node.Permissions = n.Permissions
		}
		a.addNode(node)
	}
	for _, m := range e.Mounts {
		if !h.exists(m.HostPath) {
			return fmt.Errorf("%s is missing on the host: run nvidia-ctk cdi generate again", h.path(m.HostPath))
		}
		a.addMount(&drivers.MountConfig{HostPath: h.path(m.HostPath), TaskPath: m.ContainerPath,
			Readonly: slices.Contains(m.Options, "ro")})
	}
	for _, kv := range e.Env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			a.env[k] = v
		}
	}
	return nil
}
