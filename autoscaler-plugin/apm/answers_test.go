package apm

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"aliquot.example/internal/api"
	"aliquot.example/internal/quantile"
)

// answering starts a gateway with three seconds of latencies. No request ended in the first second.
// In the others, half of the requests ended with a time to the first token of one second. Each was
// within the objective or not.
func answering(t *testing.T, whole bool, met, missed int) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/latency") {
			var of quantile.Sketch
			for _, seconds := range []float64{1, 1, 0.01, 0.01} {
				of.Add(seconds)
			}
			json.NewEncoder(w).Encode(api.Latencies{Series: []api.Latency{{Time: to.Unix() - 2, TTFT: of.Encode()}, {Time: to.Unix() - 1, TTFT: of.Encode()}}})
			return
		}
		answer := api.Concurrency{Now: to, Whole: whole}
		for at := to.Unix() - 3; at < to.Unix(); at++ {
			p := api.Point{Time: at, Active: 1, Tokens: &api.Tokens{Arrived: 500}}
			if at > to.Unix()-3 {
				p.Tokens.Ended, p.Tokens.Met, p.Tokens.Missed = met+missed, met, missed
			}
			answer.Series = append(answer.Series, p)
		}
		json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// Outcomes of several gateways add up, whether or not they share their queues.
func TestWhatWasAttainedIsOfAllGateways(t *testing.T) {
	for _, whole := range []bool{false, true} {
		p := plugin(t, map[string]string{"gateways": answering(t, whole, 3, 1) + "," + answering(t, whole, 0, 4)})
		for query, want := range map[string]string{
			"arriving service=llm":         "[1000 1000 1000]",
			"attained service=llm":         "[1 0.375 0.375]",
			"above service=llm ttft=100ms": "[0 0.5 0.5]",
			"above service=llm ttft=2s":    "[0 0 0]",
			"above service=llm e2e=2s":     "[0 0 0]",
		} {
			m, err := p.Query(query, within(time.Minute))
			if err != nil || fmt.Sprint(values(m)) != want {
				t.Errorf("shared queues %t, %s: got %v, %v, want %s", whole, query, values(m), err, want)
			}
		}
	}
}
