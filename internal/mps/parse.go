package mps

import (
	"fmt"
	"strconv"
	"strings"
)

// ParsePercentage reads the answer to get_default_active_thread_percentage, such
// as "100.0": above 0 and at most 100.
func ParsePercentage(text string) (float64, error) {
	p, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil || !(p > 0 && p <= 100) {
		return 0, fmt.Errorf("the control program printed %q: want a percentage", clip(text))
	}
	return p, nil
}

// ParsePIDs reads a list of process IDs, one in a line. An empty list is none.
func ParsePIDs(text string) ([]int, error) {
	var pids []int
	for _, word := range strings.Fields(text) {
		pid, err := strconv.Atoi(word)
		if err != nil || pid <= 0 {
			return nil, fmt.Errorf("the control program printed %q: want process IDs", clip(text))
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// ParseStatus reads the answer to get_server_status.
func ParseStatus(text string) (Status, error) {
	switch s := Status(strings.ToUpper(strings.TrimSpace(text))); s {
	case Initializing, Active, Fault:
		return s, nil
	}
	return "", fmt.Errorf("the control program printed %q: want the status of a server", clip(text))
}

// clip shortens a program's output for one line of a log.
func clip(text string) string {
	const most = 80
	text = oneLine(text)
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}
