package aliquot

import (
	"context"
	"fmt"
	"maps"
	"sync"

	consul "github.com/hashicorp/consul/api"
	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"

	"aliquot.example/internal/account"
	"aliquot.example/internal/consultoken"
)

// PackingConfig is the content of the block packing: where to read the allocations of the node and the
// typical demand, from which the levels for packing policies are computed.
type PackingConfig struct {
	// Enabled is false if the block is missing.
	Enabled bool `codec:"enabled"`
	// NomadAddress is the address of the node's agent; "" for NOMAD_ADDR or Nomad's default.
	NomadAddress string `codec:"nomad_address"`
	// NomadTokenFile contains a token with node:read, and read-job in all namespaces.
	NomadTokenFile string `codec:"nomad_token_file"`
	// ConsulAddress is the address of the Consul that stores the typical demand; "" for
	// CONSUL_HTTP_ADDR or Consul's default.
	ConsulAddress   string `codec:"consul_address"`
	ConsulTokenFile string `codec:"consul_token_file"`
	// DemandFile replaces the demand in Consul.
	DemandFile string `codec:"demand_file"`
}

func packingSpec() *hclspec.Spec {
	return hclspec.NewBlock("packing", false, hclspec.NewObject(map[string]*hclspec.Spec{
		"enabled":           withDefault("enabled", "bool", "true"),
		"nomad_address":     hclspec.NewAttr("nomad_address", "string", false),
		"nomad_token_file":  hclspec.NewAttr("nomad_token_file", "string", false),
		"consul_address":    hclspec.NewAttr("consul_address", "string", false),
		"consul_token_file": hclspec.NewAttr("consul_token_file", "string", false),
		"demand_file":       hclspec.NewAttr("demand_file", "string", false),
	}))
}

// watcher returns a watcher of the node's allocations. It sends no request yet.
func (c PackingConfig) watcher() (account.Watcher, error) {
	ofNomad := api.DefaultConfig()
	if c.NomadAddress != "" {
		ofNomad.Address = c.NomadAddress
	}
	client, err := api.NewClient(ofNomad)
	if err != nil {
		return account.Watcher{}, fmt.Errorf("packing: nomad_address %q: %w", c.NomadAddress, err)
	}
	ofConsul := consul.DefaultConfig()
	if c.ConsulAddress != "" {
		ofConsul.Address = c.ConsulAddress
	}
	if c.ConsulTokenFile != "" {
		ofConsul.TokenFile = c.ConsulTokenFile
	}
	kv, err := consultoken.NewClient(ofConsul)
	if err != nil {
		return account.Watcher{}, fmt.Errorf("packing: consul_address %q: %w", c.ConsulAddress, err)
	}
	return account.Watcher{Nomad: client, NomadTokenFile: c.NomadTokenFile, Consul: kv, DemandFile: c.DemandFile}, nil
}

// levels has the node attributes by which packing policies rank nodes, and the one that lists the node's
// models.
type levels struct {
	mu      sync.Mutex
	values  map[string]string
	changed chan struct{} // holds one wake-up
}

func newLevels() *levels {
	return &levels{values: map[string]string{}, changed: make(chan struct{}, 1)}
}

// set changes some of them.
func (l *levels) set(values map[string]string) {
	l.mu.Lock()
	maps.Copy(l.values, values)
	l.mu.Unlock()
	select {
	case l.changed <- struct{}{}:
	default: // a wake-up is already pending
	}
}

// add adds the levels to a fingerprint's attributes. Nomad removes an attribute whose value is "".
func (l *levels) add(attributes map[string]*pstructs.Attribute) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, value := range l.values {
		attributes[name] = pstructs.NewStringAttribute(value)
	}
}

// watchAccount publishes the levels until the driver ends.
func (d *Driver) watchAccount(ctx context.Context) {
	set, _ := d.settings()
	if set.packing == nil {
		return
	}
	w := *set.packing
	w.Publish = d.levels.set
	w.Problem = func(err error) {
		d.log.Warn("cannot update the node's levels for packing policies", "error", err)
	}
	w.Run(ctx)
}
