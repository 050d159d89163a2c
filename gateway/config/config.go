// Package config reads the gateway's configuration file.
package config

import (
	"log/slog"
	"net/netip"
	"time"

	"aliquot.example/internal/dispatch"
)

// Config is a configuration file, decoded, defaulted and checked.
type Config struct {
	Listen     Listen
	Admin      string // address of the admin listener
	AccessLog  string // "off", "stderr" or a path
	LogLevel   slog.Level
	Drain      Drain
	Consul     *Consul
	Nomad      *Nomad
	Peers      *Peers
	Priorities []string // names, most urgent first
	Tenants    Tenants
	Services   []Service
}

// Listen is the public listener and its limits.
type Listen struct {
	Address  string
	CertFile string // with KeyFile; "" without TLS
	KeyFile  string
	// Server is what speaks HTTP/1.1 without TLS: "front" for the gateway's own, or
	// "net/http".
	Server string
	// MaxConnections bounds open client connections.
	MaxConnections int
	MaxHeaderBytes int
	MaxBodyBytes   int64
	HeaderTimeout  time.Duration // to receive a request's header
	IdleTimeout    time.Duration // between requests on a connection
	BodyTimeout    time.Duration // without any progress of a request's body
	WriteTimeout   time.Duration // without any progress of a response
	Bodies         Bodies
	MaxStreams     int // requests at once on one connection of HTTP/2
	// Trusted are the proxies whose word on the client's scheme and host counts.
	Trusted []netip.Prefix
}

// Bodies bounds what is kept of the bodies of requests before they are served, in
// bytes.
type Bodies struct {
	Each   int64  // of one request; what is longer is streamed
	Memory int64  // of all requests, in memory
	Disk   int64  // of all requests, in files; 0 refuses what does not fit into memory
	Dir    string // of the files; "" for the system's
}

// Drain is the order of an orderly end.
type Drain struct {
	// Delay is how long the gateway serves on after it says that it leaves.
	Delay time.Duration
	// Timeout is how long it then waits for requests in flight.
	Timeout time.Duration
}

// Consul is how the gateway reaches Consul.
type Consul struct {
	Address, Datacenter, Namespace string
	Token                          Secret
	Register                       bool   // register the gateway as a service
	Service                        string // its name
	Publish                        bool   // write learned rates to KV
	Prefix                         string // of the KV keys
}

// Peers is how the gateway and others share their queues.
type Peers struct {
	Address   string // to listen at
	Advertise string // where the others reach it
	// TLS is "files", "connect" or "off".
	TLS                       string
	CertFile, KeyFile, CAFile string
}

// Nomad is how the gateway reaches Nomad.
type Nomad struct {
	Address, Region, Namespace string
	Token                      Secret
}

// Tenants says how tenants are told apart and what each may use.
type Tenants struct {
	Header string            // names the tenant; "" when not used
	APIKey bool              // the tenant is who holds the bearer token or X-API-Key
	Keys   map[string]string // SHA-256 of an API key, hex, to tenant
	Limits map[string]dispatch.Limits
	// TokensPerMinute bounds the tokens of a tenant at language models, by name; ""
	// for each that is not named. 0 is no bound.
	TokensPerMinute map[string]float64
	// Ceiling is the most urgent priority that a tenant may ask for, by name.
	Ceiling map[string]int
	// Declares are those whose declared costs count.
	Declares map[string]bool
}

// Service is one model service.
type Service struct {
	Name   string
	Routes []Route
	Source Source
	// Mode is how its replicas serve several requests at once.
	Mode dispatch.Mode
	// SLO is what is promised of its streamed answers; zero for nothing.
	SLO dispatch.SLO
	// E2E is the promised time from a request to the end of its answer, 0 for none.
	E2E time.Duration
	// Quantile is the part of the requests that SLO and E2E are promised to; 0 where neither is set.
	Quantile float64
	// Promised is the least urgent priority that it is promised to, an index into
	// Config.Priorities.
	Promised int
	// Counted is set where some tenant has a bound in tokens.
	Counted bool
	Engine  Engine
	// Session is the header that names the session of a request; "" for none.
	Session string
	// Model is the name under which its replicas know the model, put in place of the
	// one that a request gives; "" leaves that.
	Model string
	// Splits are parts of its requests that go to other services.
	Splits []Split
	// Fallback is the service that takes requests which this one turns away; "" for
	// none.
	Fallback string
	Queue    Queue
	Upstream Upstream
	Rules    []Rule
	Wake     *Wake
	// Sleep is how replicas are put to sleep; nil where they are not.
	Sleep *Sleep
}

