package top

import (
	"fmt"
	"strings"
)

// Fit cuts a text to a window: a line that is longer than width ends in …, and where
// there are more lines than height the last one says how many are missing. The result
// has no line break at its end.
func Fit(text string, width, height int) string {
	if width < 1 || height < 1 {
		return ""
	}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) > height {
		missing := len(lines) - height + 1
		lines = append(lines[:height-1:height-1], fmt.Sprintf("… %d more lines", missing))
	}
	for i, line := range lines {
		if runes := []rune(line); len(runes) > width {
			lines[i] = string(runes[:width-1]) + "…"
		}
	}
	return strings.Join(lines, "\n")
}
