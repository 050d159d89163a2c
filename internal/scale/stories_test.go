package scale

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// Each file of testdata is a story about one behavior: a policy's settings, a demand, and the
// decisions for it. `go test ./internal/scale -run TestStories -rewrite` writes the present
// decisions; review the diff.
//
//	policy                  settings of a policy, one per line, as in a job file
//	demand                  concurrent requests, oldest first: "9 for 15m", "20 to 80 over 10m"
//	then                    more demand, after what was there
//	decide current=N        the decision if the count is N
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var config Config
		var series []float64
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "policy":
				var err error
				if config, err = ParseConfig(settingsOf(d.Input)); err != nil {
					return err.Error() + "\n"
				}
				return ""
			case "demand":
				series = demandIn(t, d.Input)
				return ""
			case "then":
				series = append(series, demandIn(t, d.Input)...)
				return ""
			case "decide":
				var current int
				d.ScanArgs(t, "current", &current)
				return decided(config.Decide(Evaluation{Series: series, Current: current, SpeedsFor: Always}))
			}
			d.Fatalf(t, "unknown command %s", d.Cmd)
			return ""
		})
	})
}

func settingsOf(text string) map[string]string {
	settings := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, "=")
		settings[strings.TrimSpace(name)] = strings.Trim(strings.TrimSpace(value), `"`)
	}
	return settings
}

// demandIn parses a series, one value per second.
func demandIn(t *testing.T, text string) (series []float64) {
	t.Helper()
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		from, err := strconv.ParseFloat(words[0], 64)
		to, long := from, words[len(words)-1]
		if words[1] == "to" && err == nil {
			to, err = strconv.ParseFloat(words[2], 64)
		}
		took, err2 := time.ParseDuration(long)
		if err != nil || err2 != nil {
			t.Fatalf("no demand: %s", line)
		}
		n := steps(took)
		for i := range n {
			series = append(series, from+(to-from)*float64(i)/float64(n))
		}
	}
	return series
}

func decided(d Decision) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d: %s\n", d.Count, d.Reason)
	if d.Note != "" {
		fmt.Fprintf(&b, "note: %s\n", d.Note)
	}
	return b.String()
}
