// Package control is the router's hand on Consul: what it reads, writes and locks
// there, on github.com/hashicorp/consul/api.
package control

import (
	"fmt"
	"sync"

	"github.com/hashicorp/consul/api"

	"aliquot.example/internal/consultoken"
	"aliquot.example/internal/weigh"
	"aliquot.example/router/config"
)

// Client talks to one Consul agent. It is safe for concurrent use.
type Client struct {
	api   *api.Client
	owner string
	rates string

	mu sync.Mutex
	// read holds our own entries as they were read, so that a write keeps what others
	// added to them.
	read map[weigh.Key]stamped
}

// stamped is an entry as it was at a ModifyIndex.
type stamped struct {
	index uint64
	entry api.ConfigEntry
}

func (c *Client) remember(key weigh.Key, index uint64, e api.ConfigEntry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read[key] = stamped{index, e}
}

func (c *Client) remembered(key weigh.Key, index uint64) (api.ConfigEntry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.read[key]
	return s.entry, ok && s.index == index
}

func (c *Client) forget(key weigh.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.read, key)
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
	client, err := consultoken.NewClient(conf)
	if err != nil {
		return nil, fmt.Errorf("consul client: %w", err)
	}
	return &Client{api: client, owner: owner, rates: rates, read: map[weigh.Key]stamped{}}, nil
}

func set(field *string, value string) {
	if value != "" {
		*field = value
	}
}
