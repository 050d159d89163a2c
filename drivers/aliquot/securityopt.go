package aliquot

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// securityKeys are the keys of security_opt with which a grant holds. Others, such as
// writable-cgroups, let a task out of the cgroup that keeps it to its device nodes.
var securityKeys = []string{"apparmor", "label", "no-new-privileges", "seccomp"}

// maxProfile bounds a seccomp profile, which the docker driver reads into memory;
// Docker's own has 12 KiB.
const maxProfile = 1 << 20

// securityOption takes an option apart as the docker driver and the engine do.
func securityOption(opt string) (key, value string) {
	key, value, found := strings.Cut(opt, "=")
	if !found {
		key, value, _ = strings.Cut(opt, ":")
	}
	return key, value
}

// confineCgroup refuses what lets a task leave its cgroup.
func confineCgroup(task TaskConfig) error {
	if m := task.CgroupnsMode; m != "" && m != "private" {
		return fmt.Errorf("cgroupns = %q shows the task the cgroups of others, and with them the way to their GPUs: %s",
			m, liftUngranted)
	}
	for _, opt := range task.SecurityOpt {
		if key, _ := securityOption(opt); !slices.Contains(securityKeys, key) {
			return fmt.Errorf("security_opt %q: a job may use %s, with which a task keeps to its GPUs: %s", opt,
				strings.Join(securityKeys, ", "), liftUngranted)
		}
	}
	return nil
}

// confineProfiles refuses seccomp profiles that the docker driver cannot read: it reads
// a path to its end in this process, a device or a FIFO for ever.
func confineProfiles(task TaskConfig) error {
	for _, opt := range task.SecurityOpt {
		key, path := securityOption(opt)
		if key != "seccomp" || path == "unconfined" || path == "builtin" {
			continue
		}
		info, err := os.Stat(path)
		switch {
		case err != nil:
			return fmt.Errorf("security_opt %q: %w", opt, err)
		case !info.Mode().IsRegular():
			return fmt.Errorf("security_opt %q: the profile is no regular file", opt)
		case info.Size() > maxProfile:
			return fmt.Errorf("security_opt %q: the profile has %d bytes, and at most %d are read", opt, info.Size(),
				maxProfile)
		}
	}
	return nil
}
