package watch

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"aliquot.example/internal/api"
	"aliquot.example/ui/view"
	"aliquot.example/ui/wirefake"
)

func TestMergeOfGatewaysThatDecideEachForItself(t *testing.T) {
	one := []api.Service{{Service: "chat", Queued: 2, Active: map[string]int{"t4": 1}, Replicas: []api.Replica{{ID: "a", Active: 1}}}}
	two := []api.Service{{Service: "chat", Queued: 3, Active: map[string]int{"t4": 2, "h100": 1}, Replicas: []api.Replica{{ID: "a", Active: 2}, {ID: "b", Active: 1}}}, {Service: "code"}}
	got := merge([]string{"g1", "g2"}, [][]api.Service{one, two})
	if len(got) != 2 || got[0].Name != "chat" || got[1].Name != "code" {
		t.Fatalf("%+v", got)
	}
	chat := got[0]
	if chat.Queued != 5 || chat.Active["t4"] != 3 || chat.Active["h100"] != 1 || len(chat.Gateways) != 2 {
		t.Errorf("%+v", chat)
	}
	if len(chat.Replicas) != 2 || chat.Replicas[0].Active != 3 {
		t.Errorf("replicas: %+v", chat.Replicas)
	}
	if one[0].Replicas[0].Active != 1 {
		t.Error("what a gateway said was changed")
	}
}

func TestMergeTakesReplicasOfTheOwner(t *testing.T) {
	other := []api.Service{{Service: "chat", Queued: 1, Role: "member", Replicas: []api.Replica{{ID: "old", Active: 1}, {ID: "a", Active: 2}}}}
	owns := []api.Service{{Service: "chat", Queued: 1, Role: owner, Replicas: []api.Replica{{ID: "a", Active: 1}, {ID: "b"}}}}
	for _, answers := range [][][]api.Service{{other, owns}, {owns, other}} {
		if got := merge([]string{"g1", "g2"}, answers); got[0].Queued != 2 || len(got[0].Replicas) != 2 || got[0].Replicas[0].Active != 3 || got[0].Replicas[1].Active != 0 {
			t.Errorf("%+v", got)
		}
	}
}

