package gateway_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"aliquot.example/internal/api"
	"aliquot.example/internal/quantile"
)

// latencies returns what the gateway counted of a service, when that are so many requests.
func (g *running) latencies(t *testing.T, service string, want float64) (total, ttft quantile.Sketch) {
	t.Helper()
	eventually(t, "the latencies of the requests", func() bool {
		total, ttft = quantile.Sketch{}, quantile.Sketch{}
		var out api.Latencies
		status, text, _ := get(t, g.admin+"/v1/services/"+service+"/latency?window=1h")
		if status != http.StatusOK || json.Unmarshal([]byte(text), &out) != nil {
			t.Fatal(status, text)
		}
		for _, p := range out.Series {
			if n := p.Served["h100"]; n == 0 || len(p.Served) != 1 {
				t.Errorf("served by class: %v", p.Served)
			}
			for of, bytes := range map[*quantile.Sketch][]byte{&total: p.Total, &ttft: p.TTFT} {
				one, err := quantile.Decode(bytes)
				if err != nil {
					t.Fatal(err)
				}
				of.Merge(one)
			}
		}
		return total.Count() == want
	})
	return total, ttft
}

func TestLatenciesOfServedRequests(t *testing.T) {
	entered, gate := make(chan time.Time, 1), make(chan struct{})
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/fails":
			http.Error(w, "no", http.StatusInternalServerError)
		case "/slow":
			entered <- time.Now()
			<-gate
		}
	})
	g := start(t, service("images", replicaBlock(replica, "h100", 4)))
	fast := time.Hour
	for _, path := range []string{"/", "/", "/fails"} {
		asked := time.Now()
		if get(t, g.url+path); path == "/" {
			fast = min(fast, time.Since(asked))
		}
	}
	done := make(chan struct{})
	go func() { get(t, g.url+"/slow"); close(done) }()
	work := passed(t, <-entered, 2*fast).Seconds() // longer than the fastest, however long that took
	close(gate)
	<-done
	total, ttft := g.latencies(t, "images", 3)
	if most := total.At(1); most < work*(1-quantile.Accuracy) || total.At(0) >= most || ttft.Count() != 0 {
		t.Errorf("from %g to %g s, of which one took at least %g s; %g first tokens", total.At(0), most, work, ttft.Count())
	}
	for query, want := range map[string]int{"/v1/services/none/latency": 404, "/v1/services/images/latency?window=x": 400} {
		if status, _, _ := get(t, g.admin+query); status != want {
			t.Errorf("%s: %d", query, status)
		}
	}
}

func TestLatenciesOfALanguageModel(t *testing.T) {
	g := start(t, service("chat", "policy = \"tokens\"\nengine {\n metrics = \"off\"\n}\n", replicaBlock(engine(t), "h100", 4)))
	if status, _ := ask(t, g, chatBody("hello", true)); status != http.StatusOK {
		t.Fatal(status)
	}
	total, ttft := g.latencies(t, "chat", 1)
	if ttft.Count() != 1 || ttft.At(0.5) > total.At(0.5)*(1+3*quantile.Accuracy) {
		t.Errorf("%g first tokens, the median at %g s of %g", ttft.Count(), ttft.At(0.5), total.At(0.5))
	}
}
