package weigh

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// store is Consul's set of config entries, refusing what Consul refuses.
type store map[Key]Observed

func (s store) entries() map[Key]Entry {
	out := map[Key]Entry{}
	for k, o := range s {
		out[k] = o.Entry
	}
	return out
}

// check is what Consul demands of the whole after every write.
func (s store) check() error {
	for k, o := range s {
		if k.Kind != Defaults {
			if d, ok := s[Key{Defaults, k.Name}]; !ok || !httpLike(d.Entry.Protocol) {
				return fmt.Errorf("%s without an HTTP protocol", k)
			}
		}
		if err := validateOne(o.Entry, s.entries()); err != nil && !(k.Kind == Defaults) {
			return fmt.Errorf("%s: %w", k, err)
		}
	}
	return nil
}

func (s store) apply(step Step) error {
	if o, ok := s[step.Entry.Key]; ok && !o.Ours {
		return fmt.Errorf("step touches %s, which is not ours", step.Entry.Key)
	}
	if step.Delete {
		delete(s, step.Entry.Key)
	} else {
		s[step.Entry.Key] = Observed{Entry: step.Entry, Ours: true, Exact: true}
	}
	return s.check()
}

var testRules = []Rule{
	{Name: "batch", Headers: []HeaderMatch{{Name: "x-batch-size", Regex: "^[1-9][0-9]$"}}, MinWeight: 0.8},
	{Name: "fp8", Headers: []HeaderMatch{{Name: "x-precision", Exact: "fp8"}}, Precision: "fp8", Strict: true},
	{Name: "big", PathPrefix: "/v1/models/big/", MemoryGB: 100},
	{Name: "slow", PathPrefix: "/cheap/", Classes: []string{"l4", "t4"}},
}

func drawView(t *rapid.T, have store, now time.Time) View {
	v := View{Service: "chat", Protocol: "http", Have: have, Now: now, Limits: DefaultLimits(), Seen: map[string]time.Time{}}
	for _, class := range []string{"h100", "l4", "mi300x", "t4", "b200"} {
		n := rapid.IntRange(0, 3).Draw(t, class)
		sick := rapid.IntRange(0, n).Draw(t, "sick")
		for i, in := range whole(class, n) {
			in.Healthy = i >= sick
			if rapid.Bool().Draw(t, "sliced") {
				in.Group.Slices, in.Group.Total = 5, 20
			}
			v.Instances = append(v.Instances, in)
		}
	}
	v.Weights = Weights(v.Instances, nil, nil, nil, DefaultTrust(), now)
	for _, r := range testRules {
		if rapid.Bool().Draw(t, "rule") {
			v.Rules = append(v.Rules, r)
		}
	}
	return v
}

func run(t interface{ Fatalf(string, ...any) }, have store, p Plan) int {
	for n := 0; ; n++ {
		step, ok := Next(have, p.Want)
		if !ok {
			return n
		}
		if n > 60 {
			t.Fatalf("no end: %+v", step)
		}
		if err := have.apply(step); err != nil {
			t.Fatalf("after %+v: %v", step, err)
		}
	}
}

// From any state to any other, Consul would accept every single write, and at the
// end nothing is left over.
func TestEveryStepIsAcceptable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, now := store{}, noon
		for range rapid.IntRange(1, 5).Draw(t, "rounds") {
			now = now.Add(time.Duration(rapid.IntRange(1, 1200).Draw(t, "later")) * time.Second)
			p := Build(drawView(t, have, now))
			if p.Refused != "" || len(p.Blocked) > 0 {
				t.Fatalf("plan %+v", p)
			}
			if p.Want == nil {
				t.Fatalf("a plan without entries: %+v", p)
			}
			run(t, have, p)
			for k, o := range have {
				if w, ok := p.Want[k]; !ok || !Same(w, o.Entry) {
					t.Fatalf("%s is %+v, wanted %+v", k, o.Entry, w)
				}
			}
		}
		run(t, have, Plan{Want: map[Key]Entry{}})
		if len(have) != 0 {
			t.Fatalf("left over: %v", have)
		}
	})
}

