package learned

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func profiled(class, size string, at time.Time, step float64) Profile {
	c := a100
	c.A, c.Prompt, c.Output = step, 512, 128
	o := Objective{TTFT: 2, TPOT: 0.1}
	return Profile{
		Measured: at, Model: "qwen3", Image: "vllm:v1", Engine: "vllm 1", Driver: "580.65",
		Class: class, Slices: size, Answers: 900, Curve: &c, Within: []Within{WithinOf(c, o)},
	}
}

func TestProfilesAreReadBack(t *testing.T) {
	var doc Profiles
	for i := range keptProfiles + 3 {
		doc.Add(profiled("l4", "10of20", noon.Add(time.Duration(i)*time.Hour), 0.03))
	}
	doc.Add(profiled("l4", "10of20", noon.Add(-time.Hour), 0.5)) // a run that ended late
	if len(doc.Profiles) != keptProfiles || !doc.Last().Measured.Equal(noon.Add((keptProfiles+2)*time.Hour)) {
		t.Fatalf("%d profiles are kept, the last of %s", len(doc.Profiles), doc.Last().Measured)
	}
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ParseProfiles(text); err != nil || !reflect.DeepEqual(again, doc) {
		t.Errorf("%s is read back as %+v, %v", text, again, err)
	}
	change := func(f func(*Profile)) string {
		p := profiled("l4", "10of20", noon, 0.03)
		f(&p)
		text, _ := json.Marshal(Profiles{Version: version, Profiles: []Profile{p}})
		return string(text)
	}
	for name, text := range map[string]string{
		"no JSON":       `{`,
		"another":       `{"version":2}`,
		"a class":       change(func(p *Profile) { p.Class = `a" or "b` }),
		"slices":        change(func(p *Profile) { p.Slices = "many" }),
		"a long name":   change(func(p *Profile) { p.Driver = strings.Repeat("5", maxText+1) }),
		"a name":        change(func(p *Profile) { p.Model = "a\x1b[2J" }),
		"no figures":    change(func(p *Profile) { p.Curve, p.Within = nil, nil }),
		"a curve":       change(func(p *Profile) { p.Curve.A = -1 }),
		"no steps":      change(func(p *Profile) { p.Curve.A = 0 }),
		"a rate":        change(func(p *Profile) { p.Within[0].Rate = -1 }),
		"no answers":    change(func(p *Profile) { p.Answers = 0 }),
		"an objective":  change(func(p *Profile) { p.Within[0].TTFT = 1e300 }),
		"half a number": `{"version":1,"profiles":[{"class":"l4","slices":"1of2","within":[{"rate_per_s":"1"}]}]}`,
	} {
		if doc, err := ParseProfiles([]byte(text)); err == nil || len(doc.Profiles) != 0 {
			t.Errorf("%s: %+v is taken", name, doc)
		}
	}
}

func FuzzParseProfiles(f *testing.F) {
	text, _ := json.Marshal(Profiles{Version: version, Profiles: []Profile{profiled("l4", "10of20", noon, 0.03)}})
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		doc, _ := ParseProfiles(text)
		for class, m := range Known(noon, nil, doc.Profiles, func(float64, time.Duration) bool { return false }) {
			if m.check() != nil || !(m.Rate > 0) || m.Source != FromProfile || math.IsInf(m.Replica, 0) {
				t.Fatalf("%q: %+v", class, m)
			}
		}
	})
}

func published(at time.Time, class, size string, c Curve) Rates {
	doc := NewRates(at)
	doc.Classes[class] = Class{Rate: 3, Slots: 2, Replica: 6, Samples: c.Samples, Tokens: map[string]Curve{size: c}}
	return doc
}

// recent trusts what was published within an hour from 8 requests on.
func recent(samples float64, age time.Duration) bool { return samples >= 8 && age <= time.Hour }

