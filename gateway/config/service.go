package config

import (
	"fmt"
	"net/textproto"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"aliquot.example/internal/dispatch"
)

// promisedTo is the default share of requests that must meet an objective, the same as for the
// strategy's setting objective.
const promisedTo = 0.99

func (d *decoder) service(b *serviceBody, c *Config) Service {
	s := Service{Name: b.Name, Source: d.source(b, c), Upstream: d.upstream(b.Upstream),
		Queue: d.queue(b.Queue, c.Priorities)}
	if d.oneOf(b.Policy, "slots", "slots", "tokens") == "tokens" {
		s.Mode = dispatch.Tokens
	}
	if s.Mode == dispatch.Tokens && s.Queue.SendAhead > 0 {
		d.fail(b.Range, "service %q: send_ahead is for policy = \"slots\": remove it, because engines that batch "+
			"are sent requests while they are busy anyway", b.Name)
	}
	s.Engine = d.engine(b.Engine)
	s.Session = textproto.CanonicalMIMEHeaderKey(or(b.Session, "X-Session-Id"))
	if s.Engine.Salt && s.Upstream.Stream {
		d.fail(b.Range,
			"service %q: cache_salt needs the whole body before it is sent: remove request_body = \"stream\"", b.Name)
	}
	s.Fallback, s.Model = or(b.Fallback, ""), or(b.Model, "")
	for _, p := range b.Splits {
		s.Splits = append(s.Splits, Split{To: p.To, Percent: p.Percent})
	}
	d.objective(b, c, &s)
	d.numbers(b)
	s.Routes, s.Rules = d.routes(b), d.rules(b.Rules)
	s.Sleep = d.sleep(b.Sleep)
	s.Wake = d.wake(b.Wake, c)
	if s.Wake != nil && (b.Queue == nil || b.Queue.MaxWait == nil) {
		s.Queue.MaxWait = coldStart
	}
	return s
}

// objective reads the slo block.
func (d *decoder) objective(b *serviceBody, c *Config, s *Service) {
	if b.SLO == nil {
		return
	}
	s.SLO = dispatch.SLO{TTFT: d.duration(b.SLO.TTFT, 0), TPOT: d.duration(b.SLO.TPOT, 0)}
	s.E2E = d.duration(b.SLO.E2E, 0)
	if s.SLO.TTFT > 0 || s.SLO.TPOT > 0 || s.E2E > 0 {
		s.Quantile = or(b.SLO.Quantile, promisedTo)
	}
	s.Promised = d.priority(b.SLO.Priority, c.Priorities, len(c.Priorities)-1)
}

// routes reads the route blocks. A service without any accepts every request.
func (d *decoder) routes(b *serviceBody) (out []Route) {
	for _, r := range b.Routes {
		route := Route{Hosts: lower(r.Hosts), PathPrefix: or(r.PathPrefix, ""), Headers: r.Headers, Models: r.Models}
		if route.PathPrefix != "" && !strings.HasPrefix(route.PathPrefix, "/") {
			d.fail(b.Range, "service %q: path_prefix %q does not begin with /", b.Name, route.PathPrefix)
		}
		out = append(out, route)
	}
	if len(out) == 0 {
		return []Route{{}}
	}
	return out
}

// rules reads the rule blocks.
func (d *decoder) rules(blocks []ruleBody) (out []Rule) {
	for _, r := range blocks {
		if len(r.Require) == 0 && len(r.Prefer) == 0 {
			d.fail(r.Range, "rule without require or prefer has no effect")
		}
		out = append(out, Rule{
			MinBatch: or(r.MinBatch, 0), MaxBatch: or(r.MaxBatch, 0), MinPrompt: or(r.MinPrompt, 0),
			MaxPrompt: or(r.MaxPrompt, 0),
			MinCost:   or(r.MinCost, 0), MaxCost: or(r.MaxCost, 0),
			Placement: dispatch.Placement{Require: r.Require, Prefer: r.Prefer},
		})
	}
	return out
}

// coldStart is the default for max_wait if the first replica may have to be started: a large model
// takes minutes to load.
const coldStart = 10 * time.Minute

func (d *decoder) source(b *serviceBody, c *Config) Source {
	var s Source
	found := 0
	if b.Consul != nil {
		found++
		s.Consul = &ConsulSource{Service: or(b.Consul.Service, b.Name), Tag: or(b.Consul.Tag, "")}
		if c.Consul == nil {
			c.Consul = consul(&consulBody{})
		}
	}
	if b.Nomad != nil {
		found++
		s.Nomad = &NomadSource{Service: or(b.Nomad.Service, b.Name)}
		if c.Nomad == nil {
			c.Nomad = nomad(&nomadBody{})
		}
	}
	if b.File != nil {
		found++
		s.File = *b.File
	}
	if len(b.Static) > 0 {
		found++
		s.Static = d.replicas(b.Static, b.Range)
	}
	if found != 1 {
		d.fail(b.Range,
			"service %q has %d sources of replicas: want exactly one of consul, nomad, replicas_file or replica blocks",
			b.Name, found)
	}
	return s
}

