package main

import (
	"errors"
	"fmt"
	"html"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// A picture of the demo's live view, from a recording by script(1).

const (
	cell, row = 7.83, 18 // pixels per character and per line, at a font size of 13
	margin    = 16
)

var (
	escapes  = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]|\r")
	inFlight = regexp.MustCompile(`(\d+) in flight`)
	heading  = regexp.MustCompile(`^(Aliquot: .*|[A-Z][A-Z /()S:]{6,}.*)$`)
)

// fullest returns the recorded screen with the most requests in flight.
func fullest(recorded string) (lines []string) {
	most := -1
	for _, screen := range strings.Split(recorded, "\x1b[H") {
		text := escapes.ReplaceAllString(screen, "")
		m := inFlight.FindStringSubmatch(text)
		if m == nil {
			continue
		}
		if n, _ := strconv.Atoi(m[1]); n > most {
			most, lines = n, strings.Split(strings.TrimRight(text, "\n"), "\n")
		}
	}
	return lines
}

// terminal writes the fullest screen of a recording as SVG. Lines have the same width in any
// monospaced font.
func terminal(recording, out string) error {
	recorded, err := os.ReadFile(recording)
	if err != nil {
		return err
	}
	lines := fullest(string(recorded))
	if lines == nil {
		return errors.New(recording + " has no screen of the demo: record one with script -c 'make demo ONCE=1'")
	}
	columns := 0
	for _, line := range lines {
		columns = max(columns, len([]rune(line)))
	}
	width, height := int(float64(columns)*cell)+2*margin+1, len(lines)*row+margin+24
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" `+
		`font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,DejaVu Sans Mono,monospace" font-size="13">`+"\n",
		width, height, width, height)
	fmt.Fprintf(&b, "<title>The demo in the middle of its burst</title>\n"+
		`<rect width="%d" height="%d" rx="8" fill="#171a20"/>`+"\n", width, height)
	for i, line := range lines {
		if line == "" {
			continue
		}
		ink := "#e8eaee"
		if heading.MatchString(line) {
			ink = "#7cb8f2"
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" fill="%s" xml:space="preserve" textLength="%.1f" lengthAdjust="spacing">`,
			margin, 36+i*row, ink, float64(len([]rune(line)))*cell)
		fmt.Fprintf(&b, "%s</text>\n", html.EscapeString(line))
	}
	b.WriteString("</svg>\n")
	return os.WriteFile(out, []byte(b.String()), 0o644)
}
