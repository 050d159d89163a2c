package nvidia

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// host makes a tree of files and links ("-> target").
func host(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for path, text := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, ok := strings.CutPrefix(text, "-> "); ok {
			err = os.Symlink(to, path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestMismatch(t *testing.T) {
	const lib = "usr/lib/x86_64-linux-gnu/"
	for name, c := range map[string]struct {
		files map[string]string
		want  []string // parts of the text; none for no mismatch
	}{
		"no driver": {nil, nil},
		"same": {map[string]string{"sys/module/nvidia/version": "535.309.01\n",
			lib + "libcuda.so.1": "-> libcuda.so.535.309.01", lib + "libcuda.so.535.309.01": ""}, nil},
		"Debian's alternatives": {map[string]string{"sys/module/nvidia/version": "535.261.03\n",
			lib + "libcuda.so.1": "-> /etc/alternatives/libcuda", "etc/alternatives/libcuda": "-> /" + lib + "nvidia/current/libcuda.so.1",
			lib + "nvidia/current/libcuda.so.1": "-> libcuda.so.535.309.01", lib + "nvidia/current/libcuda.so.535.309.01": ""},
			[]string{"libraries on this host are 535.309.01", "module is 535.261.03", "reboot"}},
		"the version in /proc": {map[string]string{
			"proc/driver/nvidia/version":      "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\nGCC version: 12.2.0\n",
			"usr/lib64/libnvidia-ml.so.1":     "-> libnvidia-ml.so.590.1",
			"usr/lib64/libnvidia-ml.so.590.1": ""}, []string{"590.1", "580.95.05"}},
		"a link to nothing":  {map[string]string{"sys/module/nvidia/version": "1.2", lib + "libcuda.so.1": "-> libcuda.so.1.3"}, nil},
		"a link to itself":   {map[string]string{"sys/module/nvidia/version": "1.2", lib + "libcuda.so.1": "-> libcuda.so.1"}, nil},
		"no version in name": {map[string]string{"sys/module/nvidia/version": "1.2", lib + "libcuda.so.1": ""}, nil},
	} {
		got := mismatch(host(t, c.files), "")
		if (got == "") != (len(c.want) == 0) {
			t.Errorf("%s: %q", name, got)
		}
		for _, part := range c.want {
			if !strings.Contains(got, part) {
				t.Errorf("%s: %q does not say %q", name, got, part)
			}
		}
	}
}

// A driver that the configuration names, as that of a container, is compared by its own
// libraries: old ones that are left in the system's folders make no GPU unhealthy.
func TestMismatchOfAConfiguredLibrary(t *testing.T) {
	const old, own = "usr/lib/x86_64-linux-gnu/", "run/nvidia/driver/usr/lib64/"
	for name, c := range map[string]struct {
		files map[string]string
		want  string // part of the text, "" for no mismatch
	}{
		"its own are the module's": {map[string]string{own + "libcuda.so.1": "-> libcuda.so.580.95.05", own + "libcuda.so.580.95.05": ""}, ""},
		"its own are others":       {map[string]string{own + "libcuda.so.1": "-> libcuda.so.590.1", own + "libcuda.so.590.1": ""}, "are 590.1"},
		"only NVML":                {map[string]string{own + "libnvidia-ml.so.1": "-> libnvidia-ml.so.590.2", own + "libnvidia-ml.so.590.2": ""}, "are 590.2"},
		"none":                     {nil, ""},
		"a link out of its folder": {map[string]string{own + "libcuda.so.1": "-> ../../../../../" + old + "libcuda.so.535.1"}, ""},
	} {
		files := map[string]string{"sys/module/nvidia/version": "580.95.05\n", old + "libcuda.so.1": "-> libcuda.so.535.1", old + "libcuda.so.535.1": ""}
		maps.Copy(files, c.files)
		root := host(t, files)
		got := mismatch(root, filepath.Join(root, own, soname))
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
