package top

import (
	"bytes"
	"strings"
	"testing"

	"aliquot.example/internal/api"
)

// Two gateways know the same of starts, and each its own first answers.
func TestColdStartsAreThoseOfAllGateways(t *testing.T) {
	learned := api.ColdStart{Count: 7, P95: 57, Parts: map[string]float64{"image": 20.04, "load": 30}}
	more := api.ColdStart{Count: 7, P95: 57, Parts: map[string]float64{"image": 20.04, "load": 30, "answer": 1.5}}
	merged := merge([][]api.Service{
		{{Service: "chat", Starts: map[string]api.ColdStart{"h100": learned}}},
		{{Service: "chat", Starts: map[string]api.ColdStart{"h100": more, "l4": {Parts: map[string]float64{"answer": 3}}}}},
		{{Service: "code"}},
	})
	var out bytes.Buffer
	if err := renderColdStarts(&out, merged); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	want := []string{"chat h100 7 57.0 20.0 - - - 30.0 1.5", "chat l4 0 - - - - - - 3.0"}
	if len(lines) != 3 || strings.Join(strings.Fields(lines[1]), " ") != want[0] || strings.Join(strings.Fields(lines[2]), " ") != want[1] {
		t.Errorf("%s", out.String())
	}
	out.Reset()
	if err := renderColdStarts(&out, nil); err != nil || out.Len() > 0 {
		t.Errorf("%q, %v", out.String(), err)
	}
}
