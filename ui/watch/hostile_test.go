package watch

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/ui/view"
)

// nonsense is what no Nomad, Consul or gateway answers.
var nonsense = []string{
	"", "null", "[]", "{}", "[null]", "[{}]", "<html>", `"text"`, "7", strings.Repeat("[", 1<<16), strings.Repeat(`{"a":`, 1<<16),
	`[{"ID":"a","NodeResources":{}},{"ID":"a","NodeResources":{"Devices":null}}]`,
	`[{"ID":"a","Status":"ready","NodeResources":{"Devices":[null,{"Type":"gpu","Instances":[null,{}],"Attributes":{"slices":null,"memory":{}}}]},"ReservedResources":{}}]`,
	`[{"ID":"a","NodeID":"b","ClientStatus":"running","AllocatedResources":{"Tasks":{"t":null}},"TaskStates":{"t":null}}]`,
	`[{"ID":"a","AllocatedResources":{"Tasks":{"t":{"Devices":[null,{"DeviceIDs":null}]}}},"TaskStates":{"t":{"Events":[null]}},"CreateTime":-1}]`,
	`{"DeviceStats":[null,{"InstanceStats":{"x":null,"y":{"Summary":{}}}}]}`,
	`[{"ID":"p","Target":null},null]`, `{"ID":"p","Policy":{"check":[{"x":[null,{"strategy":[{"aliquot-strategy":[null]}]}]}]},"Target":null}`,
	`{"ID":"p","Policy":{"check":[{"x":[{"query":"load service=chat classes='t4 slots=1 max=1 cost=1'","query_window":7,"strategy":[{"aliquot-strategy":[{"slots":[1,{}]}]}]}]}]},"Target":{}}`,
	`{"JobID":"j","TaskGroups":{"g":{"Events":[{"Time":18446744073709551615,"Count":-7,"Meta":{"aliquot.demand":"x"}},{"Count":null}]}}}`,
	`[{"Service":null}]`, `[{"Service":{"ID":"g","Meta":{"admin":"\u0000:::"}},"Node":null}]`, `[{"Key":null,"Value":"!"}]`, `[{"Key":"a","Value":"eyJ2ZXJzaW9uIjoxfQ=="}]`,
}

// An answer without an end is left when it is longer than any that is right.
func TestAnswersWithoutAnEnd(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for text := []byte("[" + strings.Repeat(" ", 1<<16)); r.Context().Err() == nil; text[0] = ' ' {
			if _, err := w.Write(text); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	const most = 1 << 20
	for what, ask := range map[string]func(*http.Client) error{
		"Nomad": func(client *http.Client) error {
			n, err := nomad.NewClient(&nomad.Config{Address: server.URL, HttpClient: client})
			if err != nil {
				return err
			}
			_, _, err = n.Nodes().List(nil)
			return err
		},
		"Consul": func(client *http.Client) error {
			c, err := consul.NewClient(&consul.Config{Address: server.URL, HttpClient: client})
			if err != nil {
				return err
			}
			_, _, err = c.Health().Service("x", "", true, nil)
			return err
		},
		"a gateway": func(client *http.Client) error {
			w := New(Options{})
			w.http = client
			var services []any
			return w.get(t.Context(), strings.TrimPrefix(server.URL, "http://"), "/v1/services", &services)
		},
	} {
		err := ask(&http.Client{Transport: Bounded(http.DefaultTransport, most)})
		if err == nil || !strings.Contains(err.Error(), "the response is longer than 1 MiB") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Whatever Nomad, Consul and gateways answer, nothing falls, and each view can be drawn.
func TestAnswersThatAreNonsense(t *testing.T) {
	for i, text := range nonsense {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			asked := map[string]int{}
			enough := make(chan struct{})
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				path, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/"), "/")
				if asked[path]++; len(asked) >= 5 && asked["nodes"] > 1 && asked["allocations"] > 1 && asked["health"] > 1 {
					select {
					case <-enough:
					default:
						close(enough)
					}
				}
				mu.Unlock()
				w.Header().Set("X-Nomad-Index", "1")
				fmt.Fprint(w, text)
			}))
			defer server.Close()
			n, err := nomad.NewClient(&nomad.Config{Address: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			c, err := consul.NewClient(&consul.Config{Address: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			w := New(Options{Nomad: n, Consul: c, Gateways: []string{strings.TrimPrefix(server.URL, "http://")}})
			for _, name := range []string{"service", view.ScalingView, view.RequestsView} {
				defer w.Follow(name, "chat")()
			}
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			var running sync.WaitGroup
			running.Go(func() { w.Run(ctx) })
			select {
			case <-enough:
			case <-ctx.Done():
				t.Errorf("asked were %v", asked)
			}
			f, _ := w.Facts()
			view.ClusterOf(f)
			view.ServicesOf(f)
			view.ServiceOf(f, "chat")
			view.ScalingOf(f, "chat")
			view.RequestsOf(f, "chat")
			view.EventsOf(f)
			w.Outlook("chat")
			stop()
			running.Wait()
		})
	}
}
