// Package settings reads the settings that the plugins have in common, and creates their Consul
// clients.
package settings

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/internal/consultoken"
)

// The settings of the connection to Consul. Settings that are missing come from the usual CONSUL_*
// environment variables of the agent.
const (
	consulAddress    = "consul_address"
	consulTokenFile  = "consul_token_file"
	consulDatacenter = "consul_datacenter"
	consulNamespace  = "consul_namespace"
	consulCAFile     = "consul_ca_file"
)

// ConsulSettings lists the settings of the connection to Consul.
var ConsulSettings = []string{consulAddress, consulTokenFile, consulDatacenter, consulNamespace, consulCAFile}

// Known returns an error for a setting that is neither in names nor passed by the agent to every
// plugin.
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

// Consul returns a client for the plugin's settings. The client reads the token from a file for
// each request. The token is never in the agent's configuration, because the agent's API shows
// that.
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

// ErrFiltered is the error for an answer from which Consul left out entries.
var ErrFiltered = errors.New(
	"Consul left entries out of its response because the token lacks permissions: it needs service:read, " +
		"node:read and key:read, see docs/scaling.md")

// Whole returns ErrFiltered for an answer from which Consul left out entries because of missing
// permissions. Such an answer looks as if gateways or their demand were gone.
func Whole(meta *consul.QueryMeta, err error) error {
	if err == nil && meta != nil && meta.ResultsFilteredByACLs {
		return ErrFiltered
	}
	return err
}
