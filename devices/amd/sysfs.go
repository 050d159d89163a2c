package amd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// machine reads the files of a host under a root directory. All that it reads is
// text of the kernel; a file of another size or form is an error with its path.
type machine struct{ root string }

// maxFile is more than any file that is read here holds; the kernel gives at
// most one page for most of them.
const maxFile = 1 << 20

func (m machine) path(elem ...string) string {
	return filepath.Join(append([]string{m.root}, elem...)...)
}

// text returns a file's content without the space around it.
func (m machine) text(elem ...string) (string, error) {
	path := m.path(elem...)
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxFile {
		return "", fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return strings.TrimSpace(string(b)), nil
}

// textOr returns a file's content, or def where it cannot be read or is empty.
func (m machine) textOr(def string, elem ...string) string {
	if s, err := m.text(elem...); err == nil && s != "" {
		return s
	}
	return def
}

// number reads a file of one decimal number, negative ones included.
func (m machine) number(elem ...string) (int64, error) {
	s, err := m.text(elem...)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s holds %q, not a number", m.path(elem...), clip(s))
	}
	return n, nil
}

// names lists a directory in order; a missing one is empty.
func (m machine) names(elem ...string) []string {
	entries, err := os.ReadDir(m.path(elem...))
	if err != nil {
		return nil
	}
	out := make([]string, 0, len(entries))
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func (m machine) exists(elem ...string) bool {
	_, err := os.Stat(m.path(elem...))
	return err == nil
}

// numbered lists the entries of a directory that are whole numbers, ascending.
func (m machine) numbered(elem ...string) []int {
	var out []int
	for _, name := range m.names(elem...) {
		if n, err := strconv.Atoi(name); err == nil && n >= 0 {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// properties parses KFD's "name value" lines. Every value must be a whole number
// that fits 64 bits.
func properties(text string) (map[string]uint64, error) {
	out := map[string]uint64{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		name, value, ok := strings.Cut(line, " ")
		if !ok {
			return nil, fmt.Errorf("line %q has no value; is the file truncated?", clip(line))
		}
		n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s is %q, not a number", clip(name), clip(value))
		}
		out[name] = n
	}
	return out, nil
}

// need returns the values of names or an error that lists what is missing.
func need(props map[string]uint64, names ...string) error {
	var missing []string
	for _, n := range names {
		if _, ok := props[n]; !ok {
			missing = append(missing, n)
		}
	}
	if missing != nil {
		return fmt.Errorf("has no %s; is the file truncated?", strings.Join(missing, ", "))
	}
	return nil
}

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

// clip shortens file content for a message of one line.
func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}
