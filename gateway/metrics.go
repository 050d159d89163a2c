package gateway

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"aliquot.example/gateway/config"
	"aliquot.example/gateway/line"
	"aliquot.example/internal/dispatch"
)

// metrics are the gateway's Prometheus metrics; docs/gateway.md explains them.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	retries  *prometheus.CounterVec
	wait     *prometheus.HistogramVec
	service  *prometheus.HistogramVec
	total    *prometheus.HistogramVec
	ttft     *prometheus.HistogramVec
	tpot     *prometheus.HistogramVec
	slo      *prometheus.CounterVec
	tokens   *prometheus.CounterVec
	wakes    *prometheus.CounterVec
	tenants  *prometheus.CounterVec
	short    *prometheus.CounterVec
	full     prometheus.Counter
	dropped  prometheus.Counter
	moved    *prometheus.CounterVec
	sleeps   *prometheus.CounterVec
	starts   *coldStarts
}

// finer has the buckets of times between tokens: 1 ms to about 2 s by factors of the square root of
// 2.
var finer = prometheus.ExponentialBuckets(0.001, math.Sqrt2, 23)

// spread has the buckets of other times: 1 ms to about 9 minutes by factors of 2.
var spread = prometheus.ExponentialBuckets(0.001, 2, 20)

func newMetrics() *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "aliquot", Subsystem: "gateway", Name: name,
			Help: help}, labels)
	}
	within := func(buckets []float64, name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "aliquot", Subsystem: "gateway",
			Name: name, Help: help, Buckets: buckets}, labels)
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return within(spread, name, help, labels...)
	}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: counter("requests_total", "Requests by outcome.", "service", "outcome", "code"),
		retries:  counter("retries_total", "Attempts that were repeated on another slot.", "service"),
		wakes: counter("wakes_total", "Requests to Nomad to start a service from zero, by result.",
			"service", "result"),
		tenants: counter("tenant_requests_total", "Requests by tenant; tenants without configuration are \"other\".",
			"service", "tenant", "outcome"),
		full: counter("streams_full_total", "How often an HTTP/2 connection reached max_streams.").
			WithLabelValues(),
		dropped: counter("access_log_dropped_total", "Lines of the access log dropped because its buffer was full.").
			WithLabelValues(),
		short: counter("shortages_total",
			"Connections that the gateway's own host refused, for example without free file descriptors.", "to"),
		wait: histogram("wait_seconds", "Time in the queue before a request got a slot.", "service"),
		service: histogram("service_seconds", "Time from getting a slot to the end of the replica's answer.",
			"service", "class"),
		total: histogram("request_seconds", "Time from the request's header to the end of the answer.", "service"),
		ttft: histogram("ttft_seconds", "Time from the complete request to the first token of a stream.",
			"service", "class"),
		tpot: within(finer, "tpot_seconds", "Mean time between the tokens of a stream after the first.",
			"service", "class"),
		tokens: counter("tokens_total", "Tokens of language models by tenant, reported by engines or estimated.",
			"service", "tenant", "kind", "source"),
		moved: counter("fallbacks_total", "Requests that a service turned away and its fallback accepted.",
			"service", "to"),
		sleeps: counter("sleep_total", "Attempts to put replicas to sleep or wake them, by result.",
			"service", "action", "result"),
		slo: counter("slo_total", "Requests by whether they met the objective.", "service", "class", "result"),
	}
	m.starts = newColdStarts()
	m.registry.MustRegister(m.starts)
	m.registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.registry.MustRegister(m.requests, m.retries, m.wakes, m.tenants, m.short, m.full, m.dropped, m.wait, m.service,
		m.total, m.ttft, m.tpot, m.slo, m.moved, m.tokens, m.sleeps)
	return m
}

// serviceMetrics are the metrics of one service, looked up once.
type serviceMetrics struct {
	all     *metrics
	name    string
	wait    prometheus.Observer
	total   prometheus.Observer
	retried prometheus.Counter
	// codes counts served requests by status class, without a lookup by label.
	codes [6]prometheus.Counter
}

func (m *metrics) of(service string) *serviceMetrics {
	s := &serviceMetrics{all: m, name: service, wait: m.wait.WithLabelValues(service),
		total: m.total.WithLabelValues(service), retried: m.retries.WithLabelValues(service)}
	for i := range s.codes {
		s.codes[i] = m.requests.WithLabelValues(service, served.String(), codeClass(i*100))
	}
	return s
}

