// Package host reads the files in which the kernel describes a machine, below a root directory.
// That is "/", except in tests and in containers that mount the machine elsewhere. Its
// subdirectories interpret the files of one vendor's driver each.
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

// Root is the directory that contains a machine's /dev, /proc and /sys.
type Root string

// Running is the machine that the program runs on.
const Running Root = "/"

// MaxFile is larger than every file that is read here. Most files of the kernel have at most one page.
const MaxFile = 1 << 20

// Path joins elements below the root.
func (r Root) Path(elem ...string) string {
	return filepath.Join(append([]string{string(r)}, elem...)...)
}

// Exists reports whether a file exists.
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

// TextOr returns a file's content, or def if it cannot be read or is empty.
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

// NumberField is like Field, for a whole number that is not negative.
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

// Names returns the sorted names in a directory. A missing directory counts as empty.
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

// Device returns an error unless a device node exists.
func (r Root) Device(path string) error {
	if _, err := os.Stat(r.Path(path)); err != nil {
		return fmt.Errorf("device node %s is missing on the host: %w", path, err)
	}
	return nil
}

// BootID returns the kernel's boot ID, which changes with every boot.
func (r Root) BootID() string { return r.TextOr("", "/proc/sys/kernel/random/boot_id") }

// Process returns the directory of a process in /proc.
func (r Root) Process(pid int) string { return r.Path("/proc", strconv.Itoa(pid)) }

// Clip shortens file content for a message of one line.
func Clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}
