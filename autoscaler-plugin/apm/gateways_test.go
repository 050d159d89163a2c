package apm

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/sdk"

	"aliquot.example/autoscaler-plugin/demand"
)

// gatewayStub answers like a gateway's admin listener; see gateway/admin.go.
type gatewayStub struct {
	first  int64 // second of the first point
	queued []float64
	now    int // requests waiting now
	status int
	whole  bool
	idle   bool // nothing is being served
}

func (g gatewayStub) start(t *testing.T) string {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/services/{service}/concurrency", func(w http.ResponseWriter, r *http.Request) {
		if g.status != 0 {
			w.WriteHeader(g.status)
			return
		}
		var series []map[string]any
		for i, q := range g.queued {
			active := 1
			if g.idle {
				active = 0
			}
			series = append(series, map[string]any{
				"t": g.first + int64(i), "queued": q, "active": active, "class": map[string]any{"h100": map[string]any{"active": 1, "tokens": 70}},
				"queued_tokens": 100 * q, "active_tokens": 70 * active,
			})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"now": time.Unix(g.first+int64(len(g.queued)), 0), "series": series, "whole": g.whole})
	})
	mux.HandleFunc("GET /v1/services", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `[{"service":"llm","queued":%d,"active":{"h100":1},"queued_tokens":%d,"active_tokens":{"h100":70}}]`, g.now, 100*g.now)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func plugin(t *testing.T, settings map[string]string) *Plugin {
	t.Helper()
	p := New(hclog.NewNullLogger())
	if err := p.SetConfig(settings); err != nil {
		t.Fatal(err)
	}
	return p
}

var to = time.Unix(1_700_000_100, 500_000_000)

func within(window time.Duration) sdk.TimeRange { return sdk.TimeRange{From: to.Add(-window), To: to} }

func values(m sdk.TimestampedMetrics) (out []float64) {
	for _, one := range m {
		out = append(out, one.Value)
	}
	return out
}

func TestQuerySumsTheGatewaysOverTheSecondsThatAllKnow(t *testing.T) {
	a := gatewayStub{first: to.Unix() - 5, queued: []float64{1, 2, 3, 4, 5}}.start(t)
	b := gatewayStub{first: to.Unix() - 3, queued: []float64{10, 20, 30}}.start(t)
	other := gatewayStub{status: http.StatusNotFound}.start(t)
	p := plugin(t, map[string]string{"gateways": a + ", " + b + "," + other})
	m, err := p.Query("concurrency service=llm", within(time.Minute))
	if err != nil || fmt.Sprint(values(m)) != "[15 26 37]" || m[0].Timestamp.Unix() != to.Unix()-3 {
		t.Fatalf("got %v, %v", m, err)
	}
	if m, err = p.Query("active service=llm class=h100", within(time.Minute)); err != nil || fmt.Sprint(values(m)) != "[2 2 2]" {
		t.Errorf("active: got %v, %v", m, err)
	}
	if m, err = p.Query("queued service=llm", within(0)); err != nil || fmt.Sprint(values(m)) != "[35]" {
		t.Errorf("instant: got %v, %v", m, err)
	}
	if m, err = p.Query("tokens service=llm", within(time.Minute)); err != nil || fmt.Sprint(values(m)) != "[1440 2540 3640]" {
		t.Errorf("tokens: got %v, %v", m, err)
	}
	if m, err = p.Query("tokens service=llm class=h100", within(time.Minute)); err != nil || fmt.Sprint(values(m)) != "[140 140 140]" {
		t.Errorf("tokens of a class: got %v, %v", m, err)
	}
}

