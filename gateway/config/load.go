package config

import (
	"fmt"
	"math"
	"net"
	"os"
	"regexp"
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2"

	"aliquot.example/internal/api"
	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/learned"
)

// Load reads a configuration file. Its error is one line that names the file, the line and what to
// do.
func Load(path string) (*Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	return Parse(text, path)
}

// Parse parses a configuration; name is the file name for errors.
func Parse(text []byte, name string) (*Config, error) {
	d := &decoder{ctx: environment()}
	var f fileBody
	d.parse(text, name, &f)
	if d.err != nil {
		return nil, d.err
	}
	top := hcl.Range{Filename: name, Start: hcl.InitialPos}
	c := &Config{AccessLog: or(f.AccessLog, "stderr"), Priorities: f.Priorities}
	if len(c.Priorities) == 0 {
		c.Priorities = []string{"normal"}
	}
	if err := c.LogLevel.UnmarshalText(
		[]byte(d.oneOf(f.LogLevel, "info", "debug", "info", "warn", "error"))); err != nil {
		d.fail(top, "log_level: %v", err)
	}
	c.Listen = d.listen(f.Listen)
	c.Admin = "127.0.0.1:0"
	if f.Admin != nil {
		c.Admin = f.Admin.Address
	}
	d.listeners(&f, c, top)
	c.Drain = Drain{Delay: 5 * time.Second, Timeout: 30 * time.Second}
	if f.Drain != nil {
		c.Drain = Drain{d.duration(f.Drain.Delay, c.Drain.Delay), d.duration(f.Drain.Timeout, c.Drain.Timeout)}
	}
	c.Consul, c.Nomad = consul(f.Consul), nomad(f.Nomad)
	if c.Peers = d.peers(f.Peers); c.Peers != nil && c.Consul == nil {
		c.Consul = consul(&consulBody{})
	}
	c.Tenants = d.tenants(f.Tenants, c.Priorities)
	if len(f.Services) == 0 {
		d.fail(top, "no service block: the gateway would have nothing to serve")
	}
	for _, s := range f.Services {
		if slices.ContainsFunc(c.Services, func(o Service) bool { return o.Name == s.Name }) {
			d.fail(s.Range, "service %q is defined twice: remove or rename one block", s.Name)
		}
		one := d.service(&s, c)
		one.Counted = c.Tenants.boundsTokens()
		c.Services = append(c.Services, one)
	}
	d.elsewhere(f.Services, c.Services)
	d.reachable(f.Services, c.Services)
	if d.err != nil {
		return nil, d.err
	}
	return c, nil
}

func (d *decoder) listen(b *listenBody) Listen {
	if b == nil {
		b = &listenBody{Address: ":8080"}
	}
	l := Listen{
		Address:        b.Address,
		MaxConnections: or(b.MaxConnections, 16384),
		MaxHeaderBytes: int(d.size(b.MaxHeader, 64<<10)),
		MaxBodyBytes:   d.size(b.MaxBody, 1<<30),
		HeaderTimeout:  d.duration(b.HeaderTimeout, 10*time.Second),
		IdleTimeout:    d.duration(b.IdleTimeout, 2*time.Minute),
		BodyTimeout:    d.duration(b.BodyTimeout, 30*time.Second),
		WriteTimeout:   d.duration(b.WriteTimeout, time.Minute),
		MaxStreams:     or(b.MaxStreams, 250),
		Server:         d.oneOf(b.Server, "front", "front", "net/http"),
		Trusted:        d.prefixes(b.Trusted),
		Bodies: Bodies{
			Each: d.size(b.BodyBuffer, 32<<20), Memory: d.size(b.BodyMemory, 64<<20),
			Disk: d.size(b.BodyDisk, 1<<30), Dir: or(b.BodyDir, ""),
		},
	}
	if d.oneOf(b.BodyOverflow, "file", "file", "refuse") == "refuse" {
		l.Bodies.Disk = 0
	}
	if b.TLS != nil {
		l.CertFile, l.KeyFile = b.TLS.Cert, b.TLS.Key
	}
	return l
}

