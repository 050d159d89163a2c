package gpu_test

import (
	"regexp"
	"strings"
	"testing"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/reference"
)

// docs/configuration.md lists every variable of a grant, and no other.
func TestDocumentedEnvironment(t *testing.T) {
	_, text, _ := strings.Cut(reference.Page(t), "## The environment of a task\n")
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile("`(ALIQUOT_[A-Z_]+)`").FindAllStringSubmatch(text, -1) {
		listed[m[1]] = true
	}
	for name := range (gpu.Grant{}).Env() {
		if !listed[name] && !strings.HasPrefix(name, "ALIQUOT_GRANT_") {
			t.Errorf("%s is not listed", name)
		}
		delete(listed, name)
	}
	for name := range listed {
		t.Errorf("%s is listed and is not set", name)
	}
}
