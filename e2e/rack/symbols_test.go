package rack_test

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Programs of others end at the first function that the library lacks: it exports
// every one of go-nvml's header.
func TestTheLibraryHasEveryFunction(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/NVIDIA/go-nvml").Output()
	if err != nil {
		t.Fatal(err)
	}
	header, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "pkg/nvml/nvml.h"))
	if err != nil {
		t.Fatal(err)
	}
	lib, err := elf.Open(filepath.Join(tools.Lib, "libnvidia-ml.so.1"))
	if err != nil {
		t.Fatal(err)
	}
	defer lib.Close()
	symbols, err := lib.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, s := range symbols {
		have[s.Name] = true
	}
	declared := regexp.MustCompile(`(?m)^nvmlReturn_t DECLDIR (nvml\w+)\(`).FindAllSubmatch(header, -1)
	if len(declared) < 350 {
		t.Fatalf("%d functions in the header", len(declared))
	}
	for _, m := range declared {
		if name := string(m[1]); !have[name] {
			t.Errorf("the library lacks %s", name)
		}
	}
}
