package config

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"aliquot.example/internal/hclfile"
	"aliquot.example/internal/learned"
	"aliquot.example/internal/weigh"
)

type fileBody struct {
	LogLevel string         `hcl:"log_level,optional"`
	Admin    string         `hcl:"admin,optional"`
	Owner    string         `hcl:"owner,optional"`
	Protocol string         `hcl:"protocol,optional"`
	Audit    string         `hcl:"audit_interval,optional"`
	Request  string         `hcl:"request_timeout,optional"`
	Idle     string         `hcl:"idle_timeout,optional"`
	Retries  *int           `hcl:"connect_retries,optional"`
	Consul   *consulBody    `hcl:"consul,block"`
	Leader   *leaderBody    `hcl:"leader,block"`
	Limits   *limitsBody    `hcl:"limits,block"`
	Rates    *ratesBody     `hcl:"rates,block"`
	Classes  []*classBody   `hcl:"class,block"`
	Services []*serviceBody `hcl:"service,block"`
}

type consulBody struct {
	Address        string `hcl:"address,optional"`
	Datacenter     string `hcl:"datacenter,optional"`
	Namespace      string `hcl:"namespace,optional"`
	Partition      string `hcl:"partition,optional"`
	TokenFile      string `hcl:"token_file,optional"`
	CAFile         string `hcl:"ca_file,optional"`
	CertFile       string `hcl:"cert_file,optional"`
	KeyFile        string `hcl:"key_file,optional"`
	ServerName     string `hcl:"tls_server_name,optional"`
	MaxConnections *int   `hcl:"max_connections,optional"`
}

type leaderBody struct {
	Key       string `hcl:"key,optional"`
	TTL       string `hcl:"ttl,optional"`
	LockDelay string `hcl:"lock_delay,optional"`
}

type limitsBody struct {
	MinChange *float64 `hcl:"min_change,optional"`
	Interval  string   `hcl:"interval,optional"`
	Retain    string   `hcl:"retain,optional"`
}

type ratesBody struct {
	Prefix        string   `hcl:"prefix,optional"`
	MaxAge        string   `hcl:"max_age,optional"`
	HalfSamples   *float64 `hcl:"half_samples,optional"`
	MinConfidence *float64 `hcl:"min_confidence,optional"`
	MaxFactor     *float64 `hcl:"max_factor,optional"`
}

type classBody struct {
	Name         string    `hcl:"name,label"`
	Weight       *float64  `hcl:"weight,optional"`
	Bandwidth    *float64  `hcl:"bandwidth_gbs,optional"`
	TFLOPS       *float64  `hcl:"tflops,optional"`
	Architecture string    `hcl:"architecture,optional"`
	Range        hcl.Range `hcl:",def_range"`
}

type serviceBody struct {
	Name     string       `hcl:"name,label"`
	Route    *bool        `hcl:"route,optional"`
	Protocol string       `hcl:"protocol,optional"`
	Request  string       `hcl:"request_timeout,optional"`
	Idle     string       `hcl:"idle_timeout,optional"`
	Retries  *int         `hcl:"connect_retries,optional"`
	Affinity string       `hcl:"affinity_header,optional"`
	Classes  []*classBody `hcl:"class,block"`
	Rules    []*ruleBody  `hcl:"rule,block"`
	Range    hcl.Range    `hcl:",def_range"`
}

type ruleBody struct {
	Name       string        `hcl:"name,label"`
	PathPrefix string        `hcl:"path_prefix,optional"`
	Headers    []*headerBody `hcl:"header,block"`
	Classes    []string      `hcl:"classes,optional"`
	MinWeight  float64       `hcl:"min_weight,optional"`
	MemoryGB   int           `hcl:"min_memory_gb,optional"`
	Precision  string        `hcl:"precision,optional"`
	Strict     bool          `hcl:"strict,optional"`
	Range      hcl.Range     `hcl:",def_range"`
}

type headerBody struct {
	Name    string    `hcl:"name,label"`
	Exact   string    `hcl:"exact,optional"`
	Regex   string    `hcl:"regex,optional"`
	Present bool      `hcl:"present,optional"`
	AtLeast *int      `hcl:"at_least,optional"`
	Range   hcl.Range `hcl:",def_range"`
}

// Load reads a file; "" gives the defaults. The error is one line with the file, the line and what
// to do.
func Load(path string) (*Config, error) {
	text, name, err := hclfile.Read(path)
	if err != nil {
		return nil, err
	}
	return Parse(text, name)
}

// Parse parses a configuration. name is the file's name in errors.
func Parse(text []byte, name string) (*Config, error) {
	var body fileBody
	if err := hclfile.Decode(text, name, nil, &body); err != nil {
		return nil, err
	}
	l := loader{at: hcl.Range{Filename: name, Start: hcl.InitialPos}}
	c := l.config(body)
	return c, l.err
}

