package gateway

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"aliquot.example/internal/api"
)

// StartStore reads the cold starts that the autoscaler learns.
type StartStore interface {
	// Starts returns the cold starts of a service by hardware class.
	Starts(ctx context.Context, service string) (map[string]api.ColdStart, error)
}

// startsInterval is the interval at which cold starts are read.
const startsInterval = 30 * time.Second

// firstAnswer is the part of a start that the gateway itself measures.
const firstAnswer = "answer"

// coldStarts exports cold starts: the learned time until a replica is ready, and the duration of
// its first answer, which the gateway measures.
type coldStarts struct {
	seconds, part *prometheus.Desc

	mu      sync.Mutex
	learned map[string]map[string]api.ColdStart // by service and class
	firsts  map[string]map[string]mean          // by service and class
}

// mean is a mean of durations in seconds.
type mean struct{ sum, n float64 }

func newColdStarts() *coldStarts {
	return &coldStarts{
		learned: map[string]map[string]api.ColdStart{}, firsts: map[string]map[string]mean{},
		seconds: prometheus.NewDesc("aliquot_gateway_cold_start_seconds",
			"Learned 95th percentile of the time from a replica's placement until it is healthy.",
			[]string{"service", "class"}, nil),
		part: prometheus.NewDesc("aliquot_gateway_cold_start_part_seconds",
			"Mean duration of a part of a cold start, or of the first answer.",
			[]string{"service", "class", "part"}, nil),
	}
}

// answered adds the first answer of a replica.
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

// of returns the cold starts of a service by class, nil if none are known.
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

// keep stores the learned cold starts, and drops those of removed services.
func (c *coldStarts) keep(read map[string]map[string]api.ColdStart, present map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.Copy(c.learned, read)
	maps.DeleteFunc(c.learned, func(service string, _ map[string]api.ColdStart) bool { return !present[service] })
	maps.DeleteFunc(c.firsts, func(service string, _ map[string]mean) bool { return !present[service] })
}

// keepStarts reads learned cold starts until ctx ends.
func (s *Server) keepStarts(ctx context.Context, store StartStore) {
	tick := time.NewTicker(startsInterval)
	defer tick.Stop()
	for ctx.Err() == nil {
		read, present := map[string]map[string]api.ColdStart{}, map[string]bool{}
		for _, v := range s.plan.Load().services {
			present[v.name] = true
			known, err := store.Starts(ctx, v.name)
			if err != nil {
				s.log.Debug("cannot read cold starts", "service", v.name, "error", err)
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