func (d *decoder) replicas(blocks []replicaBody, at hcl.Range) []Replica {
	var out []Replica
	for _, r := range blocks {
		one := Replica{Address: d.address(r.Address, at), Class: or(r.Class, ""), Slices: or(r.Slices, 1),
			Slots: or(r.Slots, 1), Weight: or(r.Weight, 0), KVTokens: or(r.KV, 0), MaxPrompt: or(r.MaxModelLen, 0)}
		if one.Slots < 1 || one.Slices < 1 || one.Weight < 0 || one.KVTokens < 0 || one.MaxPrompt < 0 {
			d.fail(at,
				"replica %s: slots and slices must be at least 1, and "+
					"weight, kv_tokens and max_model_len must not be negative",
				one.Address)
		}
		if slices.ContainsFunc(out, func(o Replica) bool { return o.Address == one.Address }) {
			d.fail(at, "replica %s is defined twice: remove one block", one.Address)
		}
		out = append(out, one)
	}
	return out
}

// Replicas reads a file of replica blocks.
func Replicas(path string) ([]Replica, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("replicas_file: %w", err)
	}
	d := &decoder{ctx: environment()}
	var body struct {
		Replicas []replicaBody `hcl:"replica,block"`
	}
	d.parse(text, path, &body)
	if d.err != nil {
		return nil, d.err
	}
	out := d.replicas(body.Replicas, hcl.Range{Filename: path, Start: hcl.InitialPos})
	return out, d.err
}

func (d *decoder) queue(b *queueBody, priorities []string) Queue {
	if b == nil {
		b = &queueBody{}
	}
	q := Queue{
		Max: or(b.Max, 10000), MaxWait: d.duration(b.MaxWait, time.Minute), SendAhead: or(b.Ahead, 0),
		DefaultPriority: d.priority(b.Priority, priorities, (len(priorities)-1)/2),
		Eject: dispatch.Ejection{
			Failures: or(b.Failures, 0), Base: d.duration(b.Base, 0), Max: d.duration(b.MaxTime, 0),
		},
	}
	if b.Theta != nil {
		if s := d.text(b.Theta, ""); s != "adaptive" {
			theta, err := strconv.ParseFloat(s, 64)
			if q.Theta = theta; err != nil || !(theta > 0 && theta < 1e6) {
				d.fail(b.Theta.Range, "theta is %q: want a positive number or \"adaptive\"", s)
			}
		}
	}
	return q
}

func (d *decoder) upstream(b *upstreamBody) Upstream {
	if b == nil {
		b = &upstreamBody{}
	}
	return Upstream{
		Protocol:       d.oneOf(b.Protocol, "auto", "auto", "http1", "h2c", "https"),
		Client:         d.oneOf(b.Client, "wire", "wire", "net/http"),
		ConnectTimeout: d.duration(b.Connect, 2*time.Second),
		IdleTimeout:    d.duration(b.Idle, 4*time.Second),
		HeaderTimeout:  d.duration(b.Header, 0),
		Retries:        or(b.Retries, 2),
		Stream:         d.oneOf(b.Body, "buffer", "buffer", "stream") == "stream",
		CAFile:         or(b.CAFile, ""), ServerName: or(b.ServerName, ""),
	}
}

func (d *decoder) wake(b *wakeBody, c *Config) *Wake {
	if b == nil {
		return nil
	}
	if len(b.Targets) == 0 {
		d.fail(b.Range, "wake block without a target: want target { job = … group = … cost = … }")
	}
	w := &Wake{Interval: d.duration(b.Interval, 5*time.Second), Place: d.duration(b.Place, 30*time.Second)}
	for _, t := range b.Targets {
		w.Targets = append(w.Targets, Target{Job: t.Job, Group: t.Group, Class: or(t.Class, ""), Cost: t.Cost})
	}
	slices.SortStableFunc(w.Targets, func(a, b Target) int {
		switch {
		case a.Cost < b.Cost:
			return -1
		case a.Cost > b.Cost:
			return 1
		}
		return 0
	})
	if c.Nomad == nil {
		c.Nomad = nomad(&nomadBody{})
	}
	return w
}

func lower(in []string) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = strings.ToLower(s)
	}
	return out
}
