package view

import (
	"regexp"
	"slices"
	"strings"

	"aliquot.example/docs"
)

// remedy is what the operations page says to do about a text.
type remedy struct {
	text  *regexp.Regexp
	fixed int // bytes that are the same in every such text
	do    string
}

// remedies are those of task events and of the health of devices.
var remedies = slices.Concat(remediesOf(docs.Operations, "## Task events"),
	remediesOf(docs.Operations, "## Health of devices"))

var (
	codeSpan = regexp.MustCompile("`([^`]+)`")
	link     = regexp.MustCompile(`\[([^\]]+)\]\([^)]*\)`)
)

// remediesOf reads the table below a heading: texts in the first column, with … where
// they differ, and in the last what to do.
func remediesOf(page, heading string) []remedy {
	_, section, _ := strings.Cut(page, "\n"+heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var out []remedy
	last := ""
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(cells) < 2 {
			continue
		}
		do := plainText(cells[len(cells)-1])
		if rest, ok := strings.CutPrefix(do, "as above"); ok {
			do = last + rest
		}
		last = do
		for _, span := range codeSpan.FindAllStringSubmatch(cells[0], -1) {
			out = append(out, pattern(span[1], do))
		}
	}
	return out
}

func pattern(text, do string) remedy {
	r := remedy{do: do}
	var parts []string
	for part := range strings.SplitSeq(text, "…") {
		part = strings.TrimSpace(part)
		r.fixed += len(part)
		parts = append(parts, regexp.QuoteMeta(part))
	}
	r.text = regexp.MustCompile(strings.Join(parts, ".*"))
	return r
}

func plainText(cell string) string {
	return strings.TrimSpace(strings.ReplaceAll(link.ReplaceAllString(cell, "$1"), "`", ""))
}

// remedyOf says what to do about a text; "" where the operations page has nothing to do.
func remedyOf(text string) string {
	best := remedy{}
	for _, r := range remedies {
		if r.fixed > best.fixed && r.text.MatchString(text) {
			best = r
		}
	}
	if best.do == "—" {
		return ""
	}
	return best.do
}
