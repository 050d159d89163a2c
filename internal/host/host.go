// Package host reads the files in which the kernel describes a machine, below a
// root directory: "/" but for tests and for containers that see the machine
// elsewhere. A folder below knows what the files of one vendor's driver mean.
package host

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Root is the directory that holds a machine's /dev, /proc and /sys.
type Root string

// Running is the machine that the program runs on.
const Running Root = "/"

// MaxFile is more than any file that is read here holds; the kernel gives at most
// one page for most of them.
const MaxFile = 1 << 20

// Path joins elements below the root.
func (r Root) Path(elem ...string) string {
	return filepath.Join(append([]string{string(r)}, elem...)...)
}

// Exists reports whether there is a file.
func (r Root) Exists(elem ...string) bool {
	_, err := os.Stat(r.Path(elem...))
	return err == nil
}

// Text returns a file's content without the space around it. It fails on a file
// of more than MaxFile bytes.
func (r Root) Text(elem ...string) (string, error) {
	path := r.Path(elem...)
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return "", err
	}
	if len(b) > MaxFile {
		return "", fmt.Errorf("%s is larger than %d bytes", path, MaxFile)
	}
	return strings.TrimSpace(string(b)), nil
}

// TextOr returns a file's content, or def where it cannot be read or is empty.
func (r Root) TextOr(def string, elem ...string) string {
	if s, err := r.Text(elem...); err == nil && s != "" {
		return s
	}
	return def
}

// Number reads a file of one decimal number, negative ones included.
func (r Root) Number(elem ...string) (int64, error) {
	s, err := r.Text(elem...)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s holds %q, not a number", r.Path(elem...), Clip(s))
	}
	return n, nil
}

// Field returns the value of "name: value" in a file.
func (r Root) Field(path, name string) (string, error) {
	text, err := r.Text(path)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("%s has no field %q", r.Path(path), name)
}

// NumberField is Field for a whole number that is not negative.
func (r Root) NumberField(path, name string) (int, error) {
	value, err := r.Field(path, name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s: field %q is %q, want a number", r.Path(path), name, Clip(value))
	}
	return n, nil
}

// Names lists a directory in order; a missing one is empty.
func (r Root) Names(elem ...string) []string {
	entries, err := os.ReadDir(r.Path(elem...))
	if err != nil {
		return nil
	}
	out := make([]string, 0, len(entries))
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// Numbered lists the entries of a directory that are whole numbers, ascending.
func (r Root) Numbered(elem ...string) []int {
	var out []int
	for _, name := range r.Names(elem...) {
		if n, err := strconv.Atoi(name); err == nil && n >= 0 {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// Device checks that a device node is there.
func (r Root) Device(path string) error {
	if _, err := os.Stat(r.Path(path)); err != nil {
		return fmt.Errorf("device node %s is missing on the host: %w", path, err)
	}
	return nil
}

// BootID is the kernel's, another after every boot.
func (r Root) BootID() string { return r.TextOr("", "/proc/sys/kernel/random/boot_id") }

// Process is the folder of a process.
func (r Root) Process(pid int) string { return r.Path("/proc", strconv.Itoa(pid)) }

// Clip shortens file content for a message of one line.
func Clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}
