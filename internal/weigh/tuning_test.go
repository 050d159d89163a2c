package weigh

import (
	"reflect"
	"strings"
	"testing"
)

func TestHeadersOfARingHash(t *testing.T) {
	for text, want := range map[string][]string{
		"x-session-id":                {"x-session-id"},
		" x-session-id , X-Prefix,":   nil,
		"x-session-id, x-prefix":      {"x-session-id", "x-prefix"},
		"x-session-id,X-Session-Id,b": {"x-session-id", "b"},
		"a b":                         nil,
		"":                            nil,
		"a,b,c,d,e":                   nil,
	} {
		got, err := Headers(text)
		if !reflect.DeepEqual(got, want) || (err != nil) != (want == nil) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
		if want != nil && !reflect.DeepEqual(HashHeaders(RingHash(got...)), want) {
			t.Errorf("%q is read back as %q", text, HashHeaders(RingHash(got...)))
		}
	}
	if HashHeaders(LeastRequest) != nil {
		t.Error("least request hashes headers")
	}
}

// Instances ask for a ring hash where the file says nothing of it.
func TestInstancesAskForARingHash(t *testing.T) {
	asks := func(list ...string) (out []Instance) {
		for _, text := range list {
			out = append(out, Instance{ID: "i", Group: Group{Class: "h100"}, Healthy: true, Affinity: text})
		}
		return out
	}
	resolver := Key{Resolver, "s"}
	kept := map[Key]Observed{resolver: {Ours: true, Entry: Entry{Key: resolver, Tuning: Tuning{Balance: RingHash("x-old")}}}}
	for name, c := range map[string]struct {
		file      string
		instances []Instance
		want      string
		note      string
	}{
		"none":            {LeastRequest, asks("", ""), LeastRequest, ""},
		"one of two":      {LeastRequest, asks("x-a, x-b", ""), RingHash("x-a", "x-b"), ""},
		"they differ":     {LeastRequest, asks("x-a", "x-b", "x-b"), RingHash("x-b"), "differ"},
		"no header":       {LeastRequest, asks("no header"), LeastRequest, "ignored"},
		"the file says":   {RingHash("x-f"), asks("x-a"), RingHash("x-f"), ""},
		"nothing is left": {LeastRequest, nil, RingHash("x-old"), ""},
	} {
		p := Plan{}
		b := builder{view: View{Service: "s", Tuning: Tuning{Balance: c.file}, Instances: c.instances, Have: kept}, plan: &p}
		if got := b.balance(); got != c.want || (c.note == "") != (len(p.Notes) == 0) || !strings.Contains(strings.Join(p.Notes, ""), c.note) {
			t.Errorf("%s: %q, %q; want %q", name, got, p.Notes, c.want)
		}
	}
}
