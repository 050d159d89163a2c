// Package config reads the router's configuration file.
package config

import (
	"time"

	"aliquot.example/internal/weigh"
)

// Config is a valid configuration.
type Config struct {
	LogLevel string
	// Admin is the listen address of status, metrics and health.
	Admin string
	// Owner is the mark by which the router recognizes its own entries.
	Owner    string
	Consul   Consul
	Leader   Leader
	Limits   weigh.Limits
	Trust    weigh.Trust
	Rates    string // KV prefix of learned rates, without a trailing slash
	Protocol string // default for services that set and inherit none
	// Tuning is the default for services.
	Tuning weigh.Tuning
	// Audit is the interval at which all entries are read again, to notice changes by others.
	Audit    time.Duration
	Classes  map[string]weigh.Profile
	Services map[string]Service
}

// Consul is the connection to the agent. The CONSUL_* variables replace empty fields.
type Consul struct {
	Address, Datacenter, Namespace, Partition string
	TokenFile                                 string
	CAFile, CertFile, KeyFile, ServerName     string
	// MaxConnections limits the requests, mostly blocking queries, that are open at once. The
	// agent's own limit is limits.http_max_conns_per_client, 200 by default.
	MaxConnections int
}

// Leader configures the election of one of several routers.
type Leader struct {
	Key string
	// TTL is the session's. LockDelay is the time after a lost session until the next router can
	// take the lock.
	TTL, LockDelay time.Duration
}

// Service is the configuration of one service.
type Service struct {
	// Route is nil if the service's meta decides.
	Route    *bool
	Protocol string
	Tuning   weigh.Tuning
	Classes  map[string]weigh.Profile
	Rules    []weigh.Rule
}

// Profiles returns the profiles for a service, by class. A service's own profile replaces the
// general one of the class.
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

// ProtocolOf returns the protocol for a service's service-defaults entry.
func (c *Config) ProtocolOf(service string) string {
	if p := c.Services[service].Protocol; p != "" {
		return p
	}
	return c.Protocol
}

// TuningOf returns the timeouts, retries and balancing of a service.
func (c *Config) TuningOf(service string) weigh.Tuning {
	if s, ok := c.Services[service]; ok {
		return s.Tuning
	}
	return c.Tuning
}
