package view

import (
	"regexp"
	"slices"
	"strings"

	"aliquot.example/docs"
)

// remedy is the remedy for a text, from docs/operations.md.
type remedy struct {
	text  *regexp.Regexp
	fixed int // number of constant bytes in the text
	do    string
}

// remedies are the remedies for task events and for the health of devices.
var remedies = slices.Concat(remediesOf(docs.Operations, "## Task events"),
	remediesOf(docs.Operations, "## Health of devices"))

var (
	codeSpan = regexp.MustCompile("`([^`]+)`")
	link     = regexp.MustCompile(`\[([^\]]+)\]\([^)]*\)`)
)

// remediesOf reads the table below a heading. Its first column has texts, with … for variable
// parts; its last column has the remedy.
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

// remedyOf returns the remedy for a text, "" if there is none.
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
