package plugin

import (
	"os"
	"path/filepath"
	"strings"
)

// lasting returns the directory for files that must outlive a reboot, which empties /run. For a
// run directory below /run it is the same path below /var/lib, else the run directory itself.
func lasting(runDir string) string {
	for _, volatile := range []string{"/run", "/var/run"} {
		if rest, ok := strings.CutPrefix(runDir, volatile+"/"); ok {
			return filepath.Join("/var/lib", rest)
		}
	}
	return runDir
}

// WriteFile replaces a file atomically. It creates the file's directory.
func WriteFile(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
