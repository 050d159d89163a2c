package replay

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"aliquot.example/internal/learned"
	"aliquot.example/internal/scale"
)

// readCurves reads the files that aliquot bench -json wrote, from a text such as
// "h100=h100.json,l4=l4.json".
func readCurves(text string, classes []scale.Class) (map[string]learned.Curve, error) {
	curves := map[string]learned.Curve{}
	for _, part := range strings.FieldsFunc(text, func(c rune) bool { return c == ',' }) {
		name, path, _ := strings.Cut(strings.TrimSpace(part), "=")
		if path == "" {
			return nil, fmt.Errorf("-curve has %q: want <class>=<file>", part)
		}
		if !slices.ContainsFunc(classes, func(k scale.Class) bool { return k.Name == name }) {
			return nil, fmt.Errorf("-curve names class %q, which the policy does not have", name)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("-curve: %w", err)
		}
		var report struct {
			Curve *learned.Curve `json:"curve"`
		}
		if err := json.Unmarshal(data, &report); err != nil {
			return nil, fmt.Errorf("-curve: %s: %w: want what aliquot bench -json writes", path, err)
		}
		if report.Curve == nil || !(report.Curve.Prefill > 0 && report.Curve.A > 0) {
			return nil, fmt.Errorf("-curve: %s has no curve: want what aliquot bench -json writes for a language model",
				path)
		}
		if !report.Curve.Possible() {
			return nil,
				fmt.Errorf("-curve: %s has a figure that is negative or above 1e15: "+
					"want what aliquot bench -json writes", path)
		}
		if _, twice := curves[name]; twice {
			return nil, fmt.Errorf("-curve names class %q twice: want one file for each class", name)
		}
		curves[name] = *report.Curve
	}
	return curves, nil
}