func codeClass(status int) string {
	return string(rune('0'+min(max(status/100, 0), 9))) + "xx"
}

func (s *serviceMetrics) waited(d time.Duration) { s.wait.Observe(d.Seconds()) }

func (s *serviceMetrics) ended(o outcome, status int, took time.Duration) {
	s.total.Observe(took.Seconds())
	if i := status / 100; o == served && i >= 0 && i < len(s.codes) {
		s.codes[i].Inc()
		return
	}
	s.all.requests.WithLabelValues(s.name, o.String(), codeClass(status)).Inc()
}

// judged counts whether a request met the objective.
func (s *serviceMetrics) judged(class string, a attainment) {
	switch a {
	case met:
		s.all.slo.WithLabelValues(s.name, class, "met").Inc()
	case missed:
		s.all.slo.WithLabelValues(s.name, class, "missed").Inc()
	}
}

// classMetrics are the metrics of a replica. They are the Value of its Endpoint.
type classMetrics struct {
	service, ttft, tpot prometheus.Observer
	class               string
	name                string      // of the service
	starts              *coldStarts // gets the duration of the first answer
	answered            atomic.Bool
	means, firsts       *means // durations of whole answers, and up to the first token, of the service
}

func (m *metrics) ofClass(c *config.Service, class string, times, firsts *means) *classMetrics {
	out := &classMetrics{service: m.service.WithLabelValues(c.Name, class), class: class, means: times, firsts: firsts,
		name: c.Name, starts: m.starts}
	if c.Language() {
		out.ttft, out.tpot = m.ttft.WithLabelValues(c.Name, class), m.tpot.WithLabelValues(c.Name, class)
	}
	return out
}

func (c *classMetrics) took(d time.Duration, work float64) {
	if !c.answered.Swap(true) {
		c.starts.answered(c.name, c.class, d)
	}
	c.service.Observe(d.Seconds())
	c.means.add(c.class, d, work)
}

func classMetricsOf(e *line.Endpoint) *classMetrics { return e.Value.(*classMetrics) }

// lines collects the state of the queues at each scrape.
type lines struct {
	services                               func() []*service
	queued, active, slots, replicas, rates *prometheus.Desc
	owns, peers                            *prometheus.Desc
	live                                   func() int // number of other gateways; nil without peers
}

func newLines(services func() []*service, live func() int) *lines {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("aliquot_gateway_"+name, help, append([]string{"service"}, labels...), nil)
	}
	return &lines{
		services: services, live: live,
		owns:     desc("owner", "1 if this gateway dispatches the service's requests for all gateways."),
		peers:    prometheus.NewDesc("aliquot_gateway_peers", "Other gateways with a working connection.", nil, nil),
		queued:   desc("queued", "Waiting requests."),
		active:   desc("active", "Requests in progress.", "class"),
		slots:    desc("slots", "Usable slots, busy or free.", "class"),
		replicas: desc("replicas", "Replicas by state.", "class", "state"),
		rates:    desc("learned_rate", "Learned requests per second of one busy slot.", "class"),
	}
}

func (l *lines) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(l, ch) }

func (l *lines) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if l.live != nil {
		gauge(l.peers, float64(l.live()))
	}
	for _, s := range l.services() {
		state := s.line.State()
		gauge(l.queued, float64(state.Queued), s.name)
		slots, replicas := map[string]int{}, map[[2]string]int{}
		for _, r := range state.Replicas {
			slots[r.Class] += r.Usable
			condition := "serving"
			switch {
			case r.Leaving:
				condition = "leaving"
			case r.Ejected:
				condition = "ejected"
			case r.Probation:
				condition = "probation"
			case r.Sleep != dispatch.Awake:
				condition = sleepNames[r.Sleep]
			}
			replicas[[2]string{r.Class, condition}]++
		}
		for class, n := range state.Active {
			gauge(l.active, float64(n), s.name, class)
		}
		if l.live != nil {
			gauge(l.owns, map[bool]float64{true: 1}[state.Decides], s.name)
		}
		if !state.Decides {
			continue // only the owner reports the rest
		}
		for class, n := range slots {
			gauge(l.slots, float64(n), s.name, class)
		}
		for k, n := range replicas {
			gauge(l.replicas, float64(n), s.name, k[0], k[1])
		}
		for class, r := range s.line.Rates() {
			gauge(l.rates, r.Rate, s.name, class)
		}
	}
}
