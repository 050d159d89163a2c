package conformance

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// shipped builds a program of cmd/ as for a release, once per test process.
func shipped(t *testing.T, name string) string {
	t.Helper()
	once, _ := built.LoadOrStore(name, sync.OnceValues(func() (string, error) {
		path := filepath.Join(folder, name)
		build := exec.Command("go", "build", "-o", path, "aliquot.example/cmd/"+name)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := build.CombinedOutput()
		if err != nil {
			return "", &buildError{name, err, string(out)}
		}
		return path, nil
	}))
	path, err := once.(func() (string, error))()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

type buildError struct {
	program string
	err     error
	output  string
}

func (e *buildError) Error() string {
	return "cannot build " + e.program + ": " + e.err.Error() + "\n" + e.output
}

var (
	built  sync.Map
	folder string
)

func TestMain(m *testing.M) {
	var err error
	if folder, err = os.MkdirTemp("", "conformance-"); err != nil {
		panic(err)
	}
	status := m.Run()
	os.RemoveAll(folder)
	os.Exit(status)
}

// plain returns an environment without any vendor's library or fakes.
func plain() []string {
	return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/nonexistent"}
}
