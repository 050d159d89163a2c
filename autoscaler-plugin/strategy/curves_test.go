package strategy

import (
	"strings"
	"testing"
	"time"

	"aliquot.example/internal/learned"
)

// A class that no longer meets the objective is dropped only after the class that replaces it has
// had time to start.
func TestAClassThatIsDroppedServesUntilAnotherDoes(t *testing.T) {
	c := startChat(t)
	set := func(class string) map[string]string {
		return map[string]string{"class": class, "classes": "h100 slots=8 cost=50 max=8, l4 slots=4 cost=1 max=8", "objective": "ttft=2s tpot=100ms", "coldstart": "90s"}
	}
	expect := func(when, class string, count, want int64, reason string) {
		t.Helper()
		c.count = count
		a, err := c.run("tokens service=chat", set(class))
		if err != nil || a.Count != want || !strings.Contains(a.Reason, reason) {
			t.Fatalf("%s, %s: %+v, %v; want %d, %q", when, class, a, err, want, reason)
		}
	}
	later := func(d time.Duration) { c.now = c.now.Add(d) }
	c.learn(map[string]learned.Curve{"h100": fast, "l4": slow})
	expect("after a start of the plugin", "h100", 2, 2, "holding 2: ")
	later(91 * time.Second)
	expect("one cold start later", "h100", 2, 0, "by the objective")
	c.count = 0
	a, err := c.run("tokens service=chat", set("l4"))
	if err != nil || a.Count == 0 {
		t.Fatalf("the plan has no l4: %+v, %v", a, err)
	}
	serving := a.Count
	// A small change has no effect.
	little := slow
	little.Prefill *= 1.05
	c.learn(map[string]learned.Curve{"h100": fast, "l4": little})
	expect("a little slower", "l4", serving+2, serving, "by the objective")

	missing := slow
	missing.A = 0.2
	c.learn(map[string]learned.Curve{"h100": fast, "l4": missing})
	expect("it misses the objective", "l4", serving, serving, "holding")
	expect("it misses the objective", "h100", 0, 1, "growing")
	later(80 * time.Second)
	expect("the other starts", "l4", serving, serving, "holding")
	later(11 * time.Second)
	expect("the other serves", "l4", serving, 0, "by the objective")
	// The last curves stay in force while Consul is away.
	c.stop()
	expect("without Consul", "h100", 1, 1, "by the objective")
}

// While gateways do not answer, it is unknown how many replicas must stay awake.
func TestNothingIsPutToSleepWhileAnAnswerIsMissing(t *testing.T) {
	c := startChat(t)
	c.learn(map[string]learned.Curve{"h100": fast})
	settings := map[string]string{"slots": "64", "objective": "ttft=2s tpot=100ms", "sleep": "2"}
	c.count = 5
	if a, err := c.run("concurrency service=chat", settings); err != nil || c.awakeCalls.Load() != 1 || a.Count != 3 {
		t.Fatalf("told %d times, %+v, %v; want once, and 3", c.awakeCalls.Load(), a, err)
	}
	c.down = true
	if a, err := c.run("concurrency service=chat", settings); err != nil || c.awakeCalls.Load() != 1 || a.Count != 5 {
		t.Errorf("told %d times, %+v, %v; want once, and 5", c.awakeCalls.Load(), a, err)
	}
}
