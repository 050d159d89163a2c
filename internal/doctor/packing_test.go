package doctor

import (
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
