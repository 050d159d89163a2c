package rack

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// File is a rack file: the driver, and the GPUs in NVML's order.
type File struct {
	Driver Section
	GPUs   []GPU
}

// GPU is one [gpu] section with the [mig] and [process] sections that follow it.
type GPU struct {
	Section
	MIG       []Section
	Processes []Section
}

// Field is one "key = value" line.
type Field struct{ Key, Value string }

// Section holds the lines of one section in order. The keys event, fail and profile may occur
// several times.
type Section []Field

// Get returns the first value of key, or "".
func (s Section) Get(key string) string {
	for _, f := range s {
		if f.Key == key {
			return f.Value
		}
	}
	return ""
}

// All returns every value of key.
func (s Section) All(key string) []string {
	var out []string
	for _, f := range s {
		if f.Key == key {
			out = append(out, f.Value)
		}
	}
	return out
}

// Int returns the value of key as a number, or 0 if it is absent or N/A.
func (s Section) Int(key string) int {
	n, _ := strconv.ParseInt(s.Get(key), 0, 64)
	return int(n)
}

// Set replaces the first value of key, or adds it.
func (s *Section) Set(key, value string) {
	for i := range *s {
		if (*s)[i].Key == key {
			(*s)[i].Value = value
			return
		}
	}
	s.Add(key, value)
}

// Add adds a line.
func (s *Section) Add(key, value string) { *s = append(*s, Field{key, value}) }

// Drop removes every line of key.
func (s *Section) Drop(key string) {
	*s = slices.DeleteFunc(*s, func(f Field) bool { return f.Key == key })
}

// UUID returns the UUID of the GPU or MIG device.
func (s Section) UUID() string { return s.Get("uuid") }

// PCI returns the PCI address in the format of sysfs and the kernel: with a domain of four digits
// and in lower case, for example 0000:18:00.0.
func (s Section) PCI() string {
	var domain, bus, device uint
	if _, err := fmt.Sscanf(s.Get("pci"), "%x:%x:%x.0", &domain, &bus, &device); err != nil {
		return ""
	}
	return fmt.Sprintf("%04x:%02x:%02x.0", domain, bus, device)
}

// GPU returns the GPU with that UUID, or nil.
func (f *File) GPU(uuid string) *GPU {
	for i := range f.GPUs {
		if f.GPUs[i].UUID() == uuid {
			return &f.GPUs[i]
		}
	}
	return nil
}

// Present returns the GPUs that are on the bus.
func (f *File) Present() []GPU {
	var out []GPU
	for _, g := range f.GPUs {
		if g.Get("absent") != "yes" {
			out = append(out, g)
		}
	}
	return out
}

// Load reads a rack file.
func Load(path string) (*File, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f, err := Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s:%w", path, err)
	}
	return f, nil
}

// Parse parses the text of a rack file. It does not check keys: the fake library does so when it
// loads the file.
func Parse(text string) (*File, error) {
	f := &File{}
	var in *Section
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		if strings.HasPrefix(line, "[") {
			if in = f.open(line); in == nil {
				return nil, fmt.Errorf("%d: section %s is unknown or comes before any [gpu]", i+1, line)
			}
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || in == nil {
			return nil, fmt.Errorf("%d: want key = value inside a section, have %q", i+1, line)
		}
		in.Add(strings.TrimSpace(key), strings.TrimSpace(value))
	}
	return f, nil
}

func (f *File) open(name string) *Section {
	if name == "[driver]" {
		return &f.Driver
	}
	if name == "[gpu]" {
		f.GPUs = append(f.GPUs, GPU{})
		return &f.GPUs[len(f.GPUs)-1].Section
	}
	if len(f.GPUs) == 0 {
		return nil
	}
	g := &f.GPUs[len(f.GPUs)-1]
	switch name {
	case "[mig]":
		g.MIG = append(g.MIG, nil)
		return &g.MIG[len(g.MIG)-1]
	case "[process]":
		g.Processes = append(g.Processes, nil)
		return &g.Processes[len(g.Processes)-1]
	}
	return nil
}

// String returns the file's text; Parse is its inverse.
func (f *File) String() string {
	var b strings.Builder
	write := func(name string, s Section) {
		fmt.Fprintf(&b, "[%s]\n", name)
		for _, field := range s {
			fmt.Fprintf(&b, "%s = %s\n", field.Key, field.Value)
		}
		b.WriteByte('\n')
	}
	write("driver", f.Driver)
	for _, g := range f.GPUs {
		write("gpu", g.Section)
		for _, m := range g.MIG {
			write("mig", m)
		}
		for _, p := range g.Processes {
			write("process", p)
		}
	}
	return b.String()
}

// Write writes the file atomically.
func (f *File) Write(path string) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".rack-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.WriteString(f.String()); err != nil {
		tmp.Close()
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	if err := os.Chmod(tmp.Name(), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
