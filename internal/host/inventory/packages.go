package inventory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"aliquot.example/internal/driver"
	"aliquot.example/internal/host"
)

// states are dpkg's names for packages that are not completely installed, by the second letter of
// the status.
var states = map[byte]string{'U': "unpacked and not configured", 'F': "half-configured", 'H': "half-installed",
	'W': "waiting for the trigger of another package", 't': "waiting for its trigger"}

// packages lists the installed packages that matter for drivers, and the host's
// architecture. A host without dpkg has none.
func packages(ctx context.Context, root host.Root) (arch string, out []driver.Package, err error) {
	if root.Program("dpkg-query") == "" {
		return "", nil, nil
	}
	if arch, err = root.Output(ctx, "dpkg", "--print-architecture"); err != nil {
		return "", nil, err
	}
	text, err := root.Output(ctx, "dpkg-query", "-W", "-f", `${db:Status-Abbrev}\t${Package}\t${Version}\n`)
	if err != nil {
		return "", nil, err
	}
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if len(fields) != 3 || len(fields[0]) < 2 {
			return "", nil, fmt.Errorf("dpkg-query printed %q: want status, package and version", host.Clip(line))
		}
		p := driver.Package{Name: fields[1], Version: fields[2], Held: fields[0][0] == 'h',
			Broken: states[fields[0][1]]}
		if p.Broken == "" && fields[0][1] != 'i' {
			continue // removed, but its configuration remains
		}
		if p.Broken != "" || matters(p.Name) {
			out = append(out, p)
		}
	}
	return strings.TrimSpace(arch), out, nil
}

// matters reports whether a package belongs to a driver or is needed to compile drivers.
func matters(name string) bool {
	return strings.HasPrefix(name, "linux-headers-") || slices.ContainsFunc(driver.Makers(), func(m driver.Maker) bool {
		return m.Owns(name)
	})
}

// available returns the versions of all driver packages in apt's sources.
func available(ctx context.Context, root host.Root, f driver.Facts) (map[string][]string, error) {
	names := []string{"linux-headers-" + f.Kernel}
	if root.Program("apt-cache") == "" {
		return nil, nil
	}
	all, err := root.Output(ctx, "apt-cache", "pkgnames")
	if err != nil {
		return nil, err
	}
	for _, name := range strings.Fields(all) {
		if useful(name, f) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	out := map[string][]string{}
	for chunk := range slices.Chunk(slices.Compact(names), 200) {
		text, err := root.Output(ctx, "apt-cache", append([]string{"madison", "--"}, chunk...)...)
		if err != nil && !errors.Is(err, host.ErrNoProgram) && text == "" {
			return nil, err
		}
		addVersions(out, text)
	}
	return out, nil
}

// useful reports whether a package belongs to the driver of one of the host's GPUs. Modules for
// kernels other than the running one do not count, because there are many.
func useful(name string, f driver.Facts) bool {
	if strings.HasPrefix(name, "linux-") && !strings.HasSuffix(name, "-"+f.Kernel) {
		return false
	}
	return slices.ContainsFunc(driver.Makers(), func(m driver.Maker) bool {
		return f.Of(m.Vendor) > 0 && m.Owns(name)
	})
}

// addVersions adds the versions in an answer of apt-cache madison to those by package.
func addVersions(of map[string][]string, madison string) {
	for line := range strings.Lines(madison) {
		fields := strings.Split(line, "|")
		if len(fields) != 3 || strings.HasSuffix(strings.TrimSpace(fields[2]), "Sources") {
			continue
		}
		name, version := strings.TrimSpace(fields[0]), strings.TrimSpace(fields[1])
		if !slices.Contains(of[name], version) {
			of[name] = append(of[name], version)
		}
	}
}
