package scale

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseObjective(t *testing.T) {
	for text, want := range map[string]Objective{
		"ttft=2s tpot=100ms quantile=0.95": {TTFT: 2 * time.Second, TPOT: 100 * time.Millisecond, Quantile: 0.95},
		" e2e=1m ":                         {E2E: time.Minute, Quantile: 0.99},
	} {
		got, err := ParseObjective(text)
		if err != nil || got != want {
			t.Errorf("%q: got %+v, %v", text, got, err)
		}
		if again, err := ParseObjective(got.String()); err != nil || again != got {
			t.Errorf("%q is written as %q, which is %+v, %v", text, got, again, err)
		}
	}
	for text, want := range map[string]string{
		"":                   `want "ttft=2s`,
		"quantile=0.9":       `want "ttft=2s`,
		"ttft=0":             "from 1ms to 1h",
		"ttft=2":             "from 1ms to 1h",
		"ttft=2s ttft=3s":    "is given twice",
		"ttft=2s p99":        "unknown word",
		"tpot=1s quantile":   "from 0.5 to 0.9999",
		"tpot=1s quantile=1": "from 0.5 to 0.9999",
	} {
		if _, err := ParseObjective(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

// promised returns a config whose h100 serves 2 requests per second, and whose l4 serves half a
// request per second at a fifth of the cost.
func promised() Config {
	return Config{Policy: Default(), Objective: &Objective{TTFT: 2 * time.Second, Quantile: 0.99}, Classes: []Class{
		{Name: "h100", Cost: 5, Max: 8, Serving: &Serving{Concurrency: 20, Rate: 2, First: 0.2, Token: 0.02}},
		{Name: "l4", Cost: 1, Max: 8, Serving: &Serving{Concurrency: 5, Rate: 0.5, First: 0.8, Token: 0.05}},
	}}
}

func came(arrived []float64) Evaluation {
	return Evaluation{Series: flat(0, len(arrived)), SpeedsFor: Always, Traffic: &Traffic{Arrived: arrived, Met: arrived, Missed: flat(0, len(arrived))}}
}

func TestTheCheapestMixThatHoldsTheObjective(t *testing.T) {
	c := promised()
	for rate, want := range map[float64][2]int{0: {0, 0}, 1: {0, 3}, 3: {0, 7}, 5: {1, 8}, 100: {8, 8}} {
		d := c.Decide(came(flat(rate, 1200)))
		if got := [2]int{d.Plan[0], d.Plan[1]}; got != want {
			t.Errorf("%v a second: %v (%s), want %v", rate, got, d.Reason, want)
		}
	}
	d := c.Decide(came(flat(100, 1200)))
	if !strings.Contains(d.Reason, "the objective needs more devices than the classes allow: ") || !strings.Contains(d.Reason, "more replicas of h100; ") {
		t.Errorf("too much for all devices: %s", d.Reason)
	}
	if d := c.Decide(came(flat(3, 1200))); !strings.HasPrefix(d.Reason, "by the objective, 100.0% within, steady") && !strings.HasPrefix(d.Reason, "by the objective, 100.0% within, growing") {
		t.Errorf("the reason is %q", d.Reason)
	}
}

// If something is unknown, the reason says so and the count follows demand.
func TestAnUnknownSpeedIsNoObjective(t *testing.T) {
	c := promised()
	c.Classes[0].Slots, c.Classes[1].Slots = 8, 2
	for want, change := range map[string]func(*Config, *Evaluation){
		"the speed of h100 and of l4 is not known yet": func(c *Config, _ *Evaluation) { c.Classes[0].Serving, c.Classes[1].Serving = nil, nil },
		"the gateways' traffic is not known":           func(_ *Config, e *Evaluation) { e.Traffic = nil },
		"no gateway answers":                           func(_ *Config, e *Evaluation) { e.Traffic, e.Unknown = nil, "no gateway answers" },
	} {
		c, e := c, came(flat(3, 1200))
		c.Classes = append([]Class(nil), c.Classes...)
		e.Series = flat(9, 1200)
		change(&c, &e)
		d := c.Decide(e)
		plain := c.Policy.decide(e.Series, c.Classes, 0, 0)
		if d.Count != plain.Count || !strings.HasPrefix(d.Reason, "by demand, because "+want+": ") {
			t.Errorf("%s: %d (%s), want %d", want, d.Count, d.Reason, plain.Count)
		}
	}
	// If only one class is known, the plan uses only that class.
	alone := c
	alone.Classes = []Class{c.Classes[0], {Name: "l4", Cost: 1, Max: 8}}
	if d := alone.Decide(came(flat(3, 1200))); d.Plan[0] != 2 || d.Plan[1] != 0 || !strings.Contains(d.Reason, "the plan leaves out l4: not measured yet; growing") {
		t.Errorf("with l4 unknown: %v (%s)", d.Plan, d.Reason)
	}
	// An assumed class gets at most one replica, and changes nothing else.
	assumed := c
	assumed.Classes = append([]Class(nil), c.Classes...)
	assumed.Classes[1].Assumed = true
	if d := assumed.Decide(came(flat(2, 1200))); d.Plan[1] != 1 || d.Plan[0] != 1 ||
		!strings.Contains(d.Reason, "l4 may have one replica until measured (speed from the hardware table); growing") {
		t.Errorf("with l4 assumed: %v (%s)", d.Plan, d.Reason)
	}
	assumed.Classes[0].Serving = &Serving{Concurrency: 0, Rate: 2, First: 3, Token: 0.02}
	if d := assumed.Decide(came(flat(3, 1200))); !strings.Contains(d.Reason, "the objective cannot be met") || d.Plan[0] == 0 {
		t.Errorf("with an assumption against what is measured: %v (%s)", d.Plan, d.Reason)
	}
	// An assumption alone is not enough for a plan.
	assumed.Classes[0].Max = 0
	if d := assumed.Decide(came(flat(3, 1200))); !strings.HasPrefix(d.Reason, "by demand, because the speed of l4 is not known yet") {
		t.Errorf("with an assumption and nothing else: %v (%s)", d.Plan, d.Reason)
	}
	// A class without devices may be unknown.
	c.Classes[1].Serving, c.Classes[1].Max = nil, 0
	if d := c.Decide(came(flat(3, 1200))); !strings.HasPrefix(d.Reason, "by the objective") {
		t.Errorf("with l4 unknown and no devices of it: %s", d.Reason)
	}
}

// If no replica meets the objective, the reason says what a request takes. Replicas are still
// ordered for the arrivals, but not for every burst.
func TestAnImpossibleObjectiveOrdersNotAllThereIs(t *testing.T) {
	c := promised()
	for i := range c.Classes {
		c.Classes[i].Serving.Concurrency = 0
	}
	bursts := flat(1, 1200)
	for i := range 100 {
		bursts[12*i] = 7 // every 12 s, 1.5 per second on average
	}
	e := came(bursts)
	e.Traffic.Met, e.Traffic.Missed = e.Traffic.Missed, e.Traffic.Met
	d := c.Decide(e)
	if !strings.Contains(d.Reason, "cannot be met: an average request alone on h100 takes 0.2s to the first token and 0.02s") {
		t.Errorf("the reason is %q", d.Reason)
	}
	if need := d.Need.Demand; need > 2 {
		t.Errorf("it orders %v replicas of h100 for what 0.75 serve: %v", need, d.Plan)
	}
	// If another class meets it, the plan uses only that class.
	c.Classes[0].Serving.Concurrency = 20
	if d := c.Decide(came(flat(1.5, 1200))); d.Plan[0] != 1 || d.Plan[1] != 0 || strings.Contains(d.Reason, "cannot be met") {
		t.Errorf("with h100 alone able: %v (%s)", d.Plan, d.Reason)
	}
}

// More arrivals, waiting requests or misses never reduce the need. The need is at least the average
// arrivals.
func TestWhatIsNeededGrowsWithWhatComesWaitsAndMisses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := promised()
		arrived := rapid.SliceOfN(rapid.Float64Range(0, 5), 30, 700).Draw(t, "arrived")
		e := came(arrived)
		e.Traffic.Waiting = rapid.Float64Range(0, 20).Draw(t, "waiting")
		is := c.Decide(e).Need
		more := e
		traffic := *e.Traffic
		more.Traffic = &traffic
		switch rapid.SampledFrom([]string{"comes", "waits", "misses"}).Draw(t, "more of what") {
		case "comes":
			traffic.Arrived = scaled(arrived, rapid.Float64Range(1, 3).Draw(t, "times"))
		case "waits":
			traffic.Waiting += rapid.Float64Range(0, 20).Draw(t, "more")
		case "misses":
			traffic.Met, traffic.Missed = traffic.Missed, traffic.Met
		}
		if got := c.Decide(more).Need.Demand; got < 0.98*is.Demand {
			t.Fatalf("more makes %v of %v", got, is.Demand)
		}
		c.Policy.ForecastWindow = 0
		if got := c.Decide(e).Need.Demand; got > margin*5/2+20 {
			t.Fatalf("%v replicas of h100 for at most 5 a second", got)
		}
	})
}

