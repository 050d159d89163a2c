package plugin

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/plugins/shared/hclspec"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/share"
)

// Key declares one setting. The schema declares every scalar as a string, which Settings parses,
// because a value that does not match the schema stops the whole Nomad agent with a message that
// names neither the value nor the fix.
type Key struct {
	Name string
	// List makes the setting a list of scalars.
	List bool
}

func (k Key) spec() *hclspec.Spec {
	if k.List {
		return hclspec.NewAttr(k.Name, "list(string)", false)
	}
	return hclspec.NewAttr(k.Name, "string", false)
}

// The settings that all vendors have.
var (
	keys = []Key{{Name: "root"}, {Name: "run_dir"}, {Name: "fingerprint_period"}, {Name: "return_mounts"},
		{Name: "docker_socket"}, {Name: "metrics_address"}}
	gpuKeys = []Key{{Name: "mode"}, {Name: "slices"}, {Name: "weight"}}

	packingKeys = []Key{{Name: "enabled"}, {Name: "nomad_address"}, {Name: "nomad_token_file"}}
)

func (m Maker) schema() *hclspec.Spec {
	block := map[string]*hclspec.Spec{}
	for _, k := range slices.Concat(gpuKeys, m.GPUKeys) {
		block[k.Name] = k.spec()
	}
	top := map[string]*hclspec.Spec{"gpu": hclspec.NewBlockMap("gpu", []string{"selector"}, hclspec.NewObject(block))}
	for _, k := range slices.Concat(keys, m.Keys) {
		top[k.Name] = k.spec()
	}
	ofNomad := map[string]*hclspec.Spec{}
	for _, k := range packingKeys {
		ofNomad[k.Name] = k.spec()
	}
	top["packing"] = hclspec.NewBlock("packing", false, hclspec.NewObject(ofNomad))
	return hclspec.NewObject(top)
}

// Packing says where to read Nomad's allocations on this node.
type Packing struct {
	// NomadAddress is the address of the node's agent; "" for NOMAD_ADDR or Nomad's default.
	NomadAddress string
	// NomadTokenFile contains a token with node:read, and read-job in all namespaces.
	NomadTokenFile string
}

// Config is the validated configuration of a plugin.
type Config struct {
	// Root is the directory that contains the machine's /dev, /sys and /proc/driver: "/",
	// except in containers and tests.
	Root string
	// RunDir contains the run-time state that must outlive the plugin.
	RunDir string
	// Period is the time between two readings of the hardware.
	Period time.Duration
	// ReturnMounts makes Reserve return device nodes and mounts, for tasks of the
	// stock docker and exec drivers.
	ReturnMounts bool
	// DockerSocket is the socket of the container engine that knows the containers of processes,
	// for the statistics of tasks.
	DockerSocket string
	// MetricsAddress is the "host:port" that serves Prometheus metrics; "" for none.
	MetricsAddress string
	// Packing is set if islands leave out GPUs that Nomad's allocations hold.
	Packing *Packing
	// Rules are the gpu blocks. There is always one for "*".
	Rules []share.Rule
	// Settings holds the vendor's own keys.
	Settings *Settings
}

// Config validates a decoded configuration. Its error is the first bad value, in one line.
func (m Maker) Config(raw map[string]any) (Config, error) {
	s := &Settings{values: raw}
	c := Config{
		Root:         s.Path("root", "/"),
		RunDir:       s.Path("run_dir", "/run/aliquot"),
		Period:       s.Duration("fingerprint_period", 2*time.Second, 100*time.Millisecond, time.Minute),
		ReturnMounts: s.Bool("return_mounts", false),
		DockerSocket: s.Path("docker_socket", "/var/run/docker.sock"),
		Settings:     s,

		MetricsAddress: s.Address("metrics_address"),
	}
	c.Packing = packingOf(raw, s)
	blocks, _ := raw["gpu"].(map[string]any)
	selectors := sortedKeys(blocks)
	for i, selector := range selectors {
		for _, other := range selectors[:i] {
			if share.SameSelector(selector, other) {
				s.fail("gpu", selector, fmt.Sprintf("gpu %q selects the same GPUs; keep one of the two blocks", other))
			}
		}
		values, _ := blocks[selector].(map[string]any)
		block := &Settings{path: fmt.Sprintf("gpu %q ", selector), values: values}
		c.Rules = append(c.Rules, m.rule(selector, block))
		if block.err != nil && s.err == nil {
			s.err = block.err
		}
	}
	if _, ok := blocks[share.Any]; !ok {
		c.Rules = append(c.Rules, share.Rule{Selector: share.Any, Mode: m.Modes[0], Slices: share.DefaultSlices})
	}
	return c, s.err
}

// packingOf reads the block packing. It returns nil if the block is missing or not enabled.
func packingOf(raw map[string]any, top *Settings) *Packing {
	values, ok := raw["packing"].(map[string]any)
	if !ok {
		return nil
	}
	s := &Settings{path: "packing ", values: values}
	enabled := s.Bool("enabled", true)
	p := &Packing{NomadAddress: s.String("nomad_address", ""), NomadTokenFile: s.String("nomad_token_file", "")}
	if p.NomadTokenFile != "" {
		p.NomadTokenFile = s.Path("nomad_token_file", "/etc/nomad.d/token")
	}
	if s.err != nil && top.err == nil {
		top.err = s.err
	}
	if !enabled {
		return nil
	}
	return p
}

func (m Maker) rule(selector string, s *Settings) share.Rule {
	modes := make([]string, len(m.Modes))
	for i, mode := range m.Modes {
		modes[i] = string(mode)
	}
	r := share.Rule{
		Selector: selector,
		Mode:     share.Mode(s.OneOf("mode", modes...)),
		Slices:   s.Int("slices", share.DefaultSlices, 1, gpu.MaxSlices),
		Weight:   s.Float("weight", 0, 0, 1000),
		Options:  map[string]string{},
	}
	if strings.TrimSpace(selector) == "" {
		s.fail("", selector, `want a GPU's UUID, PCI address, index, class, product name or "*" as label`)
	}
	if s.Has("slices") && r.Mode != share.Shared {
		s.fail("slices", s.String("slices", ""),
			fmt.Sprintf("only mode shared has slices, and mode is %s; remove slices or set mode = \"shared\"",
				r.Mode))
	}
	for _, k := range m.GPUKeys {
		if s.Has(k.Name) {
			r.Options[k.Name] = s.String(k.Name, "")
		}
	}
	return r
}
