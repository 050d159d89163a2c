package simulate

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aliquot.example/internal/scale"
)

// fixed is a scaler that wants the same counts from a given time.
type fixed struct {
	counts []int
	from   time.Duration
	until  time.Duration
}

func (f fixed) Interval() time.Duration { return time.Second }
func (f fixed) Decide(o Observation) []int {
	if o.Now < f.from || f.until > 0 && o.Now >= f.until {
		return slices.Repeat([]int{0}, len(f.counts))
	}
	return f.counts
}

func requests(service time.Duration, at ...float64) (out []Request) {
	for _, s := range at {
		out = append(out, Request{At: time.Duration(s * float64(time.Second)), Service: service})
	}
	return out
}

func TestWaitsAreThoseOfOneQueue(t *testing.T) {
	// One replica with one slot, 2 s per request: the third request waits for two others.
	class := Class{Slots: 1, Speed: 1, Cost: 3, Initial: 1}
	r := Run(Config{Classes: []Class{class}}, requests(2*time.Second, 0, 0.5, 1, 9), fixed{counts: []int{1}})
	want := []time.Duration{0, 1500 * time.Millisecond, 3 * time.Second, 0}
	if !slices.Equal(r.Waits, want) {
		t.Errorf("waits %v, want %v", r.Waits, want)
	}
	s := Summarize(r, []Class{class})
	if s.ReplicaHours[0] != 11.0/3600 || s.Cost != 33.0/3600 || s.Over1 != 0.5 || s.Over10 != 0 || s.Max != 3*time.Second {
		t.Errorf("summary %+v", s)
	}
	if d := r.Timeline[0].Demand; d != 1.5 { // one request over the whole second, one over half of it
		t.Errorf("demand in the first second %v, want 1.5", d)
	}
}

func TestAColdStartIsWaitedForAndPaidFor(t *testing.T) {
	class := Class{Slots: 4, Speed: 2, Cost: 1, ColdStart: 10 * time.Second}
	r := Run(Config{Classes: []Class{class}}, requests(4*time.Second, 0.5, 1.5), fixed{counts: []int{1}})
	// Decided at 1 s, ready at 11 s, served in 2 s at twice the speed.
	if want := []time.Duration{10500 * time.Millisecond, 9500 * time.Millisecond}; !slices.Equal(r.Waits, want) {
		t.Errorf("waits %v, want %v", r.Waits, want)
	}
	if r.ReplicaTime[0] != 12*time.Second {
		t.Errorf("replica time %v, want 12s", r.ReplicaTime[0])
	}
}

func TestTheFastestFreeSlotServes(t *testing.T) {
	classes := []Class{{Slots: 1, Speed: 1, Initial: 1}, {Slots: 1, Speed: 4, Initial: 1}}
	r := Run(Config{Classes: classes}, requests(4*time.Second, 0, 2, 2), fixed{counts: []int{1, 1}})
	if r.Length != 6*time.Second { // the slow one serves the third request from 2 s to 6 s
		t.Errorf("ended after %v, want 6s", r.Length)
	}
}

func TestABusyReplicaFinishesBeforeItStops(t *testing.T) {
	class := Class{Slots: 1, Speed: 1, Initial: 1}
	r := Run(Config{Classes: []Class{class}}, requests(5*time.Second, 0.5), fixed{counts: []int{1}, until: 2 * time.Second})
	if r.Waits[0] != 0 || r.ReplicaTime[0] != 5500*time.Millisecond {
		t.Errorf("wait %v, replica time %v, want none and 5.5s", r.Waits[0], r.ReplicaTime[0])
	}
}

// follow is a scaler that wants one replica per request in the system.
type follow struct{}

func (follow) Interval() time.Duration    { return time.Second }
func (follow) Decide(o Observation) []int { return []int{o.Level} }

func TestADeploymentLocksTheCounts(t *testing.T) {
	config := Config{Classes: []Class{{Slots: 1, Speed: 1, ColdStart: 5 * time.Second}}, Deployments: true, MinHealthy: 3 * time.Second}
	r := Run(config, requests(20*time.Second, 0.5, 1.5), follow{})
	// The first replica is set at 1 s, ready at 6 s and healthy at 9 s. The second is set then and
	// ready at 14 s.
	if want := []time.Duration{5500 * time.Millisecond, 12500 * time.Millisecond}; !slices.Equal(r.Waits, want) {
		t.Errorf("waits %v, want %v", r.Waits, want)
	}
}

func TestWorkIsConserved(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var trace []Request
		var work, now time.Duration
		for range rapid.IntRange(1, 60).Draw(t, "requests") {
			now += time.Duration(rapid.IntRange(0, 3000).Draw(t, "gap ms")) * time.Millisecond
			service := time.Duration(rapid.IntRange(1, 5000).Draw(t, "service ms")) * time.Millisecond
			trace, work = append(trace, Request{At: now, Service: service}), work+service
		}
		slots := rapid.IntRange(1, 4).Draw(t, "slots")
		scaler := &PolicyScaler{Policy: scale.Default(), Classes: []scale.Class{{Name: "gpu", Slots: slots, Max: 8}}, QueryWindow: time.Hour, Every: time.Second}
		class := Class{Name: "gpu", Slots: slots, Speed: 1, ColdStart: 7 * time.Second}
		r := Run(Config{Classes: []Class{class}}, trace, scaler)
		// Little's law over the whole run: the integral of demand is the total time that requests
		// spent.
		area, spent := 0.0, work.Seconds()
		for _, s := range r.Timeline {
			area += s.Demand
		}
		for _, w := range r.Waits {
			spent += w.Seconds()
		}
		if missing := spent - area; missing < -1e-6 || missing > float64(len(trace))+1e-6 { // at most the last second of each request
			t.Fatalf("demand integrates to %v, requests spent %v", area, spent)
		}
		if capacity := r.ReplicaTime[0].Seconds() * float64(slots); capacity < work.Seconds()-1e-6 {
			t.Fatalf("%v of work done in %v of capacity", work, capacity)
		}
	})
}

