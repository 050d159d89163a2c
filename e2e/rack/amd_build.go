package rack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// AMDReleases are the releases of the library whose binary interface the fake can be built for. All
// of them differ in record sizes or enumeration values, some within one soname.
var AMDReleases = []string{"24.5", "24.6", "24.7", "25.4", "26.2", "26.5"}

// BuildAMD compiles the fake library of one release into dir, unless an earlier run built it from
// the same sources, and returns its folder for LD_LIBRARY_PATH. It needs gcc and go.
func BuildAMD(ctx context.Context, dir, release string) (string, error) {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return "", fmt.Errorf("AMD SMI release %q: want one of %s", release, strings.Join(AMDReleases, ", "))
	}
	dir, err := filepath.Abs(filepath.Join(dir, "amdsmi-"+release))
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	unlock, err := lockFile(filepath.Join(dir, ".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	where, err := run(ctx, "", "go", "list", "-m", "-f", "{{.Dir}}", module)
	if err != nil {
		return "", err
	}
	source := filepath.Join(strings.TrimSpace(where), "e2e", "rack", "amdsmi")
	soname := fmt.Sprintf("libamd_smi.so.%d", major)
	return dir, once(filepath.Join(dir, "lib.hash"), []string{source}, release, func() error {
		files, err := filepath.Glob(filepath.Join(source, "*.c"))
		if err != nil {
			return err
		}
		out := filepath.Join(dir, soname)
		args := append([]string{"-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared",
			"-fvisibility=hidden",
			fmt.Sprintf("-DABI=%d", 100*major+minor), "-Wl,-soname," + soname, "-o", out + ".new"}, files...)
		if _, err := run(ctx, "", "gcc", append(args, "-lpthread")...); err != nil {
			return err
		}
		return os.Rename(out+".new", out)
	})
}

// Env returns env with what a program needs to run on the AMD rack: the fake library first in
// LD_LIBRARY_PATH, and the readings in ALIQUOT_RACK_AMD. With an empty lib there is no library, as
// on a host without ROCm.
func (a *AMD) Env(lib string, env []string) []string {
	out := []string{"ALIQUOT_RACK_AMD=" + a.Path}
	path := lib
	for _, e := range env {
		switch v, isPath := strings.CutPrefix(e, "LD_LIBRARY_PATH="); {
		case isPath && path != "" && v != "":
			path += ":" + v
		case isPath && v != "":
			path = v
		case isPath, strings.HasPrefix(e, "ALIQUOT_RACK_AMD="):
		default:
			out = append(out, e)
		}
	}
	if path != "" {
		out = append(out, "LD_LIBRARY_PATH="+path)
	}
	return out
}
