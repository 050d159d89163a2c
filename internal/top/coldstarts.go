package top

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"

	"aliquot.example/internal/api"
	"aliquot.example/internal/learned"
)

// coldParts are the parts of a cold start in order. Gateways measure the last one.
var coldParts = append(slices.Clone(learned.StartParts), "answer")

// learns merges the cold starts of one gateway. All gateways have the same values for the time
// before a replica is ready; each measures the first answers that it sees.
func (s *Service) learns(class string, c api.ColdStart) {
	if s.ColdStarts == nil {
		s.ColdStarts = map[string]api.ColdStart{}
	}
	known := s.ColdStarts[class]
	parts := maps.Clone(known.Parts)
	if parts == nil {
		parts = map[string]float64{}
	}
	maps.Copy(parts, c.Parts)
	if c.Count < known.Count {
		c.Count, c.P95 = known.Count, known.P95
	}
	c.Parts = parts
	s.ColdStarts[class] = c
}

// renderColdStarts draws the learned cold starts, in seconds.
func renderColdStarts(w io.Writer, services []Service) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head := false
	for _, s := range services {
		for _, class := range slices.Sorted(maps.Keys(s.ColdStarts)) {
			c := s.ColdStarts[class]
			if !head {
				fmt.Fprintln(t,
					"cold start of\ton\tlearned from\tp95 s\timage s\tmodels s\tcompile cache s\tcontainer s\tload "+
						"s\tfirst answer s")
				head = true
			}
			fmt.Fprintf(t, "%s\t%s\t%d", s.Name, class, c.Count)
			cell(t, c.P95, c.P95 > 0)
			for _, part := range coldParts {
				seconds, ok := c.Parts[part]
				cell(t, seconds, ok)
			}
			fmt.Fprintln(t)
		}
	}
	return t.Flush()
}

// cell draws seconds, or "-" if they are unknown.
func cell(w io.Writer, seconds float64, known bool) {
	text := "-"
	if known {
		text = fmt.Sprintf("%.1f", seconds)
	}
	fmt.Fprint(w, "\t", text)
}