func TestReadTraceNamesTheLine(t *testing.T) {
	const head = "# comment\narrival_s,input_tokens,output_tokens\n"
	got, err := ReadTrace(strings.NewReader(head+"2.5,10,1\n0.5,1000,2\n"), DefaultServiceModel())
	if err != nil || len(got) != 2 || got[0] != (Request{500 * time.Millisecond, 140 * time.Millisecond, 1000, 2}) {
		t.Fatalf("got %v, %v", got, err)
	}
	if got, err := ReadTrace(strings.NewReader("\xef\xbb\xbfarrival_s,input_tokens,output_tokens\n1,10,1\n"), DefaultServiceModel()); err != nil || len(got) != 1 {
		t.Errorf("behind a byte order mark: %v, %v", got, err)
	}
	for text, want := range map[string]string{
		"":                     "no requests",
		head:                   "no requests",
		"a,b,c\n1,2,3\n":       "line 1 is",
		"arrival_s\n1\n":       "line 1 is",
		"\x7fELF\x00\"\x00,\n": "line 1 is",
		"\"\x7fELF":            "line 1 is",
		head + "1,2\n":         "wrong number of fields",
		head + "x,2,3\n":       `line 3: arrival_s is "x"`,
		head + "1,2,3\n1,-2,3": `line 4: input_tokens is "-2"`,
		head + "NaN,2,3\n":     `arrival_s is "NaN"`,
	} {
		if _, err := ReadTrace(strings.NewReader(text), DefaultServiceModel()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func FuzzReadTrace(f *testing.F) {
	f.Add("arrival_s,input_tokens,output_tokens\n1,2,3\n")
	f.Fuzz(func(t *testing.T, text string) {
		trace, err := ReadTrace(strings.NewReader(text), DefaultServiceModel())
		if err != nil {
			return
		}
		for i, q := range trace {
			if q.At < 0 || q.Service < 0 || i > 0 && q.At < trace[i-1].At {
				t.Fatalf("%q: %v", text, trace)
			}
		}
	})
}

func TestPeriodsAndPlot(t *testing.T) {
	classes := []Class{{Name: "gpu", Slots: 2, Speed: 1, Initial: 1}}
	trace := requests(time.Second, 0.1, 0.2, 0.3, 70)
	r := Run(Config{Classes: classes}, trace, fixed{counts: []int{1}})
	periods := Periods(r, trace, time.Minute)
	if len(periods) != 2 || periods[0].Arrivals != 3 || periods[1].From != time.Minute || periods[0].Ready[0] != 1 {
		t.Errorf("periods %+v", periods)
	}
	for format, start := range map[string]string{"svg": "<?xml", "png": "\x89PNG"} {
		var out bytes.Buffer
		if err := Plot(&out, format, "test", r, trace, classes); err != nil || !strings.HasPrefix(out.String(), start) {
			t.Errorf("%s: %v, begins with %q", format, err, out.String()[:min(8, out.Len())])
		}
	}
	if err := Plot(&bytes.Buffer{}, "gif", "test", r, trace, classes); err == nil {
		t.Error("gif is accepted")
	}
}

func ExampleSummarize() {
	classes := []Class{{Name: "h100", Slots: 8, Speed: 1, Cost: 2, ColdStart: time.Minute, Initial: 1}}
	trace := []Request{{At: 0, Service: 30 * time.Minute}, {At: time.Second, Service: 59 * time.Minute}}
	s := Summarize(Run(Config{Classes: classes}, trace, fixed{counts: []int{1}}), classes)
	fmt.Printf("%.1f replica-hours, cost %.1f\n", s.TotalHours(), math.Round(10*s.Cost)/10)
	// Output: 1.0 replica-hours, cost 2.0
}

// watcher is a scaler that keeps its last observation.
type watcher struct {
	fixed
	seen Observation
}

func (w *watcher) Decide(o Observation) []int {
	w.seen = o
	return w.fixed.Decide(o)
}

func TestTheDemandIsWhatWaitsAndWhatEachClassServes(t *testing.T) {
	// One slot at full speed and one at half, 4 s of work each: the third request waits.
	classes := []Class{{Name: "h100", Slots: 1, Speed: 1, Initial: 1}, {Name: "t4", Slots: 1, Speed: 0.5, Initial: 1}}
	w := &watcher{fixed: fixed{counts: []int{1, 1}}}
	Run(Config{Classes: classes}, requests(4*time.Second, 0, 0, 0), w)
	want := [][]float64{{3, 3, 3, 3, 2, 2, 2, 2}, {1, 1, 1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1, 1, 1}}
	for i, got := range [][]float64{w.seen.Demand, w.seen.Active[0], w.seen.Active[1]} {
		if len(got) < 7 || !slices.Equal(got, want[i][:len(got)]) {
			t.Errorf("series %d is %v, want %v", i, got, want[i])
		}
	}
	scaler := &PolicyScaler{Classes: []scale.Class{{Name: "h100", Speed: 1}, {Name: "t4", Speed: 0.5}}, QueryWindow: 3 * time.Second}
	at := w.seen
	at.Demand, at.Active = at.Demand[:5], [][]float64{at.Active[0][:5], at.Active[1][:5]}
	if got := scaler.load(at); !slices.Equal(got, []float64{2.5, 2.5, 1.5}) {
		t.Errorf("the load of 3 s is %v, want 2.5, 2.5 and 1.5", got)
	}
}
