package changes

import "testing"

func TestOnlyAChangeIsOne(t *testing.T) {
	var s Seen[string, string]
	for i, c := range []struct {
		key, value string
		want       bool
	}{
		{"a", "", false}, {"a", "x", true}, {"a", "x", false}, {"b", "x", true}, {"a", "", true}, {"a", "", false}, {"b", "x", false},
	} {
		if got := s.Changed(c.key, c.value); got != c.want {
			t.Errorf("%d, %q is %q: got %v", i, c.key, c.value, got)
		}
	}
}
