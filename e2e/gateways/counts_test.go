package gateways

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"aliquot.example/internal/api"
	"aliquot.example/internal/top"
)

// Tokens of each request of this test, as reported by the replicas.
const promptTokens, outputTokens = 60, 40

// perMinute is the token limit per minute of the tenant "metered".
const perMinute = 1000

const counted = `tenants {
  header = "X-Tenant"
  tenant "narrow" {
    max_active = 2
    max_queue  = 3
  }
  tenant "metered" {
    tokens_per_minute = 1000
  }
}`

// Everything that a single gateway counts once, all gateways together count once: tenants' limits,
// tokens per minute, usage, demand and metrics.
func TestAllCountsOnce(t *testing.T) {
	ctx, f := fleet(t, Options{Settings: counted, Service: "policy = \"tokens\"\nengine {\n  metrics = \"off\"\n}"}, 4, 2)
	release := make(chan struct{})
	for _, r := range f.options.Replicas {
		r.Answer = fmt.Sprintf(`{"usage":{"prompt_tokens":%d,"completion_tokens":%d}}`, promptTokens, outputTokens)
		r.Serve = func(r *http.Request) {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
	}
	err := Await(ctx, "all gateways hear each other", func() string {
		if n := f.metric(ctx, t, "peers", ""); n != 6 {
			return fmt.Sprintf("%g of 6 connections", n)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	const asked, active, queued = 9, 2, 3
	statuses := make(chan int, asked)
	var wait sync.WaitGroup
	for i := range asked {
		wait.Go(func() {
			status, _ := f.Gateways[i%3].complete(ctx, t, "narrow", "hello")
			statuses <- status
		})
	}
	t.Run("limits of a tenant", func(t *testing.T) {
		for range asked - active - queued {
			select {
			case status := <-statuses:
				if status != http.StatusTooManyRequests {
					t.Errorf("a request beyond the limits is answered %d", status)
				}
			case <-ctx.Done():
				t.Fatal("requests beyond the limits wait")
			}
		}
	})
	t.Run("demand", func(t *testing.T) { f.demand(ctx, t, queued, active) })
	t.Run("metrics and top", func(t *testing.T) { f.sums(ctx, t, queued, active, 6) })
	close(release)
	wait.Wait()
	for range active + queued {
		if status := <-statuses; status != http.StatusOK {
			t.Errorf("a request within the limits is answered %d", status)
		}
	}
	t.Run("usage", func(t *testing.T) { f.used(ctx, t, "narrow", active+queued) })
	t.Run("tokens per minute", func(t *testing.T) { f.metered(ctx, t) })
}

// complete requests a completion of a prompt and returns the status and the header of the answer.
func (g *Gateway) complete(ctx context.Context, t *testing.T, tenant, prompt string) (int, http.Header) {
	body := fmt.Sprintf(`{"model":"m","prompt":%q,"max_tokens":40}`, prompt)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+g.Public+"/v1/completions", strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return 0, nil
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Tenant", tenant)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Error(err)
		return 0, nil
	}
	res.Body.Close()
	return res.StatusCode, res.Header
}

// demand waits until every gateway reports the total demand, in requests and tokens.
func (f *Fleet) demand(ctx context.Context, t *testing.T, queued, active float64) {
	err := Await(ctx, "each gateway reports the demand of all", func() string {
		var first api.Point
		for i, g := range f.Gateways {
			var c api.Concurrency
			if err := g.read(ctx, "/v1/services/"+Service+"/concurrency?window=5s", &c); err != nil {
				return err.Error()
			}
			if len(c.Series) == 0 || !c.Whole {
				return fmt.Sprintf("gateway %d: %+v", i, c)
			}
			p := c.Series[len(c.Series)-1]
			if i == 0 {
				first = p
			}
			about := func(a, b float64) bool { return a > 0 && math.Abs(a-b) < 0.01*b } // parts of a second add up
			if !about(p.Queued, queued) || !about(p.Active, active) || !about(p.QueuedTokens, first.QueuedTokens) || !about(p.ActiveTokens, first.ActiveTokens) {
				return fmt.Sprintf("gateway %d: %+v", i, p)
			}
		}
		return ""
	})
	if err != nil {
		t.Error(err)
	}
}

// sums checks the sums over all gateways in their metrics and in aliquot top.
func (f *Fleet) sums(ctx context.Context, t *testing.T, queued, active, slots float64) {
	for name, want := range map[string]float64{"queued": queued, "active": active, "slots": slots, "owner": 1, "peers": 6} {
		if got := f.metric(ctx, t, name, ""); got != want {
			t.Errorf("aliquot_gateway_%s adds up to %g, want %g", name, got, want)
		}
	}
	services, err := top.Gateways(f.Consul.Client)(ctx)
	if err != nil || len(services) != 1 {
		t.Fatalf("%+v, %v", services, err)
	}
	s := services[0]
	replicas, all := 0, 0
	for _, c := range s.Classes {
		replicas += c.Replicas
		all += c.Slots
	}
	if s.Queued != queued || s.Active != active || replicas != 2 || float64(all) != slots {
		t.Errorf("aliquot top shows %+v", s)
	}
}

// metric sums a metric over all gateways and those labels that hold a text.
func (f *Fleet) metric(ctx context.Context, t *testing.T, name, label string) (sum float64) {
	t.Helper()
	line := regexp.MustCompile(`(?m)^aliquot_gateway_` + name + `(\{.*\})? (\S+)$`)
	for _, g := range f.Gateways {
		text, err := g.get(ctx, "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range line.FindAllStringSubmatch(string(text), -1) {
			v, err := strconv.ParseFloat(m[2], 64)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(m[1], label) {
				sum += v
			}
		}
	}
	return sum
}

// used waits until the gateways together have counted so many requests of a tenant, with all their
// tokens, in their usage and in their metrics.
func (f *Fleet) used(ctx context.Context, t *testing.T, tenant string, requests int64) {
	t.Helper()
	want := api.TenantUsage{Service: Service, Tenant: tenant, Requests: requests, Prompt: requests * promptTokens, Output: requests * outputTokens}
	err := Await(ctx, "usage", func() string {
		sum := api.TenantUsage{Service: Service, Tenant: tenant}
		for _, g := range f.Gateways {
			var u api.Usage
			if err := g.read(ctx, "/v1/usage", &u); err != nil {
				return err.Error()
			}
			for _, one := range u.Usage {
				if one.Tenant == tenant {
					sum.Requests += one.Requests
					sum.Prompt += one.Prompt
					sum.Output += one.Output
				}
			}
		}
		if sum != want {
			return fmt.Sprintf("%+v, want %+v", sum, want)
		}
		if got := f.metric(ctx, t, "tokens_total", `tenant="`+tenant+`"`); got != float64(requests*(promptTokens+outputTokens)) {
			return fmt.Sprintf("the metrics add up to %g tokens of %d requests", got, requests)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
}

// metered sends requests to all gateways in turn until a tenant has used up its tokens at all of
// them.
func (f *Fleet) metered(ctx context.Context, t *testing.T) {
	const each = promptTokens + outputTokens
	began := time.Now()
	served, refused := int64(0), 0
	for i := 0; refused < len(f.Gateways) && served < 10*perMinute/each; i++ {
		switch status, _ := f.Gateways[i%len(f.Gateways)].complete(ctx, t, "metered", "hello"); status {
		case http.StatusOK:
			served, refused = f.charged(ctx, t, "metered", served+1, began), 0
			f.used(ctx, t, "metered", served)
		case http.StatusTooManyRequests:
			refused++
		default:
			t.Fatalf("status %d", status)
		}
	}
	// An account fills up continuously, and a request can cost more than the estimate that let it
	// in.
	most := int64(perMinute*(1+time.Since(began).Minutes()))/each + 1
	if refused < len(f.Gateways) || served < perMinute/each-1 || served > most {
		t.Errorf("%d requests of %d tokens were served within %d tokens per minute, want at most %d", served, each, perMinute, most)
	}
}

// charged waits until every gateway has charged so many requests of a tenant, and returns how many
// were served by then. It asks with a prompt of more tokens than a minute's: a gateway admits it
// only while the tenant's account is full, and otherwise says what is left.
func (f *Fleet) charged(ctx context.Context, t *testing.T, tenant string, served int64, began time.Time) int64 {
	t.Helper()
	long := strings.Repeat("hello ", 10*perMinute)
	err := Await(ctx, "every gateway charges what was used", func() string {
		for _, g := range f.Gateways {
			status, header := g.complete(ctx, t, tenant, long)
			if status == http.StatusOK {
				served++
				return fmt.Sprintf("gateway %d has charged nothing", g.Index)
			}
			left, err := strconv.ParseFloat(header.Get("X-Ratelimit-Remaining-Tokens"), 64)
			if err != nil {
				return fmt.Sprintf("gateway %d answers %d: %v", g.Index, status, err)
			}
			used := float64(served * (promptTokens + outputTokens))
			if most := max(0, perMinute-used) + perMinute*time.Since(began).Minutes(); left > most {
				return fmt.Sprintf("gateway %d has %g tokens left after %g were used", g.Index, left, used)
			}
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	return served
}
