package host

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Libraries are where drivers install their libraries.
var Libraries = []string{"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib",
	"/usr/local/nvidia/lib64", "/run/nvidia/driver/usr/lib/x86_64-linux-gnu"}

// Behind resolves the links of a file below the root. Absolute links, such as those of Debian's
// alternatives, are relative to the root, too. It returns "" if there is no file.
func (r Root) Behind(path string) string {
	const most = 10
	for range most {
		to, err := os.Readlink(r.Path(path))
		if err != nil {
			break
		}
		if !strings.HasPrefix(to, "/") {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = to
	}
	if !r.Exists(path) {
		return ""
	}
	return path
}

var versioned = regexp.MustCompile(`\.so\.(\d+(?:\.\d+)+)$`)

// LibraryVersion returns the version in the name of a driver's library, such as
// libcuda.so.580.126.09, or "" if the name has none.
func LibraryVersion(file string) string {
	if m := versioned.FindStringSubmatch(file); m != nil {
		return m[1]
	}
	return ""
}