// Sleep is how the engines of a service are put to sleep and woken.
type Sleep struct {
	Port  int // of their endpoints for that; 0 for the replica's own
	Level int // vLLM's
	// Timeout bounds one order.
	Timeout time.Duration
}

// Split is a part of a service's requests that goes to another service.
type Split struct {
	To      string
	Percent float64
}

// Language reports whether the service's work is counted in tokens.
func (s *Service) Language() bool {
	return s.Mode == dispatch.Tokens || s.SLO != dispatch.SLO{} || s.E2E > 0 || s.Counted
}

// boundsTokens reports whether some tenant has a bound in tokens.
func (t *Tenants) boundsTokens() bool {
	for _, n := range t.TokensPerMinute {
		if n > 0 {
			return true
		}
	}
	return false
}

// Route matches requests to a service. All fields that are set must match.
type Route struct {
	Hosts      []string // "*.example.org" matches one or more labels
	PathPrefix string
	Headers    map[string]string // "*" matches any value
	Models     []string          // the "model" of a JSON body
}

// Source is where replicas are found: exactly one field is set.
type Source struct {
	Consul *ConsulSource
	Nomad  *NomadSource
	File   string    // a file of replica blocks, read again when it changes
	Static []Replica // replicas in the configuration itself
}

// ConsulSource finds healthy instances of a Consul service.
type ConsulSource struct {
	Service, Tag string
}

// NomadSource finds registrations of a Nomad service.
type NomadSource struct {
	Service string
}

// Replica is one replica, as a source tells it.
type Replica struct {
	Address string // host:port
	Class   string
	Slices  int
	// Total is how many slices one GPU is offered in, 0 when it is not said.
	Total  int
	Slots  int
	Weight float64
	// KVTokens is how many tokens the engine's cache holds, MaxPrompt how many a
	// prompt may have; 0 when unknown.
	KVTokens, MaxPrompt int
}

// Engine says how the engines behind a service are asked for what they know.
type Engine struct {
	// Metrics is "auto", "off" or the path of the metrics.
	Metrics  string
	Port     int // of the metrics; 0 for the replica's own
	Interval time.Duration
	// KVTokens and MaxPrompt are those of replicas of which nothing else is known;
	// 0 for nothing.
	KVTokens, MaxPrompt int
	// Join asks for streams where clients want answers in one piece, and makes one
	// answer of them.
	Join bool
	// Salt keeps the caches of tenants apart; SaltKey is the file of the key by which,
	// "" for one that is made at each start.
	Salt    bool
	SaltKey string
}

// Queue bounds a service's queue and sets its policy.
type Queue struct {
	Max     int
	MaxWait time.Duration
	Theta   float64 // 0 is adaptive
	Eject   dispatch.Ejection
	// DefaultPriority is an index into Config.Priorities.
	DefaultPriority int
}

// Upstream is how replicas are spoken to.
type Upstream struct {
	Protocol string // "auto", "http1", "h2c" or "https"
	// Client is what speaks HTTP/1.1 without TLS: "wire" for the gateway's own, or
	// "net/http".
	Client         string
	ConnectTimeout time.Duration
	IdleTimeout    time.Duration // of a connection between two requests; 0 is none
	HeaderTimeout  time.Duration // until the response's header; 0 is none
	Retries        int
	// Stream gives a request its slot before its body has come, for services that
	// answer while the client still sends.
	Stream     bool
	CAFile     string
	ServerName string
}

// Rule ties requests of some size to hardware.
type Rule struct {
	MinBatch, MaxBatch   int64
	MinPrompt, MaxPrompt int64 // tokens
	MinCost, MaxCost     float64
	Placement            dispatch.Placement
}

// Wake is how a service is started from zero replicas.
type Wake struct {
	Targets []Target // cheapest first
	// Interval is the least time between two requests to Nomad.
	Interval time.Duration
	// Place is how long a group may stay without a placement until another is asked.
	Place time.Duration
}

// Target is a Nomad task group that can be scaled up.
type Target struct {
	Job, Group, Class string
	Cost              float64
}