// loader validates and converts a configuration, and keeps the first error.
type loader struct {
	at  hcl.Range
	err error
}

func (l *loader) fail(at hcl.Range, format string, args ...any) {
	if l.err == nil {
		l.err = fmt.Errorf("%s:%d: %s", at.Filename, at.Start.Line, fmt.Sprintf(format, args...))
	}
}

func (l *loader) config(b fileBody) *Config {
	trust, limits := weigh.DefaultTrust(), weigh.DefaultLimits()
	c := &Config{
		LogLevel: or(b.LogLevel, "info"), Admin: or(b.Admin, "127.0.0.1:0"), Owner: or(b.Owner, "aliquot-router"),
		Protocol: or(b.Protocol, "http"), Rates: learned.RatesPrefix,
		Audit:   l.duration("audit_interval", b.Audit, 5*time.Second, time.Second, time.Hour),
		Consul:  Consul{MaxConnections: 180},
		Leader:  Leader{Key: "aliquot/router/leader", TTL: 10 * time.Second, LockDelay: time.Second},
		Classes: l.classes(b.Classes), Services: map[string]Service{},
	}
	c.Tuning = l.tuning(weigh.Tuning{RequestTimeout: 10 * time.Minute, IdleTimeout: 10 * time.Minute, Retries: 2,
		Balance: weigh.LeastRequest}, b.Request, b.Idle, b.Retries)
	l.oneOf(l.at, "log_level", c.LogLevel, "debug", "info", "warn", "error")
	l.oneOf(l.at, "protocol", c.Protocol, "http", "http2", "grpc")
	if len(c.Owner) > 128 {
		l.fail(l.at, "owner has %d characters: want at most 128", len(c.Owner))
	}
	if b.Consul != nil {
		c.Consul = l.consul(*b.Consul)
	}
	if b.Leader != nil {
		c.Leader.Key = or(strings.Trim(b.Leader.Key, "/"), c.Leader.Key)
		c.Leader.TTL = l.duration("leader ttl", b.Leader.TTL, c.Leader.TTL, time.Second, time.Hour)
		c.Leader.LockDelay = l.duration("leader lock_delay", b.Leader.LockDelay, c.Leader.LockDelay, time.Millisecond,
			time.Minute)
	}
	if b.Limits != nil {
		points := l.number("limits min_change", b.Limits.MinChange, float64(limits.MinChange)/100, 0, 50)
		limits.MinChange = int(math.Round(points * 100))
		limits.Interval = l.duration("limits interval", b.Limits.Interval, limits.Interval, time.Second, time.Hour)
		limits.Retain = l.duration("limits retain", b.Limits.Retain, limits.Retain, time.Second, 24*time.Hour)
	}
	if r := b.Rates; r != nil {
		c.Rates = or(strings.Trim(r.Prefix, "/"), c.Rates)
		trust.MaxAge = l.duration("rates max_age", r.MaxAge, trust.MaxAge, time.Second, 30*24*time.Hour)
		trust.HalfSamples = l.number("rates half_samples", r.HalfSamples, trust.HalfSamples, 1, 1e9)
		trust.MinConfidence = l.number("rates min_confidence", r.MinConfidence, trust.MinConfidence, 0, 1)
		trust.MaxFactor = l.number("rates max_factor", r.MaxFactor, trust.MaxFactor, 1, 1e6)
	}
	c.Limits, c.Trust = limits, trust
	for _, s := range b.Services {
		if _, twice := c.Services[s.Name]; twice {
			l.fail(s.Range, "service %q is defined twice", s.Name)
		}
		c.Services[s.Name] = l.service(s, c.Tuning)
	}
	return c
}

func (l *loader) consul(b consulBody) Consul {
	most := 180
	if b.MaxConnections != nil {
		most = *b.MaxConnections
	}
	if most < 20 || most > 100000 {
		l.fail(l.at, "consul max_connections = %d: want 20 to 100000", most)
	}
	if (b.CertFile == "") != (b.KeyFile == "") {
		l.fail(l.at, "consul: cert_file and key_file belong together: set both or neither")
	}
	return Consul{
		Address: b.Address, Datacenter: b.Datacenter, Namespace: b.Namespace, Partition: b.Partition,
		TokenFile: b.TokenFile, CAFile: b.CAFile, CertFile: b.CertFile, KeyFile: b.KeyFile, ServerName: b.ServerName,
		MaxConnections: most,
	}
}

