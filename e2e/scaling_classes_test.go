package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"aliquot.example/autoscaler-plugin/speed"
	"aliquot.example/e2e/cluster"
)

// twoClasses scales a service on an H100 and a T4, before and after the gateway has
// measured that a slot of the T4 serves about a sixteenth of one of the H100.
func (s *scaling) twoClasses(ctx context.Context, t *testing.T) {
	type class struct {
		Slices int `json:"slices"`
		Slots  int `json:"slots"`
		Cost   int `json:"cost"`
		Max    int `json:"max"`
	}
	s.serve(ctx, t, twoClassesJob, "mix", cluster.Vars{"args": []string{"-slots", "8"}, "classes": map[string]class{"h100": {5, 8, 8, 4}, "t4": {5, 2, 1, 4}}})
	s.awaitEvaluations(ctx, t, "mix", 2*int(window/time.Second))
	// 6 requests at 90% utilisation need 7 slots: 4 x 2 of t4 cost 4, 8 of h100 cost 8.
	// They end, so that the speed of t4 is measured, which alone says nothing yet.
	stopFew := s.work(ctx, t, "mix", 6, 20)
	defer stopFew()
	s.awaitCount(ctx, t, "mix", "t4", 4, 30*time.Second)
	if got := s.group("mix", "h100").Desired; got != 0 {
		t.Errorf("6 requests: %d of h100, want the cheaper t4 alone", got)
	}
	s.awaitSamples(ctx, t)
	stopFew()
	// 20 need 23: all of t4 and 2 of h100 cost 20, 3 of h100 cost 24.
	stopMore := s.load(ctx, t, "mix", 20)
	defer stopMore()
	s.awaitCount(ctx, t, "mix", "h100", 2, 30*time.Second)
	if _, err := s.c.AwaitRunning(ctx, "mix", 6); err != nil {
		t.Fatal(err)
	}
	s.awaitEvaluations(ctx, t, "mix", 6)
	if h100, t4 := s.group("mix", "h100").Desired, s.group("mix", "t4").Desired; h100 != 2 || t4 != 4 {
		t.Errorf("20 requests: %d of h100 and %d of t4, want 2 and 4", h100, t4)
	}
	stopMore()
	s.measured(ctx, t)
	s.awaitCount(ctx, t, "mix", "h100", 0, 60*time.Second)
	s.awaitCount(ctx, t, "mix", "t4", 0, 60*time.Second)
}

// measured serves requests that end by the H100, too. 18 in flight then need 20 of its
// slots, which all of t4 and 2 of h100 would offer by number, and only 3 of h100 do by
// speed.
func (s *scaling) measured(ctx context.Context, t *testing.T) {
	began := time.Now()
	stop := s.work(ctx, t, "mix", 18, 20)
	defer stop()
	s.awaitSpeeds(ctx, t)
	s.awaitCount(ctx, t, "mix", "h100", 3, 60*time.Second)
	s.awaitCount(ctx, t, "mix", "t4", 0, 60*time.Second)
	s.awaitEvaluations(ctx, t, "mix", 6)
	if h100, t4 := s.group("mix", "h100").Desired, s.group("mix", "t4").Desired; h100 != 3 || t4 != 0 {
		t.Errorf("18 requests, by measured speed: %d of h100 and %d of t4, want 3 and 0", h100, t4)
	}
	told := false
	for _, group := range []string{"h100", "t4"} {
		for _, event := range s.group("mix", group).Events {
			if when := time.Unix(0, int64(event.Time)); event.Count != nil && when.After(began) {
				t.Logf("%s set to %d %v after: %s", group, *event.Count, when.Sub(began).Round(time.Millisecond), event.Message)
				told = told || strings.Contains(event.Message, "speed per slot: h100 1, t4 0.0")
			}
		}
	}
	if !told {
		t.Error("no change of a count tells of the speeds")
	}
	t.Run("on the page", func(t *testing.T) { s.page(ctx, t) })
}

// awaitSamples awaits that the gateway has measured t4 often enough to be believed.
func (s *scaling) awaitSamples(ctx context.Context, t *testing.T) {
	t.Helper()
	err := cluster.AwaitWithin(ctx, 90*time.Second, "samples of t4", func() string {
		pairs, _, err := s.c.Consul.KV().List("aliquot/rates/mix/", nil)
		if err != nil || len(pairs) == 0 {
			return fmt.Sprintf("%d keys, %v", len(pairs), err)
		}
		var doc struct {
			Classes map[string]struct {
				N float64 `json:"n"`
			} `json:"classes"`
		}
		if err := json.Unmarshal(pairs[0].Value, &doc); err != nil || doc.Classes["t4"].N < 10 {
			return fmt.Sprintf("there is %s, %v", pairs[0].Value, err)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
}

// awaitSpeeds awaits that both classes are counted by what was measured.
func (s *scaling) awaitSpeeds(ctx context.Context, t *testing.T) {
	t.Helper()
	err := cluster.AwaitWithin(ctx, 90*time.Second, "speeds of both classes", func() string {
		pair, _, err := s.c.Consul.KV().Get("aliquot/speed/mix", nil)
		if err != nil || pair == nil {
			return fmt.Sprintf("there is no key, %v", err)
		}
		var doc speed.Document
		if err := json.Unmarshal(pair.Value, &doc); err != nil || doc.Rates["h100"] <= 0 || doc.Rates["t4"] <= 0 {
			return fmt.Sprintf("there is %s, %v", pair.Value, err)
		}
		t.Logf("requests per second and slot: %v", doc.Rates)
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
}
