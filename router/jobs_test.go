package router_test

import (
	"math"
	"os"
	"regexp"
	"strconv"
	"testing"

	"aliquot.example/internal/gpu"
)

// The instance weights in shipped job files are the table's, times the part of a
// GPU that the job asks for, H100 SXM = 100.
func TestInstanceWeightsInJobs(t *testing.T) {
	text, err := os.ReadFile("../jobs/scaling-two-classes.nomad.hcl")
	if err != nil {
		t.Fatal(err)
	}
	weights := regexp.MustCompile(`(?s)variable "weights".*?default\s*= \{([^}]*)\}`).FindSubmatch(text)
	if weights == nil {
		t.Fatal("the job file has no weights")
	}
	seen := 0
	for _, m := range regexp.MustCompile(`([a-z0-9-]+)\s*= ([0-9]+)`).FindAllSubmatch(weights[1], -1) {
		class := string(m[1])
		slices := regexp.MustCompile(class + `\s*= \{ slices = ([0-9]+)`).FindSubmatch(text)
		if slices == nil {
			t.Fatalf("class %s has no slices in the job file", class)
		}
		n, _ := strconv.Atoi(string(slices[1]))
		for _, h := range gpu.Table() {
			if h.Class != class {
				continue
			}
			seen++
			if want := strconv.Itoa(max(1, int(math.Round(100*h.Weight*float64(n)/20)))); want != string(m[2]) {
				t.Errorf("class %s has weight %s, by the table %s", class, m[2], want)
			}
		}
	}
	if seen != 2 {
		t.Errorf("found %d classes, want 2", seen)
	}
}
