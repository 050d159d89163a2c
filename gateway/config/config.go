// Package config reads the gateway's configuration file.
package config

import (
	"log/slog"
	"net/netip"
	"time"

	"aliquot.example/internal/dispatch"
)

// Config is a decoded and checked configuration file with all defaults.
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
	CertFile string // set together with KeyFile; "" without TLS
	KeyFile  string
	// Server selects the HTTP/1.1 server without TLS: "front" for the gateway's own, or "net/http".
	Server string
	// MaxConnections bounds open client connections.
	MaxConnections int
	MaxHeaderBytes int
	MaxBodyBytes   int64
	HeaderTimeout  time.Duration // limit for receiving a request's header
	IdleTimeout    time.Duration // between requests on a connection
	BodyTimeout    time.Duration // limit without progress of a request's body
	WriteTimeout   time.Duration // limit without progress of a response
	Bodies         Bodies
	MaxStreams     int // concurrent requests on one HTTP/2 connection
	// Trusted are the proxies whose headers about the client's scheme and host are believed.
	Trusted []netip.Prefix
}

// Bodies bounds the request bodies that are buffered before they are forwarded, in bytes.
type Bodies struct {
	Each   int64  // per request; a longer body is streamed
	Memory int64  // of all requests together, in memory
	Disk   int64  // of all requests together, in files; 0 rejects what does not fit into memory
	Dir    string // directory of the files; "" for the system's
}

// Drain sets the times of an orderly shutdown.
type Drain struct {
	// Delay is how long the gateway still serves new requests after it has announced its shutdown.
	Delay time.Duration
	// Timeout is how long it then waits for requests in flight.
	Timeout time.Duration
}

// Consul is how the gateway reaches Consul.
type Consul struct {
	Address, Datacenter, Namespace string
	Token                          Secret
	Register                       bool   // register the gateway as a service
	Service                        string // name of that service
	Publish                        bool   // write learned rates to Consul KV
	Prefix                         string // of the KV keys
}

// Peers configures how gateways share their queues.
type Peers struct {
	Address   string // to listen on
	Advertise string // where other gateways reach this one
	// TLS is "files", "connect" or "off".
	TLS                       string
	CertFile, KeyFile, CAFile string
}

// Nomad is how the gateway reaches Nomad.
type Nomad struct {
	Address, Region, Namespace string
	Token                      Secret
}

// Tenants says how tenants are identified and what each may use.
type Tenants struct {
	Header string            // header that names the tenant; "" for none
	APIKey bool              // the bearer token or X-API-Key identifies the tenant
	Keys   map[string]string // SHA-256 of an API key, hex, to tenant
	Limits map[string]dispatch.Limits
	// TokensPerMinute bounds a tenant's tokens at language models, by name; "" applies to each
	// tenant that is not listed. 0 is no bound.
	TokensPerMinute map[string]float64
	// Ceiling is the most urgent priority that a tenant may request, by name.
	Ceiling map[string]int
	// Declares are the tenants whose declared costs are used.
	Declares map[string]bool
}

// Service is one model service.
type Service struct {
	Name   string
	Routes []Route
	Source Source
	// Mode is how its replicas serve concurrent requests.
	Mode dispatch.Mode
	// SLO is the objective of its streamed answers; zero for none.
	SLO dispatch.SLO
	// E2E is the objective for the time from a request to the end of its answer; 0 for none.
	E2E time.Duration
	// Quantile is the share of requests that must meet SLO and E2E; 0 if neither is set.
	Quantile float64
	// Promised is the least urgent priority to which the objectives apply, an index into
	// Config.Priorities.
	Promised int
	// Counted is true if some tenant has a bound in tokens.
	Counted bool
	Engine  Engine
	// Session is the header that names a request's session; "" for none.
	Session string
	// Model is the model name that its replicas expect. It replaces the name in a request; ""
	// leaves that unchanged.
	Model string
	// Splits are shares of its requests that go to other services.
	Splits []Split
	// Fallback is the service that receives requests which this one rejects; "" for none.
	Fallback string
	Queue    Queue
	Upstream Upstream
	Rules    []Rule
	Wake     *Wake
	// Sleep is how idle replicas are put to sleep; nil if they are not.
	Sleep *Sleep
}

// Sleep is how the engines of a service are put to sleep and woken.
type Sleep struct {
	Port  int // of the sleep endpoints; 0 for the replica's own
	Level int // vLLM's sleep level
	// Timeout bounds one order.
	Timeout time.Duration
}

// Split is a share of a service's requests that goes to another service.
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

// Source is where replicas are found. Exactly one field is set.
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

// Replica is one replica as its source describes it.
type Replica struct {
	Address string // host:port
	Class   string
	Slices  int
	// Total is into how many slices one GPU is divided, 0 if unknown.
	Total  int
	Slots  int
	Weight float64
	// KVTokens is how many tokens the engine's cache holds, and MaxPrompt how many tokens a prompt
	// may have; 0 if unknown.
	KVTokens, MaxPrompt int
}

// Engine configures what the gateway asks the engines of a service.
type Engine struct {
	// Metrics is "auto", "off" or the path of the metrics.
	Metrics  string
	Port     int // of the metrics endpoint; 0 for the replica's own
	Interval time.Duration
	// KVTokens and MaxPrompt apply to replicas for which nothing else is known; 0 for unknown.
	KVTokens, MaxPrompt int
	// Join requests a stream from the replica even if the client wants one answer, and joins the
	// stream into it.
	Join bool
	// Salt separates the engine's prefix caches of tenants. SaltKey is the file of its key, "" for
	// a new key at each start.
	Salt    bool
	SaltKey string
}

// Queue bounds a service's queue and sets its policy.
type Queue struct {
	Max     int
	MaxWait time.Duration
	Theta   float64 // 0 is adaptive
	// SendAhead is how many requests a busy replica is sent beyond its slots.
	SendAhead int
	Eject     dispatch.Ejection
	// DefaultPriority is an index into Config.Priorities.
	DefaultPriority int
}

// Upstream configures the connections to replicas.
type Upstream struct {
	Protocol string // "auto", "http1", "h2c" or "https"
	// Client selects the HTTP/1.1 client without TLS: "wire" for the gateway's own, or "net/http".
	Client         string
	ConnectTimeout time.Duration
	IdleTimeout    time.Duration // of a connection between two requests; 0 for no limit
	HeaderTimeout  time.Duration // until the response's header; 0 for no limit
	Retries        int
	// Stream assigns a slot to a request before its body has arrived, for services that answer
	// while the client still sends.
	Stream     bool
	CAFile     string
	ServerName string
}

// Rule binds requests of certain sizes to hardware.
type Rule struct {
	MinBatch, MaxBatch   int64
	MinPrompt, MaxPrompt int64 // tokens
	MinCost, MaxCost     float64
	Placement            dispatch.Placement
}

// Wake is how a service with no replicas is started.
type Wake struct {
	Targets []Target // cheapest first
	// Interval is the minimum time between two requests to Nomad.
	Interval time.Duration
	// Place is how long a group may stay without a placement before the next one is tried.
	Place time.Duration
}

// Target is a Nomad task group that can be scaled up.
type Target struct {
	Job, Group, Class string
	Cost              float64
}
