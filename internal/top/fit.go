package top

import (
	"fmt"
	"strings"
)

// Fit cuts a text to a window. A line longer than width ends in …. If there are more lines than
// height, the last line says how many are missing. The result does not end in a line break.
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
