package apm

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"aliquot.example/autoscaler-plugin/demand"
)

// prometheus reads what a Prometheus server scraped from the gateways. It knows the demand of
// gateways that no longer exist, but only at the resolution of its scrapes.
type prometheus struct {
	address    string
	token      string // path of a file with a bearer token, "" for none
	step       time.Duration
	staleAfter time.Duration
	http       *http.Client
}

// The gateways' gauges. The queue gauge of a configured service always exists. The gauge of active
// requests exists only for classes of which the gateways have seen replicas.
const (
	queuedQuery = `sum(aliquot_gateway_queued{service=%q})`
	activeQuery = `sum by (class) (aliquot_gateway_active{service=%q})`
)

func (p *prometheus) History(ctx context.Context, span demand.Span) (demand.History, error) {
	service, from, to := span.Service, span.From, span.To
	queued, err := p.queryRange(ctx, fmt.Sprintf(queuedQuery, service), from, to)
	if err != nil {
		return demand.History{}, err
	}
	active, err := p.queryRange(ctx, fmt.Sprintf(activeQuery, service), from, to)
	if err != nil {
		return demand.History{}, err
	}
	if len(queued) == 0 || len(queued[0].samples) == 0 {
		return demand.History{},
			fmt.Errorf("no aliquot_gateway_queued in Prometheus for the last %s: are the gateways scraped?",
				to.Sub(from).Round(time.Second))
	}
	samples := queued[0].samples
	if age := to.Sub(samples[len(samples)-1].at); age > p.staleAfter+p.step {
		return demand.History{},
			fmt.Errorf("the newest value in Prometheus is %s old: want at most %s; are the gateways scraped?",
				age.Round(time.Second), p.staleAfter+p.step)
	}
	return p.join(samples, active), nil
}

// join resamples the series to a grid of seconds. A value of the queue's series holds until the
// next. Everything before a gap longer than staleAfter plus step is dropped.
func (p *prometheus) join(queued []sample, active []stream) demand.History {
	start := 0
	for i := 1; i < len(queued); i++ {
		if queued[i].at.Sub(queued[i-1].at) > p.staleAfter+p.step {
			start = i
		}
	}
	h := demand.History{First: queued[start].at.Unix()}
	h.Seconds = make([]demand.Second, queued[len(queued)-1].at.Unix()-h.First+1)
	fill(h, queued[start:], 0, func(s *demand.Second, v float64) { s.Queued = v })
	for _, a := range active {
		// A class that is no longer exported has no requests.
		fill(h, a.samples, p.step, func(s *demand.Second, v float64) {
			if s.Class == nil {
				s.Class = map[string]float64{}
			}
			s.Class[a.class] = v
			s.Active += v
		})
	}
	return h
}

// fill calls set for the seconds that a series covers. A sample holds for valid, or until the next
// sample if valid is 0.
func fill(h demand.History, samples []sample, valid time.Duration, set func(*demand.Second, float64)) {
	at := -1
	for i := range h.Seconds {
		now := h.First + int64(i)
		for at+1 < len(samples) && samples[at+1].at.Unix() <= now {
			at++
		}
		if at >= 0 && (valid == 0 || now-samples[at].at.Unix() < int64(valid/time.Second)) {
			set(&h.Seconds[i], samples[at].value)
		}
	}
}

type sample struct {
	at    time.Time
	value float64
}

type stream struct {
	class   string
	samples []sample
}

// queryRange runs a range query.
func (p *prometheus) queryRange(ctx context.Context, query string, from, to time.Time) ([]stream, error) {
	seconds := func(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }
	// Align to whole steps since the epoch, so that consecutive queries see the same samples.
	step := int64(p.step / time.Second)
	form := url.Values{
		"query": {query}, "step": {strconv.FormatInt(step, 10)}, "end": {seconds(to)},
		"start": {strconv.FormatInt(from.Unix()/step*step, 10)},
	}
	target := strings.TrimSuffix(p.address, "/") + "/api/v1/query_range?" + form.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	if p.token != "" {
		token, err := os.ReadFile(p.token)
		if err != nil {
			return nil, err
		}
		request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	response, err := p.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return readStreams(io.LimitReader(response.Body, demand.MaxAnswer), response.Status)
}

func readStreams(body io.Reader, status string) ([]stream, error) {
	var answer struct {
		Status, Error string
		Data          struct {
			ResultType string
			Result     []struct {
				Metric map[string]string
				Values [][2]any
			}
		}
	}
	if err := json.NewDecoder(body).Decode(&answer); err != nil {
		return nil, fmt.Errorf("cannot parse the response of Prometheus (%s): %w", status, err)
	}
	if answer.Status != "success" || answer.Data.ResultType != "matrix" {
		return nil, fmt.Errorf("Prometheus answers %s: %s", status, answer.Error)
	}
	var streams []stream
	for _, r := range answer.Data.Result {
		s := stream{class: r.Metric["class"]}
		for _, pair := range r.Values {
			at, okTime := pair[0].(float64)
			text, okValue := pair[1].(string)
			value, err := strconv.ParseFloat(text, 64)
			if !okTime || !okValue || err != nil || !(value >= 0 && value < 1e9) {
				return nil, fmt.Errorf("the response of Prometheus has an invalid sample %v: "+
					"want a time and a number from 0 to 1e9", pair)
			}
			s.samples = append(s.samples, sample{time.UnixMilli(int64(at * 1000)), value})
		}
		streams = append(streams, s)
	}
	return streams, nil
}