func TestWhatIsPublishedComesBeforeAProfileAndThatBeforeTheTable(t *testing.T) {
	live := a100
	live.Rate = 1.5
	few := live
	few.Samples = 7
	old := profiled("a100", "1of1", noon.Add(-ProfileBelieved-time.Hour), 0.5)
	last := profiled("a100", "1of1", noon.Add(-24*time.Hour), 0.02)
	before := profiled("a100", "1of1", noon.Add(-48*time.Hour), 0.3)
	for name, w := range map[string]struct {
		rates    []Rates
		profiles []Profile
		source   Source
		step     float64
	}{
		"published recently":         {[]Rates{published(noon, "a100", "1of1", live)}, []Profile{before, last}, FromGateways, live.A},
		"published of few":           {[]Rates{published(noon, "a100", "1of1", few)}, []Profile{last, before}, FromProfile, 0.02},
		"published long ago":         {[]Rates{published(noon.Add(-2*time.Hour), "a100", "1of1", live)}, []Profile{last}, FromProfile, 0.02},
		"nothing published":          {nil, []Profile{before, last, old}, FromProfile, 0.02},
		"published of few, no other": {[]Rates{published(noon, "a100", "1of1", few)}, []Profile{old}, FromGateways, live.A},
	} {
		got := Known(noon, w.rates, w.profiles, recent)
		m := got["a100"]
		if len(got) != 1 || m.Source != w.source || m.SourceOf("1of1") != w.source || m.Tokens["1of1"].A != w.step {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := Known(noon, nil, []Profile{old}, recent); len(got) != 0 {
		t.Errorf("of a profile that is too old: %+v", got)
	}
}

// A profile stands in for a size or a class beside those that serve, for requests of the
// size that these see.
func TestAProfileStandsBesideWhatIsPublished(t *testing.T) {
	live := a100
	live.Rate = 1.5
	profiles := []Profile{profiled("a100", "5of20", noon, 0.05), profiled("l4", "1of1", noon, 0.04)}
	got := Known(noon, []Rates{published(noon, "a100", "1of1", live)}, profiles, recent)
	a, l := got["a100"], got["l4"]
	if a.Source != FromGateways || a.SourceOf("1of1") != FromGateways || a.SourceOf("5of20") != FromProfile || a.Tokens["1of1"] != live {
		t.Errorf("a100: %+v", a)
	}
	for size, c := range map[string]Curve{"5of20": a.Tokens["5of20"], "1of1": l.Tokens["1of1"]} {
		if c.Prompt != live.Prompt || c.Output != live.Output {
			t.Errorf("%s is for prompts of %v and answers of %v", size, c.Prompt, c.Output)
		}
		if w := WithinOf(c, Objective{TTFT: 2, TPOT: 0.1}); !near(c.Rate, w.Rate) || !(w.Rate > 0) {
			t.Errorf("%s serves %v a second, within its objective %v", size, c.Rate, w.Rate)
		}
	}
	// The replicas of the service take 2 requests at once.
	if rate, _, _ := l.Tokens["1of1"].At(2); l.Source != FromProfile || l.Slots != 2 || !near(l.Replica, rate) || !near(l.Rate*l.Slots, l.Replica) {
		t.Errorf("l4: %+v", l)
	}
}

// A few requests do not say how large those of a service are: profiles stay as they were measured.
// Many do, also when they came long ago.
func TestAFewRequestsDoNotSizeProfiles(t *testing.T) {
	long := a100
	long.Prompt, long.Output = 30_000, 50
	for _, w := range []struct{ samples, prompt float64 }{{3, 512}, {8, 30_000}} {
		long.Samples = w.samples
		rates := []Rates{published(noon.Add(-3*time.Hour), "a100", "1of1", long)}
		c := Known(noon, rates, []Profile{profiled("l4", "5of20", noon, 0.05)}, recent)["l4"].Tokens["5of20"]
		if c.Prompt != w.prompt {
			t.Errorf("after %v requests the profile is for prompts of %v, want %v", w.samples, c.Prompt, w.prompt)
		}
	}
}

// Kinds of replica that were benchmarked with different requests are compared by one.
func TestProfilesAreComparedByOneRequest(t *testing.T) {
	short, long := profiled("l4", "5of20", noon.Add(-time.Hour), 0.05), profiled("l4", "10of20", noon, 0.03)
	short.Curve.Prompt, short.Curve.Output = 64, 16
	for size, c := range Known(noon, nil, []Profile{short, long}, recent)["l4"].Tokens {
		if c.Prompt != 512 || c.Output != 128 {
			t.Errorf("%s is for prompts of %v and answers of %v", size, c.Prompt, c.Output)
		}
	}
}

// A profile of a server without a language model has no curve.
func TestAProfileWithoutACurveIsARate(t *testing.T) {
	p := Profile{Measured: noon, Class: "t4", Slices: "1of1", Answers: 200, Within: []Within{{Objective: Objective{E2E: 0.2}, Concurrency: 4, Rate: 80}}}
	m := Known(noon, nil, []Profile{p}, recent)["t4"]
	if m.Rate != 20 || m.Slots != 4 || m.Replica != 80 || m.Tokens != nil || m.Source != FromProfile {
		t.Errorf("%+v", m)
	}
	p.Within[0].Rate, p.Within[0].Concurrency = 0, 0
	if got := Known(noon, nil, []Profile{p}, recent); len(got) != 0 {
		t.Errorf("of a server that missed its objective: %+v", got)
	}
}

// Whatever profiles there are, they never change what is trusted.
func TestProfilesNeverChangeWhatIsTrusted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		live := a100
		live.Samples = rapid.Float64Range(8, 500).Draw(t, "samples")
		rates := []Rates{published(noon.Add(-time.Duration(rapid.IntRange(0, 59).Draw(t, "age"))*time.Minute), "a100", "1of1", live)}
		var profiles []Profile
		for range rapid.IntRange(0, 5).Draw(t, "profiles") {
			class, size := rapid.SampledFrom([]string{"a100", "l4"}).Draw(t, "class"), rapid.SampledFrom([]string{"1of1", "5of20"}).Draw(t, "size")
			at := noon.Add(-time.Duration(rapid.IntRange(0, 300).Draw(t, "days")) * 24 * time.Hour)
			profiles = append(profiles, profiled(class, size, at, rapid.Float64Range(0.001, 1).Draw(t, "step")))
		}
		with, without := Known(noon, rates, profiles, recent)["a100"], Merge(noon, rates...)["a100"]
		if !near(with.Rate, without.Rate) || !near(with.Replica, without.Replica) || with.Source != FromGateways || with.Tokens["1of1"] != without.Tokens["1of1"] {
			t.Fatalf("%+v with profiles, %+v without", with, without)
		}
	})
}

