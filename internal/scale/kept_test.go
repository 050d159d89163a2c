package scale

import (
	"strings"
	"testing"
)

// A response may take longer than the time after which a service without requests is idle, and
// requests without a promise are not in the arrivals.
func TestAServiceIsNotIdleWhileItServesOrRequestsWait(t *testing.T) {
	c := promised()
	c.Classes = c.Classes[:1]
	idle := came(flat(0, 1200))
	idle.Current = 3
	if d := c.Decide(idle); d.Count != 0 || !d.Need.Idle {
		t.Fatalf("without a request: %d (%s)", d.Count, d.Reason)
	}
	serving, waiting, short := idle, idle, idle
	serving.Series = flat(6, 1200)
	waiting.Traffic = &Traffic{Arrived: flat(0, 1200), Met: flat(0, 1200), Missed: flat(0, 1200), Waiting: 5}
	short.Series = flat(0, 100)
	for name, e := range map[string]Evaluation{"it serves": serving, "requests wait": waiting, "what it served is not known": short} {
		if d := c.Decide(e); d.Count != 1 || d.Need.Idle {
			t.Errorf("%s: %d (%s), want the last replica kept", name, d.Count, d.Reason)
		}
	}
	served := serving
	served.Series = append(flat(6, 600), flat(0, 600)...)
	if d := c.Decide(served); d.Count != 0 {
		t.Errorf("after the last answer: %d (%s)", d.Count, d.Reason)
	}
}

// Requests without a promise keep the replica that the gateway started for them, and order no
// other.
func TestRequestsWithoutAPromiseKeepWhatWasStarted(t *testing.T) {
	c := promised()
	for own := range c.Classes {
		c.Own = own
		e := came(flat(0, 1200))
		e.Series = append(flat(0, 1198), 40, 40)
		e.Traffic.Waiting = 40
		for current, want := range map[int]int{0: 0, 1: 1, 4: 1} {
			e.Current = current
			if d := c.Decide(e); d.Count != want {
				t.Errorf("%s, of %d: %d (%s), want %d", c.Classes[own].Name, current, d.Count, d.Reason, want)
			}
		}
	}
}

// The gateway wakes a service with a class that it chooses, which may not be in the plan.
func TestWhatWokeAServiceServesBeforeItGoes(t *testing.T) {
	c := promised()
	cold := steps(c.Policy.ColdStart)
	for _, since := range []int{1, cold, cold + 1, 500} {
		e := came(append(flat(0, 1200-since), flat(0.3, since)...))
		e.Series = e.Traffic.Arrived
		e.Current = 1
		d := c.Decide(e)
		if d.Plan[0] != 0 || d.Plan[1] == 0 {
			t.Fatalf("the plan is %v, so that this test shows nothing", d.Plan)
		}
		if want := map[bool]int{true: 1, false: 0}[since <= cold]; d.Count != want {
			t.Errorf("%d s after: %d of h100 (%s), want %d", since, d.Count, d.Reason, want)
		}
	}
}

// The count by demand is unrelated to the count by the objective. One missing answer must not end
// replicas that the next answer orders again.
func TestAnAnswerThatIsMissingEndsNothing(t *testing.T) {
	c := promised()
	c.Classes = c.Classes[:1]
	c.Classes[0].Slots = 64
	e := came(flat(8, 1200))
	e.Series, e.Current = flat(40, 1200), 5
	missing := e
	missing.Traffic, missing.Unknown = nil, "no gateway answers"
	if d := c.Policy.decide(e.Series, c.Classes, 0, 5); d.Count >= 5 {
		t.Fatalf("demand keeps %d, so that this test shows nothing", d.Count)
	}
	d := c.Decide(missing)
	if d.Count != 5 || !strings.Contains(d.Reason, "holding 5") || d.Note != "the count follows demand and only grows, because no gateway answers" {
		t.Errorf("one missing: %d (%s; %s)", d.Count, d.Reason, d.Note)
	}
	missing.Series = flat(400, 1200)
	if d := c.Decide(missing); d.Count <= 5 {
		t.Errorf("more demand meanwhile: %d (%s)", d.Count, d.Reason)
	}
	missing.Series = flat(0, 1200)
	if d := c.Decide(missing); d.Count != 0 {
		t.Errorf("idle: %d (%s)", d.Count, d.Reason)
	}
	// A curve that was never learned is not a missing answer.
	c.Classes[0].Serving = nil
	if d := c.Decide(e); d.Count >= 5 {
		t.Errorf("never learned: %d (%s)", d.Count, d.Reason)
	}
}

func TestServingMoved(t *testing.T) {
	was := map[string]Serving{"a": {Concurrency: 4, Rate: 2}}
	for name, c := range map[string]struct {
		to   Serving
		want bool
	}{
		"the same": {Serving{Concurrency: 4, Rate: 2}, false}, "a little": {Serving{Concurrency: 5, Rate: 2.1}, false}, "more": {Serving{Concurrency: 5, Rate: 2.3}, true},
		"less": {Serving{Concurrency: 3, Rate: 1.7}, true}, "it misses": {Serving{Rate: 2}, true},
	} {
		if got := ServingMoved(was, map[string]Serving{"a": c.to}); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if !ServingMoved(was, map[string]Serving{"a": was["a"], "b": {Rate: 1}}) || ServingMoved(was, nil) {
		t.Error("a class that becomes known, or whose speed is not learned again")
	}
}