// A burst of less than the allowed part of the requests is not planned for; a longer one is.
func TestTheQuantileDecidesWhichBurstsCount(t *testing.T) {
	c := promised()
	c.Policy.ForecastWindow = 0
	demand := func(burst int) float64 {
		series := flat(1, 1200)
		for i := range burst {
			series[1100+i] = 4
		}
		return c.Decide(came(series)).Need.Demand
	}
	if none, short, long := demand(0), demand(1), demand(60); short > 1.5*none || long < 1.5*none {
		t.Errorf("without a burst %v, with one of a second %v, of a minute %v", none, short, long)
	}
}

func BenchmarkPromise(b *testing.B) {
	c := promised()
	series := make([]float64, 900)
	for i := range series {
		series[i] = float64(i*7919%13) / 4
	}
	e := came(series)
	for b.Loop() {
		c.Decide(e)
	}
}

// Noise in the arrivals does not order replicas ahead. A steady rise does, long before its load is
// there.
func TestArrivalsForecastARiseAndNoNoise(t *testing.T) {
	c := promised()
	c.Classes = c.Classes[:1]
	c.Policy.ColdStart = 5 * time.Minute
	random := rand.New(rand.NewPCG(1, 1))
	poisson := func(rate func(i int) float64) []float64 {
		out := make([]float64, 900)
		for i := range out {
			for left := random.ExpFloat64(); left < rate(i); left += random.ExpFloat64() {
				out[i]++
			}
		}
		return out
	}
	orders, forecasts := 0, 0
	for range 150 {
		d := c.Decide(came(poisson(func(int) float64 { return 4 })))
		if d.Need.Forecast > d.Need.Stable {
			forecasts++
		}
		d = c.Decide(came(poisson(func(i int) float64 { return 2 + 8*max(0, float64(i-720)/180) })))
		if d.Need.Forecast > 1.5*d.Need.Stable {
			orders++
		}
	}
	if forecasts > 2 {
		t.Errorf("%d of 150 even services are expected to grow, at most 2 should be", forecasts)
	}
	if orders < 130 {
		t.Errorf("after 3 minutes of a rise %d of 150 services are expected to have half as much again in 5 minutes, at least 130 should be", orders)
	}
}

// A service that misses as much as it may is corrected slightly. One that misses far less is not.
func TestACorrectionKeepsClearOfTheObjective(t *testing.T) {
	for missed, want := range map[float64]bool{0: false, 7: false, 10: true, 30: true} {
		traffic := Traffic{Met: []float64{1000 - missed}, Missed: []float64{missed}}
		if got := traffic.correction(0.01); got > 1 != want || got > 1.6 {
			t.Errorf("of 1,000 requests %v missed, 10 allowed: %v times as much", missed, got)
		}
	}
}
