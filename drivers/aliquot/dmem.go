package aliquot

import (
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	machine "aliquot.example/internal/host"
)

// The cgroup controller of device memory, from Linux 6.14 on
// (Documentation/admin-guide/cgroup-v2.rst, "DMEM"): regions with their sizes are in
// the root's dmem.capacity, and a group's limit of each in dmem.max, both as lines of
// "<region> <bytes>".
const (
	cgroups  = "/sys/fs/cgroup"
	dmem     = "dmem"
	capacity = cgroups + "/dmem.capacity"
)

// dmemRegions returns the regions whose names begin so.
func dmemRegions(root machine.Root, prefix string) []string {
	text, err := root.Text(capacity)
	if err != nil {
		return nil // no such controller
	}
	var out []string
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 2 && strings.HasPrefix(f[0], prefix) {
			out = append(out, f[0])
		}
	}
	return out
}

// passDmem enables the controller for a control group in all of its parents, and returns the group's
// directory.
func passDmem(root machine.Root, group string) (dir string, err error) {
	dir = cgroups
	for _, part := range strings.Split(strings.Trim(group, "/"), "/") {
		control := path.Join(dir, "cgroup.subtree_control")
		text, err := root.Text(control)
		if err != nil {
			return "", err
		}
		if !strings.Contains(" "+text+" ", " "+dmem+" ") {
			if err := write(root, control, "+"+dmem); err != nil {
				return "", err
			}
		}
		dir = path.Join(dir, part)
	}
	return dir, nil
}

// limitDmem limits a control group's memory in a region, and reads the limit back.
func limitDmem(root machine.Root, group, region string, limit uint64) error {
	dir, err := passDmem(root, group)
	if err != nil {
		return err
	}
	file := path.Join(dir, "dmem.max")
	if err := write(root, file, fmt.Sprintf("%s %d", region, limit)); err != nil {
		return err
	}
	text, err := root.Text(file)
	if err != nil {
		return err
	}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 2 || f[0] != region {
			continue
		}
		if got, err := strconv.ParseUint(f[1], 10, 64); err == nil && got <= limit {
			return nil
		}
		return fmt.Errorf("%s has the limit %s after %d was written", file, f[1], limit)
	}
	return fmt.Errorf("%s has no limit of %s after it was written", file, region)
}

func write(root machine.Root, file, text string) error {
	f, err := os.OpenFile(root.Path(file), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(text)
	return err
}

// groupOf returns the control group of a process in the cgroup v2 hierarchy, "" if the process is in the
// root group.
func groupOf(root machine.Root, pid int) string {
	text, err := root.Text("/proc", strconv.Itoa(pid), "cgroup")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(text) {
		if group, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok && group != "/" {
			return group
		}
	}
	return ""
}
