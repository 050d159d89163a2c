package learned

import (
	"encoding/json"
	"math"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aliquot.example/internal/gpu"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*math.Max(1, math.Abs(b)) }

func of(at time.Time, rate, n float64) Rates {
	doc := NewRates(at)
	doc.Classes["a"] = Class{Rate: rate, Slots: 4, Samples: n, Replica: 4 * rate}
	return doc
}

func TestParseRates(t *testing.T) {
	good := `{"version":1,"updated":"2026-06-01T12:00:00Z","classes":{"h100":{"rate":2.5,"slots":4,"n":120,"replica_rate":10,"tokens":{"6of20":{"prefill":0.0001,"start":0.02,"a":0.01,"b":0.0002,"c":1e-8,"prompt":900,"output":120,"kv_tokens":450000,"n":50}}}}}`
	got, errs := ParseRates([]byte(good))
	want := Class{Rate: 2.5, Slots: 4, Samples: 120, Replica: 10, Tokens: map[string]Curve{"6of20": {Prefill: 0.0001, Start: 0.02, A: 0.01, B: 0.0002, C: 1e-8, Prompt: 900, Output: 120, KV: 450000, Samples: 50}}}
	if len(errs) != 0 || !reflect.DeepEqual(got.Classes["h100"], want) || !got.Updated.Equal(noon) {
		t.Fatalf("got %+v, %v", got, errs)
	}
	text, err := json.Marshal(got)
	if again, errs := ParseRates(text); err != nil || len(errs) != 0 || !reflect.DeepEqual(again, got) {
		t.Errorf("%s is read back as %+v, %v", text, again, errs)
	}
	for name, text := range map[string]string{
		"no JSON":        `{`,
		"wrong version":  `{"version":2}`,
		"wrong type":     `{"version":1,"classes":{"h100":{"replica_rate":"fast"}}}`,
		"nothing":        `{"version":1,"classes":{"h100":{"n":1}}}`,
		"negative rate":  `{"version":1,"classes":{"h100":{"replica_rate":-1,"n":1}}}`,
		"negative slot":  `{"version":1,"classes":{"h100":{"rate":-1,"replica_rate":1,"n":1}}}`,
		"tiny rate":      `{"version":1,"classes":{"h100":{"replica_rate":1e-320,"n":1}}}`,
		"huge rate":      `{"version":1,"classes":{"h100":{"replica_rate":1e300,"n":1}}}`,
		"negative count": `{"version":1,"classes":{"h100":{"replica_rate":1,"n":-1}}}`,
		"negative curve": `{"version":1,"classes":{"h100":{"replica_rate":1,"n":1,"tokens":{"1of1":{"a":-1}}}}}`,
		"hostile class":  `{"version":1,"classes":{"a\" or \"b":{"replica_rate":1,"n":1}}}`,
	} {
		if got, errs := ParseRates([]byte(text)); len(errs) == 0 || len(got.Classes) != 0 {
			t.Errorf("%s: got %+v, %v", name, got, errs)
		}
	}
}

func FuzzParseRates(f *testing.F) {
	f.Add([]byte(`{"version":1,"updated":"2026-06-01T12:00:00Z","classes":{"h100":{"n":120,"replica_rate":10,"tokens":{"1of1":{"a":1,"n":1}}}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		doc, _ := ParseRates(text)
		for class, m := range Merge(noon, doc, doc) {
			if gpu.Slug(class) != class || !(m.Samples > 0) || !(m.Rate >= 0) || !(m.Replica >= 0) || math.IsInf(m.Rate+m.Replica+m.Slots+m.Samples, 0) {
				t.Fatalf("%q: %+v", class, m)
			}
		}
	})
}

func TestMergeIsTheMeanBySamples(t *testing.T) {
	b := NewRates(noon)
	b.Classes["a"], b.Classes["b"] = Class{Rate: 5, Samples: 10, Replica: 20}, Class{Replica: 1, Samples: 1}
	got := Merge(noon, of(noon, 2.5, 30), b)
	if m := got["a"]; !near(m.Replica, 12.5) || !near(m.Rate, 3.125) || !near(m.Samples, 40) || !m.Updated.Equal(noon) || len(got) != 2 {
		t.Fatalf("got %+v", got)
	}
}

// Gateways that are gone leave their keys behind; what they measured ages beside what
// others go on measuring, and stands where nobody does.
func TestRatesOfAGatewayThatIsGoneAge(t *testing.T) {
	here := of(noon, 20, 10)
	for age, left := range map[time.Duration]float64{
		0: 1000, HalfLife: 500, 2 * HalfLife: 250, -2 * HalfLife: 250, Believed + time.Second: 0, -10 * Believed: 0,
	} {
		gone := of(noon.Add(-age), 10, 1000)
		want := (10*left + 20*10) / (left + 10)
		for _, got := range []Merged{Merge(noon, here, gone)["a"], Merge(noon, gone, here)["a"]} {
			if !near(got.Rate, want) || !near(got.Samples, left+10) || !got.Updated.Equal(noon) {
				t.Errorf("gone for %s: got %+v, want rate %v of %v", age, got, want, left+10)
			}
		}
	}
	old := of(noon.Add(-24*time.Hour), 10, 1000)
	if m := Merge(noon, old)["a"]; !near(m.Rate, 10) || !near(m.Samples, 1000) || !m.Updated.Equal(old.Updated) {
		t.Errorf("yesterday's alone: %+v", m)
	}
	if m := Merge(noon, of(noon.Add(-Believed-time.Second), 10, 1000)); len(m) != 0 {
		t.Errorf("last week's: %+v", m)
	}
}

// However gateways measured, the merged rate lies between the least and the largest,
// and does not depend on their order.
func TestMergeStaysWithinWhatWasMeasured(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var docs []Rates
		least, most := math.Inf(1), 0.0
		for range rapid.IntRange(1, 6).Draw(t, "gateways") {
			rate := rapid.Float64Range(1e-6, 1e6).Draw(t, "rate")
			docs = append(docs, of(noon.Add(-time.Duration(rapid.IntRange(0, 6*24*3600).Draw(t, "age"))*time.Second), rate, rapid.Float64Range(1, 1e6).Draw(t, "n")))
			least, most = min(least, rate), max(most, rate)
		}
		m := Merge(noon, docs...)["a"]
		if !(m.Rate >= least*(1-1e-9) && m.Rate <= most*(1+1e-9)) || !(m.Samples >= 1-1e-9) {
			t.Fatalf("%+v of %+v", m, docs)
		}
		other := Merge(noon, rapid.Permutation(docs).Draw(t, "order")...)["a"]
		if !near(m.Rate/other.Rate, 1) || !m.Updated.Equal(other.Updated) {
			t.Fatalf("in another order %+v, was %+v", other, m)
		}
	})
}

func TestSpeedsTakeTurns(t *testing.T) {
	doc := NewSpeeds(noon, map[string]float64{"a": 1})
	doc.Rates["a"] = 2
	text, _ := json.Marshal(doc)
	got, err := ParseSpeeds(text)
	if err != nil || !reflect.DeepEqual(got, doc) {
		t.Fatalf("read back: %+v, %v", got, err)
	}
	if rates, age := got.At(noon.Add(-time.Second)); rates["a"] != 1 || age != 0 {
		t.Errorf("before: %v, %v", rates, age)
	}
	if rates, age := got.At(noon.Add(time.Minute)); rates["a"] != 2 || age != time.Minute {
		t.Errorf("after: %v, %v", rates, age)
	}
	for _, text := range []string{
		`{"version":1,"rates":{"h100":-1}}`, `{"version":1,"before":{"h100":1e300}}`, `{"version":1,"slots":{"h100":-4}}`, `{"version":1,"slots_before":{"h100":1e-300}}`,
	} {
		if got, err := ParseSpeeds([]byte(text)); err == nil || got.Rates != nil {
			t.Errorf("%s is read: %+v, %v", text, got, err)
		}
	}
	if _, err := ParseSpeeds([]byte(`{"version":2}`)); err == nil {
		t.Error("another version passes")
	}
}
