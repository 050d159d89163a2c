package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/cli"
)

const smallTrace = "arrival_s,input_tokens,output_tokens\n1,100,50\n2,100,50\n400,100,50\n"

func simulateScale(t *testing.T, args ...string) (status int, out, problem string) {
	t.Helper()
	ui := cli.NewMockUi()
	status = simulateScaleCommand{ui}.Run(args)
	return status, ui.OutputWriter.String(), ui.ErrorWriter.String()
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSimulateScalePrintsAndPlots(t *testing.T) {
	trace, plot := file(t, "trace.csv", smallTrace), filepath.Join(t.TempDir(), "out.svg")
	policy := file(t, "job.hcl", `job "llm" {
  group "server" {
    scaling {
      policy {
        check "demand" {
          strategy "aliquot-strategy" {
            class   = "t4"
            classes = "h100 slots=8 cost=8 max=4, t4 slots=2 cost=1 max=8"
          }
        }
      }
    }
  }
}`)
	status, out, problem := simulateScale(t, "-trace", trace, "-policy", policy, "-coldstart", "10s", "-speed", "t4=0.5", "-plot", plot)
	if status != 0 || problem != "" {
		t.Fatalf("status %d: %s", status, problem)
	}
	for _, want := range []string{"requests       3 in 6m40s", "of h100, cost 0.00", "of t4", "t4 ready/set", "0:05:00"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	checkPlot(t, plot)
}

// checkPlot reports what a reader of the plot would miss: a named line, a unit, a tick
// whose label is as short as its value.
func checkPlot(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<svg", "h100 wanted", "t4 ready", "wait of each request", "minutes since the start", ">0<"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the plot lacks %q", want)
		}
	}
	if strings.Contains(string(text), ">0.00<") {
		t.Error("the plot has a tick labelled 0.00")
	}
}

// What would run for minutes without a word is refused.
func TestSimulateScaleRefusesAnEndlessTrace(t *testing.T) {
	trace := file(t, "trace.csv", "arrival_s,input_tokens,output_tokens\n0,10,10\n1000000,10,10\n")
	status, _, problem := simulateScale(t, "-trace", trace, "-policy", "slots=4", "-max", "4")
	if status == 0 || !strings.Contains(problem, "1000000 evaluations every 1s") || !strings.Contains(problem, "-interval") {
		t.Errorf("status %d: %s", status, problem)
	}
	if status, _, problem := simulateScale(t, "-trace", trace, "-policy", "slots=4", "-max", "4", "-interval", "1h", "-every", "24h"); status != 0 {
		t.Errorf("with a longer interval: %s", problem)
	}
}

// 40 requests of 10 s at once are 3 replicas of 16 slots, or, by speed, 40 slots of
// h100 that t4 does not offer.
func TestSimulateScalePlansAsThePolicysQuerySays(t *testing.T) {
	trace := file(t, "trace.csv", "arrival_s,input_tokens,output_tokens\n"+strings.Repeat("1,0,500\n", 40)+"400,0,500\n")
	for _, c := range []struct {
		query string
		args  []string
		h100  string // "none", "some"
	}{
		{`concurrency service=${var.service}`, nil, "none"},
		{`load service=${var.service} classes='${local.classes}'`, nil, "some"},
		{`concurrency service=llm`, []string{"-load"}, "some"},
		{`concurrency service=llm`, []string{"-load", "-speed", "t4=1"}, "none"},
	} {
		policy := file(t, "job.hcl", `check "demand" {
  query = "`+c.query+`"
  strategy "aliquot-strategy" {
    class   = "t4"
    classes = "h100 slots=16 cost=8 max=4, t4 slots=16 cost=1 max=8 speed=0.1"
  }
}`)
		status, out, problem := simulateScale(t, append([]string{"-trace", trace, "-policy", policy, "-coldstart", "10s", "-every", "0"}, c.args...)...)
		if got := !strings.Contains(out, "0.00 of h100"); status != 0 || got != (c.h100 == "some") {
			t.Errorf("%s %v: %s of h100 is wanted: status %d\n%s%s", c.query, c.args, c.h100, status, out, problem)
		}
	}
}