func TestQuerySplitsDemandOverClassesOnce(t *testing.T) {
	a := gatewayStub{first: to.Unix() - 2, queued: []float64{6, 19}}.start(t)
	p := plugin(t, map[string]string{"gateways": a})
	sum := make([]float64, 2)
	for _, class := range []string{"h100", "t4"} {
		m, err := p.Query("concurrency service=llm class="+class+" classes='h100 slots=8 cost=8 max=4, t4 slots=2 cost=1 max=4'", within(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range values(m) {
			sum[i] += v
		}
	}
	if sum[0] != 7 || sum[1] != 20 {
		t.Errorf("the parts sum to %v, want 7 and 20", sum)
	}
}

// Without Consul the speeds are those of the query. The gateway stub serves one request on h100.
func TestLoadCountsSlotsOfTheFastestClass(t *testing.T) {
	a := gatewayStub{first: to.Unix() - 2, queued: []float64{6, 19}}.start(t)
	p := plugin(t, map[string]string{"gateways": a, "learn_speed": "false"})
	for query, want := range map[string]string{
		"load service=llm classes='h100 slots=8 max=4, mi300x slots=8 max=4 speed=2'":                "[6.5 19.5]",
		"load service=llm classes='h100 slots=8 max=4, t4 slots=8 max=4 speed=0.5'":                  "[7 20]",
		"load service=llm classes='t4 slots=8 max=4 speed=0.5, l4 slots=2 max=4'":                    "[7 20]",
		"load service=llm class=h100 classes='h100 slots=8 max=0, t4 slots=9 max=1 speed=4'":         "[0 0]",
		"load service=llm class=t4 classes='h100 slots=8 max=0, t4 slots=9 max=1 speed=0.5'":         "[8 21]",
		"load service=llm class=t4 classes='h100 slots=8 max=1 cost=99, t4 slots=9 max=9 speed=0.5'": "[14 40]",
	} {
		m, err := p.Query(query, within(time.Minute))
		if err != nil || fmt.Sprint(values(m)) != want {
			t.Errorf("%s: got %v, %v, want %s", query, values(m), err, want)
		}
	}
}

func TestAnIdleServiceIsZeroNotAnError(t *testing.T) {
	a := gatewayStub{first: to.Unix() - 20, queued: make([]float64, 20)}.start(t)
	g := &demand.Gateways{Fixed: []string{a}, HTTP: http.DefaultClient, StaleAfter: 10 * time.Second}
	h, err := g.History(context.Background(), demand.Span{Service: "llm", From: to.Add(-time.Minute), To: to})
	if err != nil || len(h.Seconds) != 20 || h.Seconds[19].Queued != 0 {
		t.Fatalf("got %+v, %v", h, err)
	}
}

func TestDemandThatIsNotKnownIsAnError(t *testing.T) {
	fresh := gatewayStub{first: to.Unix() - 5, queued: []float64{1, 2, 3, 4, 5}}
	for name, c := range map[string]struct {
		gateway gatewayStub
		want    string
	}{
		"old":         {gatewayStub{first: to.Unix() - 60, queued: []float64{1, 2, 3}}, "59s old"},
		"not serving": {gatewayStub{status: http.StatusNotFound}, "no gateway serves"},
		"failing":     {gatewayStub{status: http.StatusInternalServerError}, "500"},
	} {
		p := plugin(t, map[string]string{"gateways": c.gateway.start(t)})
		if m, err := p.Query("concurrency service=llm", within(time.Minute)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, %v, want %q", name, m, err, c.want)
		}
	}
	p := plugin(t, map[string]string{"gateways": fresh.start(t)})
	if _, err := p.Query("concurrency service=", within(time.Minute)); err == nil || !strings.Contains(err.Error(), "column 21") {
		t.Errorf("a bad query: got %v", err)
	}
}

// The agent takes "connection refused" and "EOF" in any error for the loss of Nomad and drops all
// policies.
func TestErrorsDoNotSoundLikeTheLossOfNomad(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	address := strings.TrimPrefix(gone.URL, "http://")
	gone.Close()
	cut := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		fmt.Fprint(w, "{")
	}))
	defer cut.Close()
	for _, a := range []string{address, strings.TrimPrefix(cut.URL, "http://")} {
		_, err := plugin(t, map[string]string{"gateways": a}).Query("concurrency service=llm", within(time.Minute))
		if err == nil || strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "EOF") {
			t.Errorf("got %v", err)
		}
	}
}

func TestAGatewayThatCannotBeAskedLeavesTooLittleHistoryToShrinkBy(t *testing.T) {
	a := gatewayStub{first: to.Unix() - 600, queued: make([]float64, 600)}.start(t)
	gone := httptest.NewServer(http.NotFoundHandler())
	address := strings.TrimPrefix(gone.URL, "http://")
	gone.Close()
	p := plugin(t, map[string]string{"gateways": a + "," + address})
	m, err := p.Query("concurrency service=llm", within(10*time.Minute))
	if err != nil || len(m) > 31 || len(m) < 10 {
		t.Fatalf("got %d seconds, %v", len(m), err)
	}
}

// The agent's log says once why counts do not shrink.
func TestWhyNothingShrinksIsSaidOnce(t *testing.T) {
	stub := gatewayStub{first: to.Unix() - 600, queued: make([]float64, 600)}
	a, b := stub.start(t), stub.start(t)
	gone := httptest.NewServer(http.NotFoundHandler())
	address := strings.TrimPrefix(gone.URL, "http://")
	gone.Close()
	var log strings.Builder
	p := New(hclog.New(&hclog.LoggerOptions{Output: &log}))
	for _, gateways := range []string{a + "," + address, a + "," + b} {
		if err := p.SetConfig(map[string]string{"gateways": gateways}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, err := p.Query("concurrency service=llm", within(10*time.Minute)); err != nil {
				t.Fatal(err)
			}
		}
	}
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "not shrink") || !strings.Contains(lines[0], "no_answer_from="+address) || !strings.Contains(lines[1], "shrink again") {
		t.Errorf("log:\n%s", log.String())
	}
}

func TestPanicsAreAnswered(t *testing.T) {
	p := plugin(t, map[string]string{"gateways": "localhost:1"})
	p.source = nil
	p.source = faulty{}
	if _, err := p.Query("concurrency service=llm", within(time.Minute)); err == nil || !strings.Contains(err.Error(), "internal error") {
		t.Errorf("got %v", err)
	}
}

type faulty struct{}

func (faulty) History(context.Context, demand.Span) (demand.History, error) {
	panic("as a bug would")
}