func (l *loader) classes(bodies []*classBody) map[string]weigh.Profile {
	out := map[string]weigh.Profile{}
	for _, b := range bodies {
		if _, err := weigh.ParseGroup(b.Name); err != nil {
			l.fail(b.Range, "class %q: %v", b.Name, err)
		}
		if _, twice := out[b.Name]; twice {
			l.fail(b.Range, "class %q is defined twice", b.Name)
		}
		l.at = b.Range
		p := weigh.Profile{Weight: l.number("weight", b.Weight, 0, 1e-6, 1e6)}
		p.Spec = weigh.Spec{
			Bandwidth:    l.number("bandwidth_gbs", b.Bandwidth, 0, 1, 1e6),
			TFLOPS:       l.number("tflops", b.TFLOPS, 0, 0.1, 1e6),
			Architecture: b.Architecture,
		}
		if p.Weight == 0 && weigh.Formula(p.Spec) == 0 {
			l.fail(b.Range, "class %q: want weight, or both bandwidth_gbs and tflops", b.Name)
		}
		out[b.Name] = p
	}
	return out
}

// tuning returns t with the values that the file sets. A timeout of 0 in the file means none, -1
// in the result.
func (l *loader) tuning(t weigh.Tuning, request, idle string, retries *int) weigh.Tuning {
	bound := func(what, text string, otherwise time.Duration) time.Duration {
		if d := l.duration(what, text, otherwise, 0, 24*time.Hour); d != 0 {
			return d
		}
		return -1
	}
	t.RequestTimeout = bound("request_timeout", request, t.RequestTimeout)
	t.IdleTimeout = bound("idle_timeout", idle, t.IdleTimeout)
	if retries != nil {
		if t.Retries = *retries; t.Retries < 0 || t.Retries > 10 {
			l.fail(l.at, "connect_retries = %d: want 0 to 10", t.Retries)
		}
	}
	return t
}

func (l *loader) service(b *serviceBody, tuning weigh.Tuning) Service {
	if err := weigh.CheckService(b.Name); err != nil {
		l.fail(b.Range, "%v", err)
	}
	s := Service{Route: b.Route, Protocol: b.Protocol, Classes: l.classes(b.Classes)}
	if s.Protocol != "" {
		l.oneOf(b.Range, "protocol", s.Protocol, "http", "http2", "grpc")
	}
	l.at = b.Range
	s.Tuning = l.tuning(tuning, b.Request, b.Idle, b.Retries)
	if b.Affinity != "" {
		headers, err := weigh.Headers(b.Affinity)
		if err != nil {
			l.fail(b.Range, "affinity_header: %v", err)
		}
		s.Tuning.Balance = weigh.RingHash(headers...)
	}
	for _, r := range b.Rules {
		rule := weigh.Rule{
			Name: r.Name, PathPrefix: r.PathPrefix, Classes: r.Classes, MinWeight: r.MinWeight,
			MemoryGB: r.MemoryGB, Precision: r.Precision, Strict: r.Strict,
		}
		for _, h := range r.Headers {
			rule.Headers = append(rule.Headers, l.header(h))
		}
		if err := rule.Check(); err != nil {
			l.fail(r.Range, "%v", err)
		}
		if slices.ContainsFunc(s.Rules, func(o weigh.Rule) bool { return o.Name == r.Name }) {
			l.fail(r.Range, "rule %q is defined twice", r.Name)
		}
		s.Rules = append(s.Rules, rule)
	}
	return s
}

func (l *loader) header(b *headerBody) weigh.HeaderMatch {
	h := weigh.HeaderMatch{Name: b.Name, Exact: b.Exact, Regex: b.Regex, Present: b.Present}
	if b.AtLeast != nil {
		if h.Regex != "" {
			l.fail(b.Range, "header %q: want one of regex and at_least", b.Name)
		}
		var err error
		if h.Regex, err = weigh.AtLeast(*b.AtLeast); err != nil {
			l.fail(b.Range, "header %q: %v", b.Name, err)
		}
	}
	return h
}

func (l *loader) duration(what, text string, otherwise, least, most time.Duration) time.Duration {
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < least || d > most {
		l.fail(l.at, "%s = %q: want a duration from %s to %s", what, text, least, most)
	}
	return d
}

func (l *loader) number(what string, v *float64, otherwise, least, most float64) float64 {
	if v == nil {
		return otherwise
	}
	if !(*v >= least && *v <= most) {
		l.fail(l.at, "%s = %v: want %v to %v", what, *v, least, most)
	}
	return *v
}

func (l *loader) oneOf(at hcl.Range, what, got string, want ...string) {
	if !slices.Contains(want, got) {
		l.fail(at, "%s = %q: want one of %s", what, got, strings.Join(want, ", "))
	}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
