package amd

import (
	"errors"
	"strconv"
	"strings"

	"aliquot.example/internal/host"
)

// machine reads text files of the kernel under a root directory. A file of unexpected size or form is
// an error that contains its path.
type machine struct{ host.Root }

// errorCounts parses a RAS counter file ("ue: 1\nce: 20").
func errorCounts(text string) (uncorrectable, correctable uint64, err error) {
	seen := false
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
		if err != nil {
			continue
		}
		switch strings.TrimSpace(name) {
		case "ue":
			uncorrectable, seen = n, true
		case "ce":
			correctable, seen = n, true
		}
	}
	if !seen {
		return 0, 0, errors.New(`has neither "ue:" nor "ce:"`)
	}
	return uncorrectable, correctable, nil
}

// badPages counts the records of ras/gpu_vram_bad_pages: "address : size : flag"
// with flag R (retired), P (pending) or F (cannot be retired).
func badPages(text string) int {
	n := 0
	for line := range strings.Lines(text) {
		parts := strings.Split(strings.TrimSpace(line), ":")
		if len(parts) != 3 {
			continue
		}
		_, errAddress := strconv.ParseUint(strings.TrimSpace(parts[0]), 0, 64)
		switch strings.TrimSpace(parts[2]) {
		case "R", "P", "F":
			if errAddress == nil {
				n++
			}
		}
	}
	return n
}

// modes parses a list of partition modes ("SPX, DPX, CPX") to lower case.
func modes(text string) []string {
	return strings.FieldsFunc(strings.ToLower(text), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
}