func TestWhatChangedSinceTheLastProfile(t *testing.T) {
	was := profiled("l4", "10of20", time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC), 0.03)
	was.Driver = "550.90"
	for name, w := range map[string]struct {
		change func(*Profile)
		want   string
		slower bool
	}{
		"nothing": {func(*Profile) {}, "l4, 10of20: within 5% of what it was on 2026-11-02", false},
		"a driver that costs": {func(p *Profile) {
			p.Driver = "560.35"
			p.Curve.A, p.Curve.B, p.Curve.C = 1.08*p.Curve.A, 1.08*p.Curve.B, 1.08*p.Curve.C
		}, "l4, 10of20: steps 8% slower than on 2026-11-02; driver 550.90 → 560.35", true},
		"an engine that is faster with a smaller cache": {func(p *Profile) {
			p.Engine, p.Image = "vllm 2", ""
			p.Curve.Start, p.Curve.Prefill, p.Curve.KV = p.Curve.Start/2, p.Curve.Prefill/2, p.Curve.KV*0.9
		}, "l4, 10of20: prompts 50% faster, cache 10% smaller than on 2026-11-02; engine vllm 1 → vllm 2; image vllm:v1 → unknown", true},
		"fewer answers":     {func(p *Profile) { p.Within[0].Rate *= 0.5 }, "l4, 10of20: answers a second 50% fewer than on 2026-11-02", true},
		"another objective": {func(p *Profile) { p.Within[0].Rate *= 0.5; p.Within[0].TTFT = 1 }, "l4, 10of20: within 5% of what it was on 2026-11-02", false},
	} {
		now := was
		curve := *was.Curve
		now.Curve, now.Within = &curve, []Within{was.Within[0]}
		w.change(&now)
		if text, slower := now.Changes(was); text != w.want || slower != w.slower {
			t.Errorf("%s: %q, slower %t; want %q", name, text, slower, w.want)
		}
	}
}

// Profiles that a host with a wrong clock kept do not push out the new one.
func TestAProfileIsKeptBesideOnesOfTheFuture(t *testing.T) {
	now := time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)
	var d Profiles
	for i := range keptProfiles {
		d.Add(Profile{Class: "l4", Measured: now.AddDate(1, 0, i)})
	}
	d.Add(Profile{Class: "l4", Measured: now.Add(time.Minute)})
	d.Add(Profile{Class: "l4", Measured: now})
	if len(d.Profiles) != 2 || !d.Last().Measured.Equal(now.Add(time.Minute)) {
		t.Errorf("kept are %+v", d.Profiles)
	}
}
