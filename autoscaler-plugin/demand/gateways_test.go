package demand

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
	"pgregory.net/rapid"

	"aliquot.example/internal/api"
)

var to = time.Unix(1_700_000_100, 500_000_000)

func TestLastSignOfAGatewayThatIsGone(t *testing.T) {
	const alloc, old = "3f2c9a1e-0000-4000-8000-000000000001", "3f2c9a1e-0000-4000-8000-000000000002"
	updated := time.Unix(1_700_000_000, 0).UTC()
	pair := func(id string) *consul.KVPair {
		return &consul.KVPair{Key: "aliquot/rates/llm/aliquot-gateway-" + id, Value: []byte(`{"version":1,"updated":"` + updated.Format(time.RFC3339) + `"}`)}
	}
	here := []member{{id: "_nomad-task-" + alloc + "-group-gateway-aliquot-gateway-http"}}
	if got := lastSeen(consul.KVPairs{pair(alloc)}, here, updated); !got.IsZero() {
		t.Errorf("a gateway that is here: got %v", got)
	}
	if got := lastSeen(consul.KVPairs{pair(alloc), pair(old)}, here, updated); !got.Equal(updated.Add(publishInterval)) {
		t.Errorf("a gateway that is gone: got %v, want %v", got, updated.Add(publishInterval))
	}
	if got := lastSeen(consul.KVPairs{pair(old)}, here, updated.Add(-time.Second)); !got.IsZero() {
		t.Errorf("one whose clock was ahead: got %v, until when nothing would shrink", got)
	}
}

func TestSumIsTheSumInEverySecond(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 4).Draw(t, "gateways")
		want := map[int64]float64{}
		count := map[int64]int{}
		var answers []answer
		for range n {
			length := rapid.IntRange(5, 40).Draw(t, "length")
			a := answer{known: true}
			end := to.Unix() - int64(rapid.IntRange(1, 3).Draw(t, "end"))
			for s := end - int64(length) + 1; s <= end; s++ {
				v := float64(rapid.IntRange(0, 9).Draw(t, "queued"))
				a.series = append(a.series, api.Point{Time: s, Queued: v})
				want[s] += v
				count[s]++
			}
			answers = append(answers, a)
		}
		h, err := sum(answers, to.Add(-time.Minute), to, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range h.Seconds {
			at := h.First + int64(i)
			if count[at] != n || s.Queued != want[at] {
				t.Fatalf("second %d: %v from %d of %d gateways, want %v", at, s.Queued, count[at], n, want[at])
			}
		}
	})
}

// A gateway with an impossible figure counts as silent and is named. The figure affects no count.
func TestAnImpossibleFigureIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(*api.Point){
		"waiting":          func(p *api.Point) { p.Queued = -1 },
		"served":           func(p *api.Point) { p.Active = 1e300 },
		"waiting tokens":   func(p *api.Point) { p.QueuedTokens = -1 },
		"tokens of all":    func(p *api.Point) { p.ActiveTokens = -0.5 },
		"of a class":       func(p *api.Point) { p.Class = map[string]api.ClassPoint{"h100": {Active: -1}} },
		"tokens of one":    func(p *api.Point) { p.Class = map[string]api.ClassPoint{"h100": {Tokens: 1e16}} },
		"arrived":          func(p *api.Point) { p.Tokens = &api.Tokens{Arrived: -10} },
		"met":              func(p *api.Point) { p.Tokens = &api.Tokens{Met: -1} },
		"missed":           func(p *api.Point) { p.Tokens = &api.Tokens{Missed: -1} },
		"nothing is wrong": nil,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			a := api.Concurrency{Now: to}
			for at := to.Unix() - 60; at < to.Unix(); at++ {
				a.Series = append(a.Series, api.Point{Time: at, Active: 2})
			}
			if spoil != nil {
				spoil(&a.Series[30])
			}
			json.NewEncoder(w).Encode(a)
		}))
		g := &Gateways{Fixed: []string{strings.TrimPrefix(server.URL, "http://")}, HTTP: http.DefaultClient, StaleAfter: 10 * time.Second}
		_, err := g.History(t.Context(), Span{Service: "llm", From: to.Add(-time.Minute), To: to})
		server.Close()
		if spoil == nil {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), "its value for second ") || !strings.Contains(err.Error(), g.Fixed[0]) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
