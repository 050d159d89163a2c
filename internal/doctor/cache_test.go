package doctor

import (
	"strings"
	"testing"

	"aliquot.example/internal/cacheapi"
)

func TestCacheFindings(t *testing.T) {
	for what, c := range map[string]struct {
		cache   *cacheapi.Status
		problem string
		level   Level
		says    string
	}{
		"away":      {nil, "connection refused", Failure, "connection refused"},
		"no room":   {&cacheapi.Status{Room: 3e9, Self: "a:1", Peers: []string{"a:1", "b:1"}}, "", Warning, "room for 3.0 GB more"},
		"no peers":  {&cacheapi.Status{Room: 100e9, Self: "a:1", Peers: []string{"a:1"}}, "", Warning, "knows no peer"},
		"by itself": {&cacheapi.Status{Room: 100e9}, "", OK, "no peers"},
		"well":      {&cacheapi.Status{Room: 100e9, Self: "a:1", Peers: []string{"a:1", "b:1", "c:1"}}, "", OK, "2 peers"},
	} {
		got := cache(Facts{Cache: c.cache, CacheProblem: c.problem})
		if len(got) != 1 || got[0].Level != c.level || !strings.Contains(got[0].What, c.says) || (got[0].Fix == "") != (c.level == OK) {
			t.Errorf("%s: %+v", what, got)
		}
	}
	if got := cache(Facts{}); got != nil {
		t.Errorf("without a cache: %+v", got)
	}
}