func consul(b *consulBody) *Consul {
	if b == nil {
		return nil
	}
	return &Consul{
		Address: or(b.Address, ""), Datacenter: or(b.Datacenter, ""), Namespace: or(b.Namespace, ""),
		Token:    Secret{File: or(b.TokenFile, ""), Env: "CONSUL_HTTP_TOKEN"},
		Register: or(b.Register, false), Service: or(b.Service, api.GatewayService),
		Publish: or(b.Publish, true), Prefix: learned.RatesPrefix,
	}
}

func nomad(b *nomadBody) *Nomad {
	if b == nil {
		return nil
	}
	return &Nomad{
		Address: or(b.Address, ""), Region: or(b.Region, ""), Namespace: or(b.Namespace, ""),
		Token: Secret{File: or(b.TokenFile, ""), Env: "NOMAD_TOKEN"},
	}
}

var sha256hex = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (d *decoder) tenants(b *tenantsBody, priorities []string) Tenants {
	t := Tenants{Keys: map[string]string{}, Limits: map[string]dispatch.Limits{}, Ceiling: map[string]int{},
		Declares: map[string]bool{}, TokensPerMinute: map[string]float64{}}
	if b == nil {
		return t
	}
	t.Header, t.APIKey = or(b.Header, ""), or(b.APIKey, false)
	for _, one := range b.Tenants {
		name := one.Name
		if name == "default" {
			name = ""
		}
		t.Limits[name] = dispatch.Limits{Weight: or(one.Weight, 1), MaxActive: or(one.MaxActive, 0),
			MaxQueue: or(one.MaxQueue, 0)}
		t.TokensPerMinute[name] = or(one.Tokens, 0)
		if tokens := t.TokensPerMinute[name]; !(tokens >= 0 && tokens <= 1e12) {
			d.fail(one.Range, "tenant %q: tokens_per_minute is %g: want a positive number, or 0 for no limit",
				one.Name, tokens)
		}
		if l := t.Limits[name]; !(l.Weight > 0) || math.IsInf(l.Weight, 0) || l.MaxActive < 0 || l.MaxQueue < 0 {
			d.fail(one.Range, "tenant %q: weight must be above 0, and max_active and max_queue must not be negative",
				one.Name)
		}
		t.Ceiling[name] = d.priority(one.Priority, priorities, 0)
		t.Declares[name] = or(one.Declares, false)
		for _, key := range one.Keys {
			if !sha256hex.MatchString(key) {
				d.fail(one.Range, "tenant %q: key_sha256 has an entry that is not a SHA-256 hash in lower-case hex",
					one.Name)
			}
			if other, taken := t.Keys[key]; taken && other != one.Name {
				d.fail(one.Range, "tenant %q: tenant %q has the same key in key_sha256: remove it from one of them",
					one.Name, other)
			}
			t.Keys[key] = one.Name
		}
	}
	return t
}

func (d *decoder) priority(a *hcl.Attribute, names []string, otherwise int) int {
	if a == nil {
		return otherwise
	}
	return max(0, slices.Index(names, d.oneOf(a, "", names...)))
}

// address reads an address of the form host:port.
func (d *decoder) address(a *hcl.Attribute, at hcl.Range) string {
	if a == nil {
		d.fail(at, "replica without address: want address = \"host:port\"")
		return ""
	}
	s := d.text(a, "")
	if host, port, err := net.SplitHostPort(s); err != nil || host == "" || !isPort(port, 1) {
		d.fail(a.Range, "address is %q: want \"host:port\"", s)
	}
	return s
}

// isPort reports whether text is the number or name of a TCP port that is at least lowest.
func isPort(text string, lowest int) bool {
	n, err := net.LookupPort("tcp", text)
	return err == nil && text != "" && n >= lowest
}
