package plugin

import (
	"os"
	"path/filepath"
	"strings"
)

// lasting is where the run directory's owner keeps what must outlive a reboot, which
// empties /run: the same folder below /var/lib, or the run directory itself where that
// is not below /run.
func lasting(runDir string) string {
	for _, volatile := range []string{"/run", "/var/run"} {
		if rest, ok := strings.CutPrefix(runDir, volatile+"/"); ok {
			return filepath.Join("/var/lib", rest)
		}
	}
	return runDir
}

// WriteFile replaces a file in one step, and makes its folder.
func WriteFile(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
