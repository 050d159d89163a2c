package wire

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Limit is what a GPU's driver lets the control group of a process have, in MiB, and the
// group; ok is false where it limits none.
func Limit(rack, uuid string, pid int) (group string, mib int, ok bool) {
	limits, err := os.ReadFile(filepath.Join(rack+".d", uuid+".limits"))
	if rack == "" || err != nil {
		return "", 0, false
	}
	for line := range strings.Lines(string(limits)) {
		var soft, hard uint64
		var dir string
		if n, _ := fmt.Sscan(line, &soft, &hard, &dir); n == 3 && InGroup(dir, pid) {
			group, mib, ok = dir, int(hard>>20), true
		}
	}
	return group, mib, ok
}

// InGroup reports whether a process is in a control group, or in one below it, that is
// given by its folder under /sys/fs/cgroup.
func InGroup(dir string, pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if own, found := strings.CutPrefix(strings.TrimSpace(line), "0::"); found {
			for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
				if strings.HasPrefix(filepath.Join(mount, own)+"/", strings.TrimSuffix(dir, "/")+"/") {
					return true
				}
			}
		}
	}
	return false
}
