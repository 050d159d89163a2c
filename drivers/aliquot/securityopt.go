package aliquot

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// securityKeys are the permitted keys of security_opt. With others, such as writable-cgroups, a
// task could leave the cgroup that restricts it to its device nodes.
var securityKeys = []string{"apparmor", "label", "no-new-privileges", "seccomp"}

// maxProfile is the maximum size of a seccomp profile, which the docker driver reads into memory.
// Docker's own has 12 KiB.
const maxProfile = 1 << 20

// securityOption splits an option in the same way as the docker driver and the engine.
func securityOption(opt string) (key, value string) {
	key, value, found := strings.Cut(opt, "=")
	if !found {
		key, value, _ = strings.Cut(opt, ":")
	}
	return key, value
}

// confineCgroup refuses options with which a task could leave its cgroup.
func confineCgroup(task TaskConfig) error {
	if m := task.CgroupnsMode; m != "" && m != "private" {
		return fmt.Errorf("cgroupns = %q shows the task the cgroups of other tasks, and through them their GPUs: %s",
			m, liftUngranted)
	}
	for _, opt := range task.SecurityOpt {
		if key, _ := securityOption(opt); !slices.Contains(securityKeys, key) {
			return fmt.Errorf("security_opt %q: a job may use only %s, because others may give it more GPUs: %s", opt,
				strings.Join(securityKeys, ", "), liftUngranted)
		}
	}
	return nil
}

// confineProfiles refuses seccomp profiles that are not small regular files: the docker driver
// reads them to the end in this process, which never happens with a device or a FIFO.
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
			return fmt.Errorf("security_opt %q: the profile is not a regular file", opt)
		case info.Size() > maxProfile:
			return fmt.Errorf("security_opt %q: the profile has %d bytes: use one of at most %d", opt, info.Size(),
				maxProfile)
		}
	}
	return nil
}
