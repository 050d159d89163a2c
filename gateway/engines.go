package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"aliquot.example/gateway/engine"
	"aliquot.example/internal/dispatch"
)

// engines reads the books of tokens, and what the engines said last, when the metrics
// are asked for.
type engines struct {
	services                                     func() []*service
	inflight, cache, used, requests, preemptions *prometheus.Desc
}

func newEngines(services func() []*service) *engines {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("aliquot_gateway_"+name, help, append([]string{"service", "class"}, labels...), nil)
	}
	return &engines{
		services: services,
		inflight: desc("inflight_tokens", "Tokens of prompts and answers being served."),
		cache:    desc("kv_tokens", "Tokens that the caches of replicas hold, where that is known."),
		used:     desc("engine_kv_used_tokens", "Tokens of the caches that engines say are in use."),
		requests: desc("engine_requests", "Requests that engines say they run or keep waiting, by state.", "state"),
		preemptions: desc("engine_preemptions",
			"Requests that the engines of present replicas threw out of their caches since they started."),
	}
}

func (e *engines) descs() []*prometheus.Desc {
	return []*prometheus.Desc{e.inflight, e.cache, e.used, e.requests, e.preemptions}
}

func (e *engines) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range e.descs() {
		ch <- d
	}
}

func (e *engines) Collect(ch chan<- prometheus.Metric) {
	for _, s := range e.services() {
		if s.language == nil || s.config.Mode != dispatch.Tokens {
			continue
		}
		classes := map[string]*engineSum{}
		state := s.line.State()
		if !state.Decides {
			continue // the gateway that does has the books
		}
		for _, r := range state.Replicas {
			c := classes[r.Class]
			if c == nil {
				c = &engineSum{}
				classes[r.Class] = c
			}
			c.inflight += r.InFlight
			c.cache += r.KV
			if state, ok := s.language.engine(r.ID); ok {
				c.add(&state, r.KV)
			}
		}
		for class, c := range classes {
			gauge := func(d *prometheus.Desc, v float64, labels ...string) {
				ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v,
					append([]string{s.name, class}, labels...)...)
			}
			gauge(e.inflight, float64(c.inflight))
			gauge(e.cache, float64(c.cache))
			if c.told {
				gauge(e.used, c.used)
				gauge(e.requests, float64(c.running), "running")
				gauge(e.requests, float64(c.waiting), "waiting")
				gauge(e.preemptions, c.preemptions)
			}
		}
	}
}

// engineSum is the replicas of one class.
type engineSum struct {
	inflight, cache, running, waiting int
	used, preemptions                 float64
	told                              bool // some engine says something
}

func (c *engineSum) add(s *engine.State, kv int) {
	c.told = true
	c.running += max(s.Running, 0)
	c.waiting += max(s.Waiting, 0)
	c.used += max(s.KVUsed, 0) * float64(kv)
	c.preemptions += max(s.Preemptions, 0)
}

// said is what an engine said last, and when.
type said struct {
	engine.State
	at time.Time // zero before it said anything
}

// believed is for how long what an engine said counts at least.
const believed = 10 * time.Second

// engine returns what the engine of a replica said last; false when that is long ago.
func (l *language) engine(id string) (engine.State, bool) {
	// An engine may also be asked less often than that.
	longest := believed
	if l.scraper != nil {
		longest = max(longest, 3*l.scraper.Interval())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.engines[id]
	return s.State, time.Since(s.at) <= longest
}