func TestSimulateScaleSaysWhatIsWrong(t *testing.T) {
	trace := file(t, "trace.csv", smallTrace)
	fromVariable := file(t, "variable.hcl", "strategy \"aliquot-strategy\" {\n  slots = var.slots\n}\n")
	broken := file(t, "broken.hcl", "slots = ")
	for _, c := range []struct {
		want string
		args []string
	}{
		{"no trace", []string{"-policy", "slots=2"}},
		{"no policy", []string{"-trace", trace}},
		{"slots is missing", []string{"-trace", trace, "-policy", "utilization=0.5"}},
		{"variable.hcl:2: slots is not a fixed value", []string{"-trace", trace, "-policy", fromVariable}},
		{"broken.hcl:1,9", []string{"-trace", trace, "-policy", broken}},
		{"no such file", []string{"-trace", "/none", "-policy", "slots=2"}},
		{"want a file that ends in .svg or .png", []string{"-trace", trace, "-policy", "slots=2", "-plot", "x.gif"}},
		{`names class "l4"`, []string{"-trace", trace, "-policy", "slots=2", "-speed", "l4=1"}},
		{"-query-window=1m0s: want at least 6m0s", []string{"-trace", trace, "-policy", "slots=2", "-query-window", "1m"}},
		{"classes, column 12", []string{"-trace", trace, "-policy", "utilization=0.8", "-classes", "h100 slots=x max=1"}},
	} {
		status, _, problem := simulateScale(t, c.args...)
		if status == 0 || !strings.Contains(problem, c.want) || strings.Count(problem, "\n") != 1 {
			t.Errorf("%v: status %d, %q, want one line with %q", c.args, status, problem, c.want)
		}
	}
}

// An objective is replayed on engines that batch, beside looser and tighter ones.
func TestSimulateScaleByAnObjective(t *testing.T) {
	trace, plot := file(t, "trace.csv", smallTrace), filepath.Join(t.TempDir(), "frontier.svg")
	curve := file(t, "gpu.json", `{"curve":{"start":0.002,"prefill":0.0001,"a":0.015,"b":0.00002,"c":0.0000002,"kv_tokens":80000,"n":90}}`)
	args := []string{"-trace", trace, "-policy", "slots=1,coldstart=10s", "-min", "1", "-objective", "ttft=1s tpot=50ms quantile=0.9", "-curve", "gpu=" + curve}
	status, out, problem := simulateScale(t, append(args, "-frontier", "-plot", plot)...)
	if status != 0 || problem != "" {
		t.Fatalf("status %d: %s", status, problem)
	}
	for _, want := range []string{"ttft=1s tpot=50ms quantile=0.9", "within         100.00%, 90% promised", "of gpu, cost", "ttft=3s tpot=150ms quantile=0.9"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	drawn, err := os.ReadFile(plot)
	if err != nil || !strings.Contains(string(drawn), "requests within the objective") || !strings.Contains(string(drawn), "cost of the trace") {
		t.Errorf("the plot: %v, %d bytes", err, len(drawn))
	}
	empty := file(t, "empty.json", "{}")
	cut := file(t, "cut.json", `{"curve":{"start":0.002,"pre`)
	negative := file(t, "negative.json", `{"curve":{"prefill":0.0001,"a":0.015,"b":-0.5}}`)
	huge := file(t, "huge.json", `{"curve":{"prefill":0.0001,"a":0.015,"kv_tokens":1e300}}`)
	words := file(t, "words.json", `{"curve":{"prefill":"fast","a":0.015}}`)
	for _, c := range []struct {
		want string
		args []string
	}{
		{"an objective needs the curve of each class", args[:8]},
		{"-curve without an objective", []string{"-trace", trace, "-policy", "slots=1", "-curve", "gpu=" + curve}},
		{"-frontier needs an objective", []string{"-trace", trace, "-policy", "slots=1", "-frontier"}},
		{"has no curve", append(append([]string{}, args[:8]...), "-curve", "gpu="+empty)},
		{"cut.json: unexpected end of JSON input", append(append([]string{}, args[:8]...), "-curve", "gpu="+cut)},
		{"negative.json has a figure that is negative", append(append([]string{}, args[:8]...), "-curve", "gpu="+negative)},
		{"huge.json has a figure that is negative or above", append(append([]string{}, args[:8]...), "-curve", "gpu="+huge)},
		{"words.json: json: cannot unmarshal string", append(append([]string{}, args[:8]...), "-curve", "gpu="+words)},
		{`names class "gpu" twice`, append(append([]string{}, args[:8]...), "-curve", "gpu="+curve+",gpu="+curve)},
		{`names class "l4"`, append(append([]string{}, args[:8]...), "-curve", "l4="+curve)},
		{"no such file", append(append([]string{}, args[:8]...), "-curve", "gpu=/none")},
		{"unknown word", append(append([]string{}, args[:6]...), "-objective", "fast", "-curve", "gpu="+curve)},
	} {
		status, _, problem := simulateScale(t, c.args...)
		if status == 0 || !strings.Contains(problem, c.want) || strings.Count(problem, "\n") != 1 {
			t.Errorf("%v: status %d, %q, want one line with %q", c.args, status, problem, c.want)
		}
	}
}