// silent is the address of something that accepts connections and never answers.
func silent(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// A gateway that hangs makes gaps in the sums, and costs one wait for all services.
func TestAHungGatewayIsWaitedForOnce(t *testing.T) {
	c := wirefake.Start()
	defer c.Server.Close()
	n, _, err := c.Clients()
	if err != nil {
		t.Fatal(err)
	}
	asked := map[string]int{}
	for i := range 20 {
		c.Services = append(c.Services, api.Service{Service: fmt.Sprintf("s%02d", i)})
	}
	hung := silent(t)
	w := New(Options{Nomad: n, Gateways: []string{strings.TrimPrefix(c.Server.URL, "http://"), hung}})
	w.http.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		if r.URL.Host == hung {
			asked[r.URL.Path]++ // nothing else asks this host at the same time
			ctx, cancel := context.WithTimeout(r.Context(), 50*time.Millisecond)
			defer cancel()
			r = r.WithContext(ctx)
		}
		return http.DefaultTransport.RoundTrip(r)
	})
	for _, s := range c.Services {
		defer w.Follow("service", s.Service)()
	}
	w.readGateways(t.Context())
	if len(w.services) != 20 || len(asked) != 1 || asked["/v1/services"] != 1 {
		t.Errorf("%d services; the hung gateway was asked %v", len(w.services), asked)
	}
	if got := w.timeFor(sourceOf(hung)); got != pollInterval {
		t.Errorf("the next time it has %s", got)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Names of services that browsers make up leave nothing behind.
func TestMadeUpServicesAreNotKept(t *testing.T) {
	c := wirefake.Start()
	defer c.Server.Close()
	c.Services = []api.Service{{Service: "chat"}}
	n, s, err := c.Clients()
	if err != nil {
		t.Fatal(err)
	}
	w := New(Options{Nomad: n, Consul: s, Gateways: []string{strings.TrimPrefix(c.Server.URL, "http://")}})
	w.readGateways(t.Context())
	leave := []func(){w.Follow("service", "chat")}
	for i := range 100 {
		leave = append(leave, w.Follow("service", fmt.Sprintf("made-up-%d", i)))
	}
	w.readGateways(t.Context())
	w.readSplits(t.Context())
	if len(w.splits) != 1 || len(w.memory) != 1 {
		t.Errorf("kept: splits %d, memory %d", len(w.splits), len(w.memory))
	}
	for _, f := range leave {
		f()
	}
	w.readSplits(t.Context())
	if len(w.splits) != 0 || len(w.followed) != 0 || len(w.since) != 0 {
		t.Errorf("nobody looks, and kept are splits %d, followed %d", len(w.splits), len(w.followed))
	}
}

// What a gateway answers that is not one, or is broken, counts for nothing and stops nothing.
func TestGatewaysThatAnswerNonsense(t *testing.T) {
	point := func(at int64) string { return fmt.Sprintf(`{"time":%d,"queued":7}`, at) }
	now := time.Now().Unix()
	for what, answers := range map[string]struct{ services, concurrency, latency string }{
		"nothing":        {},
		"another page":   {services: "<html>"},
		"no list":        {services: `{"service":"chat"}`},
		"other types":    {services: `[{"service":"chat","queued":"many","active":{"t4":1000}},{"service":"more"}]`},
		"null":           {services: "null", concurrency: "null", latency: "null"},
		"null in lists":  {services: `[{"service":"chat","active":null,"replicas":[{}]}]`, concurrency: `{"series":[{}]}`, latency: `{"series":[{"total":null}]}`},
		"absurd seconds": {services: "[]", concurrency: `{"series":[` + point(-5) + "," + point(math.MinInt64) + "," + point(math.MaxInt64) + "," + point(now+1e6) + `]}`, latency: fmt.Sprintf(`{"series":[{"time":%d},{"time":-7}]}`, math.MaxInt64)},
		"no sketches":    {services: "[]", concurrency: "{}", latency: fmt.Sprintf(`{"series":[{"time":%d,"total":"AAECAw=="}]}`, now-1)},
		"without an end": {services: strings.Repeat("[", 1<<20)},
	} {
		c := wirefake.Start()
		c.Services = []api.Service{{Service: "chat", Active: map[string]int{"t4": 1}}}
		c.Series["chat"] = []api.Point{{Time: now - 1, Queued: 3}}
		n, _, err := c.Clients()
		if err != nil {
			t.Fatal(err)
		}
		hostile := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.HasSuffix(r.URL.Path, "/concurrency"):
				fmt.Fprint(w, answers.concurrency)
			case strings.HasSuffix(r.URL.Path, "/latency"):
				fmt.Fprint(w, answers.latency)
			default:
				fmt.Fprint(w, answers.services)
			}
		}))
		w := New(Options{Nomad: n, Gateways: []string{strings.TrimPrefix(c.Server.URL, "http://"), strings.TrimPrefix(hostile.URL, "http://")}})
		leave := w.Follow("service", "chat")
		w.readGateways(t.Context())
		if len(w.services) != 1 || w.services[0].Active["t4"] != 1 {
			t.Errorf("%s: %+v", what, w.services)
		}
		if newest := w.memory["chat"].Newest(); newest < now || newest > time.Now().Unix() {
			t.Errorf("%s: the newest second is %d, now is %d", what, newest, now)
		}
		for _, after := range []int64{0, -1, math.MinInt64, math.MaxInt64} { // a browser says it
			if s := w.Series("chat", after); len(s.Time) > view.Depth {
				t.Errorf("%s: %d seconds after %d", what, len(s.Time), after)
			}
		}
		leave()
		hostile.Close()
		c.Server.Close()
	}
}
