package doctor

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
)

func TestAnUntestedSchedulerIsNamed(t *testing.T) {
	node := &api.Node{Attributes: map[string]string{"unique.aliquot.room": "3", "unique.aliquot.waste_5": "2"}}
	for _, c := range []struct {
		servers []string
		level   Level
		part    string
	}{
		{[]string{"1.11.3", "1.11.3+ent"}, OK, "2 levels"},
		{[]string{"1.11.3", "1.12.0", "1.12.0"}, Warning, "Nomad 1.12.0;"},
		{nil, Warning, "cannot be read"},
	} {
		got := packing(Facts{Node: node, Servers: c.servers})
		if len(got) != 1 || got[0].Level != c.level || !strings.Contains(got[0].What, c.part) {
			t.Errorf("servers %v: %+v", c.servers, got)
		}
	}
	if got := packing(Facts{Node: &api.Node{}, Servers: []string{"1.12.0"}}); got != nil {
		t.Errorf("a node that publishes nothing: %+v", got)
	}
}

// The release whose scheduler bench/packing runs is among those that were tested: who
// takes another runs its tests first.
func TestTheImportedSchedulerWasTested(t *testing.T) {
	text, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^\tgithub\.com/hashicorp/nomad v(\S+)`).FindStringSubmatch(string(text))
	if found == nil || !slices.Contains(testedNomad, found[1]) {
		t.Errorf("go.mod has Nomad %v, tested are %v", found, testedNomad)
	}
}
