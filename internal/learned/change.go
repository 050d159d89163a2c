package learned

import (
	"fmt"
	"math"
	"strings"
)

const (
	// noise is the relative difference between two benchmarks that can occur without a cause: each
	// measures to 3%.
	noise = 0.05
	// usualBatch and usualPrompt are the point at which curves are compared, with half of each
	// request's tokens in the cache.
	usualBatch  = 16
	usualPrompt = 1000
)

// Changes returns in one line what has changed since an earlier profile of the same kind of
// replica: "l4, 10of20: steps 8% slower than on 2026-11-02; driver 550.90 → 560.35". slower is set
// if a value has become worse by more than the measuring error.
func (p Profile) Changes(before Profile) (text string, slower bool) {
	var figures []string
	compare := func(what string, was, is float64, more, less string, better bool) {
		if !(was > 0) || !(is > 0) || math.Abs(is/was-1) <= noise {
			return
		}
		word := more
		if is < was {
			word = less
		}
		slower = slower || (is > was) != better
		figures = append(figures, fmt.Sprintf("%s %.0f%% %s", what, 100*math.Abs(is/was-1), word))
	}
	if a, b := before.Curve, p.Curve; a != nil && b != nil {
		kv := usualBatch * usualPrompt / 2.0
		compare("steps", a.StepTime(usualBatch, kv), b.StepTime(usualBatch, kv), "slower", "faster", false)
		compare("prompts", a.PrefillTime(usualPrompt), b.PrefillTime(usualPrompt), "slower", "faster", false)
		compare("cache", a.KV, b.KV, "larger", "smaller", true)
	}
	if len(before.Within) > 0 && len(p.Within) > 0 && before.Within[0].Objective == p.Within[0].Objective &&
		(p.Curve == nil || before.Curve == nil || before.Curve.Prompt == p.Curve.Prompt) {
		compare("answers a second", before.Within[0].Rate, p.Within[0].Rate, "more", "fewer", true)
	}
	what := strings.Join(figures, ", ") + " than on "
	if len(figures) == 0 {
		what = fmt.Sprintf("within %.0f%% of what it was on ", 100*noise)
	}
	text = fmt.Sprintf("%s, %s: %s%s", p.Class, p.Slices, what, before.Measured.Format("2006-01-02"))
	return text + p.replaced(before), slower
}

// replaced returns which names have changed since an earlier profile.
func (p Profile) replaced(before Profile) (text string) {
	for _, of := range [][3]string{
		{"driver", before.Driver, p.Driver}, {"engine", before.Engine, p.Engine},
		{"image", before.Image, p.Image}, {"model", before.Model, p.Model},
	} {
		if of[1] != of[2] {
			text += fmt.Sprintf("; %s %s → %s", of[0], orUnknown(of[1]), orUnknown(of[2]))
		}
	}
	return text
}

func orUnknown(name string) string {
	if name == "" {
		return "unknown"
	}
	return name
}
