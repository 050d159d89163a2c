package nvidia

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"aliquot.example/internal/host"
)

// Unnamed lists the driver's device nodes for which links in /dev/char are missing. udev creates
// such links only for other devices, and systemd needs them in a container's list of devices. It
// lists none if docker does not use systemd.
func Unnamed(root host.Root) []string {
	docker := root.TextOr("", "/etc/docker/daemon.json")
	if !root.Exists("/run/systemd/system") || strings.Contains(docker, "native.cgroupdriver=cgroupfs") {
		return nil
	}
	var out []string
	for _, dir := range []string{"/dev", "/dev/nvidia-caps"} {
		for _, name := range root.Names(dir) {
			if !strings.HasPrefix(name, "nvidia") {
				continue
			}
			path := filepath.Join(dir, name)
			info, err := os.Stat(root.Path(path))
			if err != nil || info.Mode()&os.ModeCharDevice == 0 {
				continue
			}
			stat, ok := info.Sys().(*syscall.Stat_t)
			if ok && !root.Exists(fmt.Sprintf("/dev/char/%d:%d", unix.Major(uint64(stat.Rdev)),
				unix.Minor(uint64(stat.Rdev)))) {
				out = append(out, path)
			}
		}
	}
	return out
}
