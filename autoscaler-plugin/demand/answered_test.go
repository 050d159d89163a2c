package demand

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/e2e/consultest"
	"aliquot.example/internal/api"
	"aliquot.example/internal/learned"
)

// whole starts a gateway that shares its queues, with a series of the given length in seconds and
// arrivals in tokens per second.
func whole(t *testing.T, seconds, arrived int64) (admin string) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		a := api.Concurrency{Now: to, Whole: true}
		for at := to.Unix() - seconds; at < to.Unix(); at++ {
			a.Series = append(a.Series, api.Point{Time: at, Active: 20, Tokens: &api.Tokens{Arrived: arrived, Met: 1}})
		}
		json.NewEncoder(w).Encode(a)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// Gateways that share their queues remember each other's demand, but not each other's arrivals and
// outcomes. After the loss of a gateway, its arrivals are missing.
func TestWhatCameToAGatewayThatIsGoneIsNotKnown(t *testing.T) {
	server, err := consultest.Start(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	register := func(id, admin string) {
		t.Helper()
		if err := server.Client.Agent().ServiceRegister(&consul.AgentServiceRegistration{ID: id, Name: "gateway", Meta: map[string]string{api.MetaAdmin: admin}}); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(g *Gateways) History {
		t.Helper()
		g.HTTP, g.StaleAfter = http.DefaultClient, 10*time.Second
		h, err := g.History(t.Context(), Span{Service: "llm", From: to.Add(-20 * time.Minute), To: to})
		if err != nil {
			t.Fatal(err)
		}
		if len(h.Seconds) != 1200 || h.Seconds[0].Active != 20 {
			t.Fatalf("%d seconds are known, want all", len(h.Seconds))
		}
		return h
	}
	old := whole(t, 1200, 10)
	h := ask(&Gateways{Fixed: []string{old, whole(t, 1200, 1000)}})
	if known := h.Answers().Seconds; len(known) != 1200 || known[0].Arrived != 1010 {
		t.Errorf("of two old ones %d seconds are known, %v tokens in the first", len(known), known[0].Arrived)
	}
	// One gateway has restarted under the same name.
	h = ask(&Gateways{Fixed: []string{old, whole(t, 5, 1000)}})
	if known := h.Answers().Seconds; len(known) != 5 || known[0].Arrived != 1010 {
		t.Errorf("of one that restarted %d seconds are known, %v tokens in the first", len(known), known[0].Arrived)
	}
	// One gateway ended for good 100 s ago.
	register("a", old)
	doc, err := json.Marshal(learned.NewRates(to.Add(-100*time.Second - publishInterval)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.Client.KV().Put(&consul.KVPair{Key: "rates/llm/b", Value: doc}, nil); err != nil {
		t.Fatal(err)
	}
	h = ask(&Gateways{Consul: server.Client, Service: "gateway", Rates: "rates"})
	if known := h.Answers().Seconds; len(known) != 100 {
		t.Errorf("of one that ended 100 s ago %d seconds are known", len(known))
	}
}
