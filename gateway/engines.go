package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"aliquot.example/gateway/engine"
	"aliquot.example/internal/dispatch"
)

// engines collects the tokens in progress and the engines' own figures at each scrape.
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
		inflight: desc("inflight_tokens", "Tokens of the prompts and answers in progress."),
		cache:    desc("kv_tokens", "Size of the replicas' caches in tokens, where known."),
		used:     desc("engine_kv_used_tokens", "Tokens in use in the caches, as reported by the engines."),
		requests: desc("engine_requests", "Requests in the engines by state, as reported by the engines.", "state"),
		preemptions: desc("engine_preemptions",
			"Preemptions since the start of the present replicas, as reported by the engines."),
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
			continue // only the owner knows the tokens in progress
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
			if c.reported {
				gauge(e.used, c.used)
				gauge(e.requests, float64(c.running), "running")
				gauge(e.requests, float64(c.waiting), "waiting")
				gauge(e.preemptions, c.preemptions)
			}
		}
	}
}

// engineSum is the sum over the replicas of one class.
type engineSum struct {
	inflight, cache, running, waiting int
	used, preemptions                 float64
	reported                          bool // an engine has reported figures
}

func (c *engineSum) add(s *engine.State, kv int) {
	c.reported = true
	c.running += max(s.Running, 0)
	c.waiting += max(s.Waiting, 0)
	c.used += max(s.KVUsed, 0) * float64(kv)
	c.preemptions += max(s.Preemptions, 0)
}

// engineReport is the last state reported by an engine.
type engineReport struct {
	engine.State
	at time.Time // zero before the first report
}

// believed is the shortest time for which an engine's report counts.
const believed = 10 * time.Second

// engine returns the last state of a replica's engine, false if it is too old.
func (l *language) engine(id string) (engine.State, bool) {
	// The interval of the scrapes may be longer than believed.
	longest := believed
	if l.scraper != nil {
		longest = max(longest, 3*l.scraper.Interval())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.engines[id]
	return s.State, time.Since(s.at) <= longest
}
