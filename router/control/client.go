// Package control is the router's hand on Consul: what it reads, writes and locks
// there, on github.com/hashicorp/consul/api.
package control

import (
	"fmt"

	"github.com/hashicorp/consul/api"

	"aliquot/router/config"
)

// Client talks to one Consul agent. It is safe for concurrent use.
type Client struct {
	api   *api.Client
	owner string
	rates string
}

// New makes a client of what the file says and, for what it leaves out, of the
// CONSUL_* environment. It does not connect.
func New(c config.Consul, owner, rates string) (*Client, error) {
	conf := api.DefaultConfig()
	set(&conf.Address, c.Address)
	set(&conf.Datacenter, c.Datacenter)
	set(&conf.Namespace, c.Namespace)
	set(&conf.Partition, c.Partition)
	set(&conf.TokenFile, c.TokenFile)
	set(&conf.TLSConfig.CAFile, c.CAFile)
	set(&conf.TLSConfig.CertFile, c.CertFile)
	set(&conf.TLSConfig.KeyFile, c.KeyFile)
	set(&conf.TLSConfig.Address, c.ServerName)
	// Every watch keeps a connection; by default all but the number of CPUs plus one
	// would be closed after each answer. HTTP/2, where TLS offers it, needs one for all.
	t := conf.Transport
	t.MaxIdleConns, t.MaxIdleConnsPerHost, t.MaxConnsPerHost = 0, c.MaxConnections, c.MaxConnections
	t.ForceAttemptHTTP2 = true
	t.DisableCompression = true // the agent is near; packing would cost more than it saves
	client, err := api.NewClient(conf)
	if err != nil {
		return nil, fmt.Errorf("consul client: %w", err)
	}
	return &Client{api: client, owner: owner, rates: rates}, nil
}

func set(field *string, value string) {
	if value != "" {
		*field = value
	}
}
