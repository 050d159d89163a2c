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
	state    *prometheus.GaugeVec
	share    *prometheus.GaugeVec
	weight   *prometheus.GaugeVec
	healthy  *prometheus.GaugeVec
	refused  *prometheus.GaugeVec
}

func newMetrics() *metrics {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "aliquot_router_" + name, Help: help}, labels)
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "aliquot_router_" + name, Help: help}, labels)
	}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		leader:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "aliquot_router_leader", Help: "1 while this router leads."}),
		writes:   counter("writes_total", "Config entries written or removed, by outcome ok, conflict or error.", "kind", "operation", "result"),
		errors:   counter("errors_total", "Failed reads of Consul.", "what"),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "aliquot_router_reconcile_seconds", Help: "Time to reconcile one service.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 3, 10),
		}),
		state:   gauge("service_state", "1 for the state that a service is in.", "service", "state"),
		share:   gauge("share", "Part of a service's traffic that Consul is told to give a subset, 0 to 1.", "service", "subset"),
		weight:  gauge("weight", "Expected rate of one instance, H100 SXM = 1, by source.", "service", "subset", "source"),
		healthy: gauge("healthy_instances", "Instances that pass their checks.", "service", "subset"),
		refused: gauge("refused_instances", "Instances left out for their meta.", "service"),
	}
	m.registry.MustRegister(m.leader, m.writes, m.errors, m.duration, m.state, m.share, m.weight, m.healthy, m.refused,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// show replaces what is shown of a service.
func (m *metrics) show(s Status) {
	m.forget(s.Service)
	m.state.WithLabelValues(s.Service, s.State).Set(1)
	m.refused.WithLabelValues(s.Service).Set(float64(len(s.Refused)))
	for _, g := range s.Groups {
		m.share.WithLabelValues(s.Service, g.Subset).Set(g.Written / 100)
		m.healthy.WithLabelValues(s.Service, g.Subset).Set(float64(g.Healthy))
		m.weight.WithLabelValues(s.Service, g.Subset, g.Source).Set(g.Weight)
	}
}

func (m *metrics) forget(service string) {
	by := prometheus.Labels{"service": service}
	for _, v := range []*prometheus.GaugeVec{m.state, m.share, m.weight, m.healthy, m.refused} {
		v.DeletePartialMatch(by)
	}
}
