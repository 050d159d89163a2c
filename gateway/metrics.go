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

// finer is the buckets of times between tokens: 1 ms to about 2 s by the root of two.
var finer = prometheus.ExponentialBuckets(0.001, math.Sqrt2, 23)

// spread is the histogram's buckets: 1 ms to about 9 minutes by factors of two.
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
		requests: counter("requests_total", "Requests by how they ended.", "service", "outcome", "code"),
		retries:  counter("retries_total", "Attempts that were repeated on another slot.", "service"),
		wakes: counter("wakes_total", "Requests to Nomad to start a service from zero, by result.",
			"service", "result"),
		tenants: counter("tenant_requests_total", "Requests by tenant; tenants that are not configured are \"other\".",
			"service", "tenant", "outcome"),
		full: counter("streams_full_total", "Times that a connection of HTTP/2 reached max_streams.").
			WithLabelValues(),
		dropped: counter("access_log_dropped_total", "Lines of the access log that were dropped, as it took no more.").
			WithLabelValues(),
		short: counter("shortages_total",
			"Connections that the gateway's own host refused, such as for want of file descriptors.", "to"),
		wait: histogram("wait_seconds", "Time in the queue before a slot was given.", "service"),
		service: histogram("service_seconds", "Time from the slot's start to the end of the replica's answer.",
			"service", "class"),
		total: histogram("request_seconds", "Time from the request's header to the end of the answer.", "service"),
		ttft: histogram("ttft_seconds", "Time from the whole request to its first token, of streams.",
			"service", "class"),
		tpot: within(finer, "tpot_seconds", "Mean time between the tokens of a stream after its first.",
			"service", "class"),
		tokens: counter("tokens_total", "Tokens of language models by tenant, told by engines or estimated.",
			"service", "tenant", "kind", "source"),
		moved: counter("fallbacks_total", "Requests that a service turned away and another one took on.",
			"service", "to"),
		sleeps: counter("sleep_total", "Replicas that were put to sleep and woken, by result.",
			"service", "action", "result"),
		slo: counter("slo_total", "Requests within the service's objective and not.", "service", "class", "result"),
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
	// codes counts the served requests by status, without a look-up by label.
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

// judged counts a request beside the objective.
func (s *serviceMetrics) judged(class string, a attainment) {
	switch a {
	case met:
		s.all.slo.WithLabelValues(s.name, class, "met").Inc()
	case missed:
		s.all.slo.WithLabelValues(s.name, class, "missed").Inc()
	}
}

// classMetrics is what an Endpoint carries.
type classMetrics struct {
	service, ttft, tpot prometheus.Observer
	class               string
	name                string      // of the service
	starts              *coldStarts // hears of the first answer
	answered            atomic.Bool
	means, firsts       *means // of the service: whole answers, and up to the first token
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

// lines reads the state of the queues when the metrics are asked for.
type lines struct {
	services                               func() []*service
	queued, active, slots, replicas, rates *prometheus.Desc
	owns, peers                            *prometheus.Desc
	live                                   func() int // other gateways; nil without any
}

func newLines(services func() []*service, live func() int) *lines {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("aliquot_gateway_"+name, help, append([]string{"service"}, labels...), nil)
	}
	return &lines{
		services: services, live: live,
		owns:     desc("owner", "1 where this gateway decides for the service, of those that share its queue."),
		peers:    prometheus.NewDesc("aliquot_gateway_peers", "Other gateways that are heard.", nil, nil),
		queued:   desc("queued", "Requests waiting."),
		active:   desc("active", "Requests being served.", "class"),
		slots:    desc("slots", "Slots that may be used, busy or free.", "class"),
		replicas: desc("replicas", "Replicas by state.", "class", "state"),
		rates:    desc("learned_rate", "Requests per second and busy slot, learned.", "class"),
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
			continue // the gateway that does says how many there are
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
