package router

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

type metrics struct {
	registry *prometheus.Registry
	leader   prometheus.Gauge
	writes   *prometheus.CounterVec
	errors   *prometheus.CounterVec
	duration prometheus.Histogram
}

func newMetrics(r *Router) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "aliquot_router_" + name, Help: help}, labels)
	}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		leader: prometheus.NewGauge(prometheus.GaugeOpts{Name: "aliquot_router_leader",
			Help: "1 while this router leads."}),
		writes: counter("writes_total", "Config entries written or removed, by outcome ok, conflict or error.",
			"kind", "operation", "result"),
		errors: counter("errors_total", "Failed reads of Consul.", "what"),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "aliquot_router_reconcile_seconds", Help: "Time to reconcile one service.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 3, 10),
		}),
	}
	m.registry.MustRegister(m.leader, m.writes, m.errors, m.duration, byService{r},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// byService computes the metrics of services at each scrape. They cost nothing between scrapes, and
// a removed service leaves none behind.
type byService struct{ *Router }

var (
	stateDesc = describe("service_state", "1 for the present state of a service.", "service", "state")
	shareDesc = describe("share", "Share of a service's traffic that Consul's splitter sends to a subset, 0 to 1.",
		"service", "subset")
	weightDesc = describe("weight", "Expected rate of one instance, H100 SXM = 1, by source.",
		"service", "subset", "source")
	healthyDesc = describe("healthy_instances", "Instances that pass their checks.", "service", "subset")
	refusedDesc = describe("refused_instances", "Instances ignored because of invalid meta.", "service")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("aliquot_router_"+name, help, labels, nil)
}

func (byService) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{stateDesc, shareDesc, weightDesc, healthyDesc, refusedDesc} {
		out <- d
	}
}

func (b byService) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	for _, s := range b.Report().Services {
		gauge(stateDesc, 1, s.Service, s.State)
		gauge(refusedDesc, float64(len(s.Refused)), s.Service)
		for _, g := range s.Groups {
			gauge(shareDesc, g.Written/100, s.Service, g.Subset)
			gauge(healthyDesc, float64(g.Healthy), s.Service, g.Subset)
			gauge(weightDesc, g.Weight, s.Service, g.Subset, g.Source)
		}
	}
}
