// Package control connects the router to Consul: it reads the catalog and KV, writes config entries
// and holds the leader lock.
package control

import (
	"fmt"
	"sync"

	"github.com/hashicorp/consul/api"

	"aliquot.example/internal/consultoken"
	"aliquot.example/internal/weigh"
	"aliquot.example/router/config"
)

// Client is a client of one Consul agent. It is safe for concurrent use.
type Client struct {
	api   *api.Client
	owner string
	rates string

	mu sync.Mutex
	// read holds our own entries as last read, so that a write keeps what others have added.
	read map[weigh.Key]stamped
}

// stamped is an entry at a ModifyIndex.
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

// New creates a client from the configuration file, and from the CONSUL_* variables for empty
// fields. It does not connect.
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
	// Every watch needs a connection. By default, all idle ones but GOMAXPROCS+1 would be closed
	// after each response. HTTP/2, which needs TLS, uses one connection for all watches.
	t := conf.Transport
	t.MaxIdleConns, t.MaxIdleConnsPerHost, t.MaxConnsPerHost = 0, c.MaxConnections, c.MaxConnections
	t.ForceAttemptHTTP2 = true
	t.DisableCompression = true // the agent is close: compression would cost more than it saves
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
