package gateway

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"aliquot.example/internal/api"
)

// StartStore knows what the starts of replicas take, which the autoscaler learns.
type StartStore interface {
	// Starts returns what is known of the starts of a service, by hardware class.
	Starts(ctx context.Context, service string) (map[string]api.ColdStart, error)
}

// startsEvery is how often that is read.
const startsEvery = 30 * time.Second

// firstAnswer is the part of a start that the gateway itself sees.
const firstAnswer = "answer"

// coldStarts is what is known of starts: learned of what comes before a replica is ready,
// and measured here of its first answer. It exports both.
type coldStarts struct {
	seconds, part *prometheus.Desc

	mu      sync.Mutex
	learned map[string]map[string]api.ColdStart // by service and class
	firsts  map[string]map[string]mean          // likewise
}

// mean is that of first answers, in seconds.
type mean struct{ sum, n float64 }

func newColdStarts() *coldStarts {
	return &coldStarts{
		learned: map[string]map[string]api.ColdStart{}, firsts: map[string]map[string]mean{},
		seconds: prometheus.NewDesc("aliquot_gateway_cold_start_seconds",
			"95th percentile of the time from a replica's placement until it is healthy, learned.",
			[]string{"service", "class"}, nil),
		part: prometheus.NewDesc("aliquot_gateway_cold_start_part_seconds",
			"Mean of a part of that time, and of the first answer.", []string{"service", "class", "part"}, nil),
	}
}

// answered notes the first answer of a replica.
func (c *coldStarts) answered(service, class string, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.firsts[service]
	if of == nil {
		of = map[string]mean{}
		c.firsts[service] = of
	}
	of[class] = mean{of[class].sum + took.Seconds(), of[class].n + 1}
}

// of is what is known of a service, by class; nil for nothing.
func (c *coldStarts) of(service string) map[string]api.ColdStart {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]api.ColdStart{}
	for class, known := range c.learned[service] {
		known.Parts = maps.Clone(known.Parts)
		out[class] = known
	}
	for class, m := range c.firsts[service] {
		one := out[class]
		if one.Parts == nil {
			one.Parts = map[string]float64{}
		}
		one.Parts[firstAnswer] = m.sum / m.n
		out[class] = one
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// keep keeps what was read of a service; services that are gone are forgotten.
func (c *coldStarts) keep(read map[string]map[string]api.ColdStart, present map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.Copy(c.learned, read)
	maps.DeleteFunc(c.learned, func(service string, _ map[string]api.ColdStart) bool { return !present[service] })
	maps.DeleteFunc(c.firsts, func(service string, _ map[string]mean) bool { return !present[service] })
}

// keepStarts reads what is learned of starts until the context ends.
func (s *Server) keepStarts(ctx context.Context, store StartStore) {
	tick := time.NewTicker(startsEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		read, present := map[string]map[string]api.ColdStart{}, map[string]bool{}
		for _, v := range s.plan.Load().services {
			present[v.name] = true
			known, err := store.Starts(ctx, v.name)
			if err != nil {
				s.log.Debug("what starts take could not be read", "service", v.name, "error", err)
				continue
			}
			read[v.name] = known
		}
		s.metrics.starts.keep(read, present)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (c *coldStarts) Describe(ch chan<- *prometheus.Desc) { ch <- c.seconds; ch <- c.part }

func (c *coldStarts) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	services := map[string]bool{}
	for service := range c.learned {
		services[service] = true
	}
	for service := range c.firsts {
		services[service] = true
	}
	c.mu.Unlock()
	for service := range services {
		for class, known := range c.of(service) {
			if known.P95 > 0 {
				ch <- prometheus.MustNewConstMetric(c.seconds, prometheus.GaugeValue, known.P95, service, class)
			}
			for part, seconds := range known.Parts {
				ch <- prometheus.MustNewConstMetric(c.part, prometheus.GaugeValue, seconds, service, class, part)
			}
		}
	}
}