func TestTheClassesOfTheExample(t *testing.T) {
	have := store{}
	instances := join(whole("h100", 2), whole("l4", 3), whole("mi300x", 1))
	v := View{Service: "chat", Protocol: "http", Instances: instances, Weights: Weights(instances, nil, nil, nil, DefaultTrust(), noon), Have: have, Now: noon, Limits: DefaultLimits()}
	p := Build(v)
	want, err := Shares([]Load{{"h100", 2, tableWeight(t, "h100")}, {"l4", 3, tableWeight(t, "l4")}, {"mi300x", 1, tableWeight(t, "mi300x")}})
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range p.Want[Key{Splitter, "chat"}].Splits {
		if s.Subset != want[i].Group || s.Hundredths != want[i].Hundredths {
			t.Errorf("split %+v, want %+v", s, want[i])
		}
	}
	if got := p.Want[Key{Resolver, "chat"}].Subsets[1]; got.Name != "l4" || !slices.Equal(got.Failover, []string{"h100", "mi300x"}) {
		t.Errorf("subset %+v: want failover to the fastest first", got)
	}
	var order []string
	for {
		step, ok := Next(have, p.Want)
		if !ok {
			break
		}
		order = append(order, string(step.Entry.Kind))
		if err := have.apply(step); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(order, " "); got != "service-defaults service-resolver service-splitter" {
		t.Errorf("written in the order %s", got)
	}
}

func TestAnEmptiedClassIsZeroedAtOnceAndComesBack(t *testing.T) {
	have := store{}
	instances := join(whole("h100", 1), whole("l4", 1))
	v := View{Service: "chat", Protocol: "http", Instances: instances, Weights: Weights(instances, nil, nil, nil, DefaultTrust(), noon), Have: have, Now: noon, Limits: DefaultLimits()}
	run(t, have, Build(v))
	v.LastWrite = noon
	v.Instances[0].Healthy = false
	p := Build(v)
	if run(t, have, p) != 1 {
		t.Fatalf("plan %+v", p)
	}
	if got := have[Key{Splitter, "chat"}].Entry.Splits; got[0].Hundredths != 0 || got[1].Hundredths != Whole {
		t.Fatalf("splits %+v", got)
	}
	v.Instances[1].Healthy = false
	if p := Build(v); run(t, have, p) != 0 {
		t.Fatalf("with nothing healthy the splitter was written: %+v", p)
	}
	v.Instances[0].Healthy, v.Instances[1].Healthy = true, true
	if p := Build(v); p.Wait != time.Second || run(t, have, p) != 0 {
		t.Fatalf("within the interval: %+v", p)
	}
	v.Now = noon.Add(time.Second)
	if p := Build(v); run(t, have, p) != 1 {
		t.Fatalf("after the interval: %+v", p)
	}
}

func TestAGoneClassKeepsItsSubsetForAWhile(t *testing.T) {
	have := store{}
	instances := join(whole("h100", 1), whole("l4", 1))
	weights := Weights(instances, nil, nil, nil, DefaultTrust(), noon)
	v := View{Service: "chat", Protocol: "http", Instances: instances, Weights: weights, Have: have, Now: noon, Limits: DefaultLimits()}
	run(t, have, Build(v))
	v.Instances, v.Seen = v.Instances[1:], map[string]time.Time{"h100": noon, "l4": noon}
	for later, subsets := range map[time.Duration]int{time.Minute: 2, 11 * time.Minute: 1} {
		v.Now = noon.Add(later)
		if got := Build(v).Want[Key{Resolver, "chat"}].Subsets; len(got) != subsets {
			t.Errorf("after %v: %+v", later, got)
		}
	}
	v.Instances, v.Now = nil, noon.Add(11*time.Minute)
	if p := Build(v); p.Want == nil || len(p.Want) != 0 {
		t.Errorf("with nothing registered for long: %+v", p)
	}
}

func TestHandWrittenEntriesAreLeftAlone(t *testing.T) {
	instances := whole("h100", 1)
	base := View{Service: "chat", Protocol: "http", Instances: instances, Weights: Weights(instances, nil, nil, nil, DefaultTrust(), noon), Now: noon, Limits: DefaultLimits()}
	foreign := func(k Kind, protocol string) map[Key]Observed {
		key := Key{k, "chat"}
		return map[Key]Observed{key: {Entry: Entry{Key: key, Protocol: protocol}}}
	}
	for name, c := range map[string]struct {
		have    map[Key]Observed
		blocked bool
	}{
		"resolver":      {foreign(Resolver, ""), true},
		"splitter":      {foreign(Splitter, ""), true},
		"tcp defaults":  {foreign(Defaults, "tcp"), true},
		"grpc defaults": {foreign(Defaults, "grpc"), false},
		"router":        {foreign(Router, ""), false},
	} {
		v := base
		v.Have = c.have
		v.Rules = testRules
		p := Build(v)
		if (len(p.Blocked) > 0) != c.blocked || c.blocked && (p.Want != nil || !strings.Contains(p.Reason, "hand-written")) {
			t.Errorf("%s: %+v", name, p)
		}
		for step, ok := Next(c.have, p.Want); ok && p.Want != nil; step, ok = Next(c.have, p.Want) {
			if o, there := c.have[step.Entry.Key]; there && !o.Ours {
				t.Fatalf("%s: touched by %+v", name, step)
			}
			c.have[step.Entry.Key] = Observed{Entry: step.Entry, Ours: true, Exact: true}
		}
		if name == "router" && len(p.Notes) == 0 {
			t.Errorf("nothing says that the rules are not applied: %+v", p)
		}
	}
}

// A strict rule keeps its requests off other hardware also where none that is
// registered meets it; any other rule is left out then.
func TestAStrictRuleHoldsWithoutHardware(t *testing.T) {
	instances := whole("t4", 2)
	strict := Rule{Name: "fp8", Headers: []HeaderMatch{{Name: "x-precision", Exact: "fp8"}}, Precision: "fp8", Strict: true}
	v := View{Service: "chat", Protocol: "grpc", Instances: instances, Weights: Weights(instances, nil, nil, nil, DefaultTrust(), noon), Now: noon, Limits: DefaultLimits(), Have: store{}, Rules: []Rule{strict}}
	have := store{}
	p := Build(v)
	run(t, have, p)
	router := have[Key{Router, "chat"}].Entry
	if len(router.Routes) != 1 || router.Routes[0].Service != "chat--fp8" || router.Routes[0].Subset != "" || len(p.Notes) != 1 {
		t.Fatalf("routes %+v, notes %q", router.Routes, p.Notes)
	}
	if d := have[Key{Defaults, "chat--fp8"}].Entry; d.Protocol != "grpc" {
		t.Errorf("the service that has no instances speaks %q", d.Protocol)
	}
	if _, ok := have[Key{Splitter, "chat--fp8"}]; ok {
		t.Error("the service that has no instances leads to some")
	}
	v.Rules[0].Strict = false
	v.Have = have
	run(t, have, Build(v))
	if len(have) != 3 {
		t.Errorf("a rule that is not strict leaves %v", have)
	}
}

func TestJitterDoesNotReorderFailover(t *testing.T) {
	groups := map[string]Group{"a": {Class: "a"}, "b": {Class: "b"}}
	w := func(a, b float64) map[string]Weight { return map[string]Weight{"a": {Value: a}, "b": {Value: b}} }
	order := failoverOrder(nil, groups, w(1, 1.01))
	if !slices.Equal(order, []string{"b", "a"}) {
		t.Fatal(order)
	}
	if got := failoverOrder(order, groups, w(1.05, 1)); !slices.Equal(got, order) {
		t.Errorf("5%% reordered to %v", got)
	}
	if got := failoverOrder(order, groups, w(1.2, 1)); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("20%% did not reorder: %v", got)
	}
}

