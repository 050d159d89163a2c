// Package settings reads what the plugins' configurations have in common, and reaches
// Consul by it.
package settings

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/internal/consultoken"
)

// The settings by which a plugin reaches Consul. What is not set comes from the
// usual CONSUL_* environment of the agent.
const (
	consulAddress    = "consul_address"
	consulTokenFile  = "consul_token_file"
	consulDatacenter = "consul_datacenter"
	consulNamespace  = "consul_namespace"
	consulCAFile     = "consul_ca_file"
)

// ConsulSettings lists them.
var ConsulSettings = []string{consulAddress, consulTokenFile, consulDatacenter, consulNamespace, consulCAFile}

// Known fails on a setting that is neither in names nor one of those that the
// agent passes to every plugin.
func Known(settings map[string]string, names ...string) error {
	for name := range settings {
		if !slices.Contains(names, name) && !strings.HasPrefix(name, "nomad_") {
			slices.Sort(names)
			return fmt.Errorf("unknown setting %q in the plugin's config: want one of %s", name,
				strings.Join(names, ", "))
		}
	}
	return nil
}

// Consul returns a client for the plugin's settings. The token is read from its
// file for each request, never from the agent's configuration, which is shown by its
// API.
func Consul(settings map[string]string) (*consul.Client, error) {
	c := consul.DefaultConfig()
	if path := settings[consulTokenFile]; path != "" {
		if _, err := consultoken.Read(path); err != nil {
			return nil, fmt.Errorf("%s: %w", consulTokenFile, err)
		}
		c.TokenFile = path
	}
	for name, to := range map[string]*string{
		consulAddress: &c.Address, consulDatacenter: &c.Datacenter, consulNamespace: &c.Namespace,
		consulCAFile: &c.TLSConfig.CAFile,
	} {
		if settings[name] != "" {
			*to = settings[name]
		}
	}
	return consultoken.NewClient(c)
}

// ErrFiltered is the error of an answer that Consul has shortened.
var ErrFiltered = errors.New(
	"Consul left entries out of its answer for lack of rights: the token needs service:read, " +
		"node:read and key:read, see docs/scaling.md")

// Whole fails on an answer from which entries were left out for lack of rights. What
// is left looks as if gateways or their demand were gone.
func Whole(meta *consul.QueryMeta, err error) error {
	if err == nil && meta != nil && meta.ResultsFilteredByACLs {
		return ErrFiltered
	}
	return err
}
