// Package config reads the router's configuration file.
package config

import (
	"time"

	"aliquot.example/internal/weigh"
)

// Config is a checked configuration.
type Config struct {
	LogLevel string
	// Admin is the listen address of status, metrics and health.
	Admin string
	// Owner is the mark by which the router knows its own entries.
	Owner    string
	Consul   Consul
	Leader   Leader
	Limits   weigh.Limits
	Trust    weigh.Trust
	Rates    string // KV prefix of learned rates, without a slash at the end
	Protocol string // of services that name none and inherit none
	// Tuning holds for services that say nothing else.
	Tuning weigh.Tuning
	// Audit is how often all entries are read again, to notice what others wrote.
	Audit    time.Duration
	Classes  map[string]weigh.Profile
	Services map[string]Service
}

// Consul names the agent; what is empty comes from the CONSUL_* environment.
type Consul struct {
	Address, Datacenter, Namespace, Partition string
	TokenFile                                 string
	CAFile, CertFile, KeyFile, ServerName     string
	// MaxConnections is how many requests, most of them waiting, are open at once.
	// The agent's own limit is limits.http_max_conns_per_client, by default 200.
	MaxConnections int
}

// Leader says how one of several routers is chosen.
type Leader struct {
	Key string
	// TTL of the session, LockDelay after it was lost.
	TTL, LockDelay time.Duration
}

// Service is the configuration of one service.
type Service struct {
	// Route is nil where the service's meta decides.
	Route    *bool
	Protocol string
	Tuning   weigh.Tuning
	Classes  map[string]weigh.Profile
	Rules    []weigh.Rule
}

// Profiles returns the profiles that hold for a service: its own, else the
// general ones.
func (c *Config) Profiles(service string) map[string]weigh.Profile {
	out := map[string]weigh.Profile{}
	for class, p := range c.Classes {
		out[class] = p
	}
	for class, p := range c.Services[service].Classes {
		out[class] = p
	}
	return out
}

// ProtocolOf returns the protocol that a service's service-defaults gets.
func (c *Config) ProtocolOf(service string) string {
	if p := c.Services[service].Protocol; p != "" {
		return p
	}
	return c.Protocol
}

// TuningOf returns the time-outs, retries and balancing of a service.
func (c *Config) TuningOf(service string) weigh.Tuning {
	if s, ok := c.Services[service]; ok {
		return s.Tuning
	}
	return c.Tuning
}
