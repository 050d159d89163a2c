package discovery

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/gateway/config"
	"aliquot.example/gateway/line"
)

func TestMistakesInMetaCountAsOneAndAreNamedOnce(t *testing.T) {
	var text bytes.Buffer
	mistakes := &onceLog{log: slog.New(slog.NewTextHandler(&text, nil))}
	for meta, value := range map[string]string{
		"concurrency": "99999999999999999999", "aliquot_slices": "1000000", "gpu_class": "${ALIQUOT_GPU_CLASS}", "aliquot_weight": "NaN",
	} {
		text.Reset()
		for range 3 {
			r := described("10.0.0.1:80", func(key string) string { return map[string]string{meta: value}[key] }, mistakes)
			if r.Slots != 1 || r.Slices != 1 || r.Class != "" || r.Weight != 0 {
				t.Errorf("%s = %s makes %+v", meta, value, r)
			}
		}
		if n := strings.Count(text.String(), "level=WARN"); n != 1 || !strings.Contains(text.String(), meta) {
			t.Errorf("%s = %s: %d warnings:\n%s", meta, value, n, text.String())
		}
	}
}

// health is Consul's answers, one for each query, after which the query rests.
type health struct {
	tokens  []string
	answers []consul.QueryMeta
}

func (h *health) Service(service, tag string, passing bool, q *consul.QueryOptions) ([]*consul.ServiceEntry, *consul.QueryMeta, error) {
	h.tokens = append(h.tokens, q.Token)
	if len(h.tokens) > len(h.answers) {
		<-q.Context().Done()
		return nil, nil, q.Context().Err()
	}
	return nil, &h.answers[len(h.tokens)-1], nil
}

// A token file that is being rewritten is empty for a moment. An anonymous request then
// would be answered with nothing, or rest for minutes.
func TestAnEmptyTokenAsksNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var text bytes.Buffer
		h := &health{answers: []consul.QueryMeta{{LastIndex: 5}}}
		c := Consul{Health: h, Source: config.ConsulSource{Service: "m"}, Token: config.Secret{File: path}, Log: slog.New(slog.NewTextHandler(&text, nil))}
		ctx, cancel := context.WithCancel(t.Context())
		sets := 0
		go c.Watch(ctx, func([]line.Replica) { sets++ })
		time.Sleep(time.Second)
		synctest.Wait()
		if len(h.tokens) != 0 || sets != 0 || !strings.Contains(text.String(), "is empty") {
			t.Errorf("with an empty token Consul was asked %d times:\n%s", len(h.tokens), text.String())
		}
		if err := os.WriteFile(path, []byte("secret\n"), 0o600); err != nil {
			t.Error(err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if len(h.tokens) == 0 || h.tokens[0] != "secret" || sets != 1 {
			t.Errorf("within 10 s of the token Consul was asked with %q, and %d times replicas were set", h.tokens, sets)
		}
		cancel()
		synctest.Wait()
	})
}

func TestFilteredResultsAreNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text bytes.Buffer
		h := &health{answers: []consul.QueryMeta{{LastIndex: 5, ResultsFilteredByACLs: true}, {LastIndex: 6, ResultsFilteredByACLs: true}}}
		c := Consul{Health: h, Source: config.ConsulSource{Service: "m"}, Log: slog.New(slog.NewTextHandler(&text, nil))}
		ctx, cancel := context.WithCancel(t.Context())
		go c.Watch(ctx, func([]line.Replica) {})
		synctest.Wait()
		if n := strings.Count(text.String(), "service:read"); n != 1 {
			t.Errorf("named %d times:\n%s", n, text.String())
		}
		cancel()
		synctest.Wait()
	})
}

// acls is Consul's answers to a token whose rights change.
type acls struct {
	mu       sync.Mutex
	entries  []*consul.ServiceEntry
	filtered bool
}

func (a *acls) Service(service, tag string, passing bool, q *consul.QueryOptions) ([]*consul.ServiceEntry, *consul.QueryMeta, error) {
	if q.WaitIndex == 7 {
		select {
		case <-time.After(q.WaitTime):
		case <-q.Context().Done():
			return nil, nil, q.Context().Err()
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.entries, &consul.QueryMeta{LastIndex: 7, ResultsFilteredByACLs: a.filtered}, nil
}

// What the token may no longer read is not gone.
func TestFilteredResultsKeepTheLastReplicas(t *testing.T) {
	entry := func(id string) *consul.ServiceEntry {
		return &consul.ServiceEntry{Node: &consul.Node{Node: "n"}, Service: &consul.AgentService{ID: id, Address: "10.0.0.1", Port: 80}}
	}
	one, two, three := entry("1"), entry("2"), entry("3")
	synctest.Test(t, func(t *testing.T) {
		a := &acls{entries: []*consul.ServiceEntry{one, two}}
		var got []string
		ctx, cancel := context.WithCancel(t.Context())
		c := Consul{Health: a, Source: config.ConsulSource{Service: "m"}, Log: slog.New(slog.DiscardHandler)}
		go c.Watch(ctx, func(all []line.Replica) {
			got = nil
			for _, r := range all {
				got = append(got, r.ID)
			}
		})
		for _, step := range []struct {
			entries  []*consul.ServiceEntry
			filtered bool
			want     int
		}{
			{[]*consul.ServiceEntry{one, two}, false, 2},
			{nil, true, 2},
			{[]*consul.ServiceEntry{two}, true, 2},
			{[]*consul.ServiceEntry{one, two, three}, false, 3},
			{[]*consul.ServiceEntry{one}, true, 3},
			{[]*consul.ServiceEntry{one}, false, 1}, // it is gone indeed
		} {
			a.mu.Lock()
			a.entries, a.filtered = step.entries, step.filtered
			a.mu.Unlock()
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if len(got) != step.want {
				t.Errorf("%d instances, filtered %t: the replicas are %v, want %d", len(step.entries), step.filtered, got, step.want)
			}
		}
		cancel()
		synctest.Wait()
	})
}