func TestValidateRefuses(t *testing.T) {
	good := func() map[Key]Entry {
		m := map[Key]Entry{}
		for _, e := range []Entry{
			{Key: Key{Defaults, "s"}, Protocol: "http"},
			{Key: Key{Resolver, "s"}, Subsets: []Subset{{Name: "a", Filter: "x", Failover: []string{"b"}}, {Name: "b", Filter: "x"}}},
			{Key: Key{Splitter, "s"}, Splits: []Split{{"s", "a", 4000}, {"s", "b", 6000}}},
			{Key: Key{Router, "s"}, Routes: []Route{{PathPrefix: "/a", Service: "s", Subset: "a"}}},
		} {
			m[e.Key] = e
		}
		return m
	}
	if err := Validate(good()); err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]Entry{
		"protocol":        {Key: Key{Defaults, "s"}, Protocol: "tcp"},
		"no subset":       {Key: Key{Resolver, "s"}},
		"subset name":     {Key: Key{Resolver, "s"}, Subsets: []Subset{{Name: "H200_x", Filter: "x"}}},
		"failover":        {Key: Key{Resolver, "s"}, Subsets: []Subset{{Name: "a", Filter: "x", Failover: []string{"z"}}}},
		"negative split":  {Key: Key{Splitter, "s"}, Splits: []Split{{"s", "a", -100}, {"s", "b", 10100}}},
		"sum":             {Key: Key{Splitter, "s"}, Splits: []Split{{"s", "a", 4000}, {"s", "b", 5999}}},
		"twice":           {Key: Key{Splitter, "s"}, Splits: []Split{{"s", "a", 4000}, {"s", "a", 6000}}},
		"unknown subset":  {Key: Key{Splitter, "s"}, Splits: []Split{{"s", "z", 10000}}},
		"unknown service": {Key: Key{Router, "s"}, Routes: []Route{{PathPrefix: "/a", Service: "z"}}},
		"path":            {Key: Key{Router, "s"}, Routes: []Route{{PathPrefix: "a", Service: "s"}}},
		"header":          {Key: Key{Router, "s"}, Routes: []Route{{Headers: []HeaderMatch{{Name: "a:b", Exact: "x"}}, Service: "s"}}},
		"service name":    {Key: Key{Defaults, "../../kv"}, Protocol: "http"},
		"kind":            {Key: Key{"mesh", "s"}},
	} {
		m := good()
		m[e.Key] = e
		if err := Validate(m); err == nil {
			t.Errorf("%s passes", name)
		}
	}
}
