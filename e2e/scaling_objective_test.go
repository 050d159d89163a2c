package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"aliquot.example/e2e/cluster"
	"aliquot.example/internal/api"
	"aliquot.example/internal/learned"
)

// What the services of this test promise, in the gateway's words. The engines are a tenth
// as fast as the GPUs that they compute.
const (
	promised   = "ttft = \"4s\"\n    tpot = \"600ms\""
	impossible = "ttft = \"1ms\""
)

// objective keeps what a service promises on an H100 and a T4 through a ramp and a step,
// and says what cannot be promised.
func (s *scaling) objective(ctx context.Context, t *testing.T) {
	type class struct {
		Slices int `json:"slices"`
		Slots  int `json:"slots"`
		Cost   int `json:"cost"`
		Max    int `json:"max"`
	}
	classes := map[string]class{"h100": {5, 8, 8, 4}, "t4": {5, 8, 3, 4}}
	vars := func(objective string, classes map[string]class) cluster.Vars {
		strategy := maps.Clone(soon)
		if objective != "" {
			strategy["objective"] = objective
		}
		args := []string{"-engine", "grant", "-speedup", "0.1", "-slots", "8"}
		return cluster.Vars{"args": args, "classes": classes, "strategy": strategy, "query_window": "30s"}
	}
	// An objective leaves out a class that has never served, and beside the fast class the
	// slow one may not serve at all: each is measured alone first, by demand.
	for _, name := range []string{"t4", "h100"} {
		s.serve(ctx, t, twoClassesJob, "promise", vars("", map[string]class{name: classes[name]}))
		stop := s.work(ctx, t, "promise", 40, answerTokens)
		s.awaitCurves(ctx, t, "promise", name)
		stop()
	}
	stop := s.work(ctx, t, "promise", 40, answerTokens)
	defer stop()
	s.serve(ctx, t, twoClassesJob, "promise", vars("ttft=4s tpot=600ms quantile=0.9", classes))
	s.awaitReason(ctx, t, "promise", "by the objective")
	stop()
	s.awaitCount(ctx, t, "promise", "h100", 0, time.Minute)
	s.awaitCount(ctx, t, "promise", "t4", 0, time.Minute)
	began := time.Now()
	rates := []float64{1, 2, 3, 4, 5, 6, 6, 10, 10} // each for 5 s: a ramp, and a step
	s.arrive(ctx, t, "promise", rates, 5*time.Second)
	met, missed := s.attained(ctx, t, "promise", began)
	counts, at := changes(s.group("promise", "h100"), began)
	t.Logf("h100: counts %v set %v after the ramp's start", counts, since(at, began))
	counts, at = changes(s.group("promise", "t4"), began)
	t.Logf("t4: counts %v set %v after the ramp's start", counts, since(at, began))
	t.Logf("%d of %d requests within the objective", met, met+missed)
	if met+missed < 200 || float64(met) < 0.9*float64(met+missed) {
		t.Errorf("%d of %d requests were within the objective, want 90%%", met, met+missed)
	}

	s.serve(ctx, t, twoClassesJob, "miracle", vars("ttft=1ms quantile=0.9", classes))
	stop = s.work(ctx, t, "miracle", many, answerTokens)
	s.awaitCurves(ctx, t, "miracle", "h100")
	stop()
	stop = s.work(ctx, t, "miracle", 6, answerTokens)
	defer stop()
	s.awaitReason(ctx, t, "miracle", "cannot be met")
	s.awaitEvaluations(ctx, t, "miracle", 2*int(window/time.Second))
	if h100, t4 := s.group("miracle", "h100").Desired, s.group("miracle", "t4").Desired; h100+t4 >= 8 {
		t.Errorf("an impossible objective ordered all devices: %d of h100 and %d of t4", h100, t4)
	}
}

const (
	// answerTokens is the length of an answer.
	answerTokens = 16
	// many requests at once wait for longer than the slower class takes, so that it serves.
	many = 400
)

// arrive sends requests at those rates per second, each for a time, and awaits their ends.
func (s *scaling) arrive(ctx context.Context, t *testing.T, service string, rates []float64, each time.Duration) {
	var wait sync.WaitGroup
	defer wait.Wait()
	next := time.Now()
	for _, rate := range rates {
		for end := next.Add(each); next.Before(end); next = next.Add(time.Duration(float64(time.Second) / rate)) {
			timer := time.NewTimer(time.Until(next))
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
			wait.Go(func() { s.request(ctx, t, service, answerTokens) })
		}
	}
}

// attained counts the requests that ended since a time, within the objective and not.
func (s *scaling) attained(ctx context.Context, t *testing.T, service string, from time.Time) (met, missed int) {
	t.Helper()
	found, _, err := s.c.Consul.Health().Service("aliquot-gateway", "", true, nil)
	if err != nil || len(found) != 1 {
		t.Fatalf("%d gateways, %v", len(found), err)
	}
	var answer api.Concurrency
	response, err := http.Get("http://" + found[0].Service.Meta[api.MetaAdmin] + "/v1/services/" + service + "/concurrency?window=10m")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	for _, p := range answer.Series {
		if p.Tokens != nil && p.Time >= from.Unix() {
			met += p.Tokens.Met
			missed += p.Tokens.Missed
		}
	}
	return met, missed
}

// awaitCurves awaits that the gateway has published curves of the classes that are believed.
func (s *scaling) awaitCurves(ctx context.Context, t *testing.T, service string, classes ...string) {
	t.Helper()
	err := cluster.AwaitWithin(ctx, 2*time.Minute, "curves of "+service, func() string {
		pairs, _, err := s.c.Consul.KV().List("aliquot/rates/"+service+"/", nil)
		if err != nil || len(pairs) == 0 {
			return fmt.Sprintf("%d keys, %v", len(pairs), err)
		}
		doc, errs := learned.ParseRates(pairs[0].Value)
		for _, class := range classes {
			known := false
			for _, curve := range doc.Classes[class].Tokens {
				known = known || curve.Samples >= 8
			}
			if !known {
				return fmt.Sprintf("there is %s, %v", pairs[0].Value, errs)
			}
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
}

// awaitReason awaits that a count was set with words in its reason.
func (s *scaling) awaitReason(ctx context.Context, t *testing.T, job, words string) {
	t.Helper()
	err := cluster.AwaitWithin(ctx, time.Minute, fmt.Sprintf("a reason with %q for %s", words, job), func() string {
		var seen []string
		for _, group := range []string{"h100", "t4"} {
			for _, event := range s.group(job, group).Events {
				seen = append(seen, event.Message)
			}
		}
		if slices.ContainsFunc(seen, func(m string) bool { return strings.Contains(m, words) }) {
			return ""
		}
		return strings.Join(seen, "; ")
	})
	if err != nil {
		t.Fatal(err)
	}
}
