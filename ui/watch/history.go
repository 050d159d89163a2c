package watch

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	prometheus "github.com/prometheus/client_golang/api"
	promql "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"aliquot.example/ui/view"
)

// samples is the number of points in a chart of the past.
const samples = 720

// History reads the series of services from Prometheus.
type History struct{ api promql.API }

// NewHistory returns a History of the Prometheus at an address such as
// http://prometheus.example.com:9090.
func NewHistory(address string) (*History, error) {
	c, err := prometheus.NewClient(prometheus.Config{
		Address: address, RoundTripper: Bounded(prometheus.DefaultRoundTripper, MaxAnswer),
	})
	if err != nil {
		return nil, err
	}
	return &History{promql.NewAPI(c)}, nil
}

// question is one query, and the destination of its result.
type question struct {
	query string
	into  func(labels model.Metric, column []*float64)
}

// Of returns a service's series of the last span seconds up to now. Prometheus does not know starting
// replicas.
func (h *History) Of(ctx context.Context, service string, span int64, now time.Time) (view.Series, error) {
	step := max(1, span/samples)
	r := promql.Range{Start: time.Unix((now.Unix()-span)/step*step, 0), End: time.Unix(now.Unix()/step*step, 0),
		Step: time.Duration(step) * time.Second}
	out := view.Series{Time: []int64{}, Active: map[string][]*float64{}, Ready: map[string][]*float64{},
		Starting: map[string][]*float64{}}
	for t := r.Start.Unix(); t <= r.End.Unix(); t += step {
		out.Time = append(out.Time, t)
	}
	gaps := func() []*float64 { return make([]*float64, len(out.Time)) }
	out.Queued, out.Latency = gaps(), view.Columns{P50: gaps(), P90: gaps(), P99: gaps()}
	questions := questionsOf(service, max(300, 2*step), &out)
	answers := make([]model.Matrix, len(questions))
	errs := make([]error, len(questions))
	sideBySide(len(questions), func(i int) {
		v, _, err := h.api.QueryRange(ctx, questions[i].query, r)
		matrix, ok := v.(model.Matrix)
		if err == nil && !ok {
			err = fmt.Errorf("the answer is %T, not a matrix", v)
		}
		answers[i], errs[i] = matrix, err
	})
	for i, q := range questions {
		if errs[i] != nil {
			return view.Series{}, errs[i]
		}
		for _, stream := range answers[i] {
			column := gaps()
			for _, p := range stream.Values {
				at := (p.Timestamp.Unix() - r.Start.Unix()) / step
				if v := float64(p.Value); at >= 0 && at < int64(len(column)) && !math.IsNaN(v) && !math.IsInf(v, 0) {
					column[at] = &v
				}
			}
			q.into(stream.Metric, column)
		}
	}
	return out, nil
}

// questionsOf returns the queries that fill a series. Rates are over window seconds.
func questionsOf(service string, window int64, out *view.Series) []question {
	match := "{service=" + strconv.Quote(service) + "}"
	one := func(into *[]*float64) func(model.Metric, []*float64) {
		return func(_ model.Metric, column []*float64) { *into = column }
	}
	byClass := func(into map[string][]*float64) func(model.Metric, []*float64) {
		return func(labels model.Metric, column []*float64) { into[string(labels["class"])] = column }
	}
	quantile := func(q float64, metric string) string {
		return fmt.Sprintf("histogram_quantile(%g, sum by (le) (rate(aliquot_gateway_%s_seconds_bucket%s[%ds])))", q,
			metric, match, window)
	}
	ttft := func(at int) func(model.Metric, []*float64) {
		return func(_ model.Metric, column []*float64) {
			if out.TTFT == nil {
				n := len(out.Time)
				out.TTFT = &view.Columns{P50: make([]*float64, n), P90: make([]*float64, n), P99: make([]*float64, n)}
			}
			*[]*[]*float64{&out.TTFT.P50, &out.TTFT.P90, &out.TTFT.P99}[at] = column
		}
	}
	return []question{
		{"sum(aliquot_gateway_queued" + match + ")", one(&out.Queued)},
		{"sum by (class) (aliquot_gateway_active" + match + ")", byClass(out.Active)},
		{"max by (class) (sum by (class, instance) (aliquot_gateway_replicas{service=" + strconv.Quote(service) +
			`,state="serving"}))`, byClass(out.Ready)},
		{quantile(0.5, "request"), one(&out.Latency.P50)},
		{quantile(0.9, "request"), one(&out.Latency.P90)},
		{quantile(0.99, "request"), one(&out.Latency.P99)},
		{quantile(0.5, "ttft"), ttft(0)},
		{quantile(0.9, "ttft"), ttft(1)},
		{quantile(0.99, "ttft"), ttft(2)},
		{fmt.Sprintf("sum(rate(aliquot_gateway_tokens_total{service=%s,kind=\"output\"}[%ds]))", strconv.Quote(service),
			window), one(&out.Output)},
	}
}
