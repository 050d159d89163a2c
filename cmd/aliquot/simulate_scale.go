package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/cli"

	"aliquot/internal/scale"
	"aliquot/simulate"
)

type simulateScaleCommand struct{ ui cli.Ui }

func (simulateScaleCommand) Synopsis() string {
	return "Replay a trace of requests against a scaling policy"
}

func (simulateScaleCommand) Help() string {
	return `Usage: aliquot simulate scale -trace <file> -policy <file or settings> [options]

  Replays recorded requests in simulated time and prints what they would have
  waited, how many replicas would have run and what they would have cost.

  A trace is CSV with the header arrival_s,input_tokens,output_tokens. A policy
  is a job file with scaling blocks for aliquot-strategy, a file with one such
  strategy block or its settings alone, or settings such as
  "slots=4,utilization=0.8"; see docs/scaling.md.

Options:

  -trace            File with the requests, - for standard input. Required.
  -policy           The policy. Required.
  -slots            Requests that a replica serves at once, in place of the policy's.
  -classes          Hardware classes in place of the policy's, such as
                    "h100 slots=8 cost=3.5 max=4, l4 slots=2 cost=1 max=16".
  -speed            How fast each class serves relative to the service times, such
                    as "h100=1,l4=0.3". Default: the speed that classes say, or 1.
  -load             Plan by these speeds, as a policy does whose query is for load
                    once the gateways have measured them. Default: what the query
                    of the policy's file is for.
  -coldstart        From the decision to start a replica until it serves. Default:
                    the policy's.
  -min, -max        Limits of each class's count. Default 0 and what classes say.
  -initial          Replicas of the first class at the start. Default -min.
  -interval         Evaluation interval. Default 1s.
  -query-window     Demand that one evaluation sees. Default 15m.
  -deployments      Every change of counts is a Nomad deployment, and further
                    changes wait for it. Default false.
  -per-input-token  Service time per input token. Default 100us.
  -per-output-token Service time per output token. Default 20ms.
  -every            Length of a line of the timeline, 0 for none. Default 5m.
  -plot             File for a plot, .svg or .png. Default none.

Example:

  aliquot simulate scale -trace requests.csv -policy slots=4,coldstart=90s -max 24
`
}

// scaleRun is the command's flags, read.
type scaleRun struct {
	trace    string
	config   scale.Config
	settings map[string]string
	speeds   map[string]float64

	policy, slots, classes, speed, plot                     string
	coldStart, interval, window, every, perInput, perOutput time.Duration
	min, max, initial                                       int
	deployments, load                                       bool
}

func (c simulateScaleCommand) Run(args []string) int {
	var r scaleRun
	flags := newFlags("simulate scale", c.ui)
	flags.StringVar(&r.trace, "trace", "", "")
	flags.StringVar(&r.policy, "policy", "", "")
	flags.StringVar(&r.slots, "slots", "", "")
	flags.StringVar(&r.classes, "classes", "", "")
	flags.StringVar(&r.speed, "speed", "", "")
	flags.BoolVar(&r.load, "load", false, "")
	flags.DurationVar(&r.coldStart, "coldstart", 0, "")
	flags.IntVar(&r.min, "min", 0, "")
	flags.IntVar(&r.max, "max", 0, "")
	flags.IntVar(&r.initial, "initial", -1, "")
	flags.DurationVar(&r.interval, "interval", time.Second, "")
	flags.DurationVar(&r.window, "query-window", 15*time.Minute, "")
	flags.BoolVar(&r.deployments, "deployments", false, "")
	flags.DurationVar(&r.perInput, "per-input-token", simulate.DefaultServiceModel().PerInputToken, "")
	flags.DurationVar(&r.perOutput, "per-output-token", simulate.DefaultServiceModel().PerOutputToken, "")
	flags.DurationVar(&r.every, "every", 5*time.Minute, "")
	flags.StringVar(&r.plot, "plot", "", "")
	if !flags.parse(args) {
		return 2
	}
	if err := r.check(); err != nil {
		c.ui.Error("aliquot simulate scale: " + flat(err) + "; see aliquot simulate scale -help")
		return 2
	}
	var out strings.Builder
	if err := r.run(&out); err != nil {
		c.ui.Error("aliquot simulate scale: " + flat(err))
		return 1
	}
	c.ui.Output(strings.TrimSuffix(out.String(), "\n"))
	return 0
}

// check reads and completes the flags.
func (r *scaleRun) check() (err error) {
	format := strings.TrimPrefix(filepath.Ext(r.plot), ".")
	switch {
	case r.trace == "":
		return errors.New("no trace: want -trace <file>")
	case r.policy == "":
		return errors.New("no policy: want -policy <file or settings>")
	case r.min < 0 || r.max < 0 || r.max > 0 && r.max < r.min:
		return fmt.Errorf("-min=%d -max=%d: want 0 or more, and the most not below the least", r.min, r.max)
	case r.interval < time.Millisecond || r.window < time.Second || r.every < 0 || r.coldStart < 0 || r.perInput < 0 || r.perOutput < 0:
		return errors.New("a duration is out of range: want -interval of at least 1ms, -query-window of at least 1s, and none negative")
	case r.plot != "" && format != "svg" && format != "png":
		return fmt.Errorf("-plot=%s: want a file that ends in .svg or .png", r.plot)
	}
	var load bool
	if r.settings, load, err = readPolicy(r.policy); err != nil {
		return err
	}
	r.load = r.load || load
	if r.classes != "" {
		delete(r.settings, "slots")
		delete(r.settings, "max")
		r.settings["classes"], r.settings["class"] = r.classes, firstWord(r.classes)
	}
	if r.slots != "" {
		delete(r.settings, "classes")
		delete(r.settings, "class")
		r.settings["slots"] = r.slots
	}
	if r.coldStart > 0 {
		r.settings["coldstart"] = r.coldStart.String()
	}
	if r.config, err = scale.ParseConfig(r.settings); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	if window := r.config.Policy.Window(); r.window < window {
		return fmt.Errorf("-query-window=%s: want at least %s, which is down_delay and stable_window", r.window, window)
	}
	r.speeds, err = readSpeeds(r.speed, r.config.Classes)
	return err
}

func firstWord(s string) string {
	words := strings.FieldsFunc(s, func(c rune) bool { return c == ' ' || c == ',' })
	if len(words) == 0 {
		return ""
	}
	return words[0]
}

// readSpeeds reads "h100=1,l4=0.3"; a class that is not named has the speed that
// stands in the policy.
func readSpeeds(text string, classes []scale.Class) (map[string]float64, error) {
	speeds := map[string]float64{}
	for _, class := range classes {
		speeds[class.Name] = class.Speed
	}
	for _, part := range strings.FieldsFunc(text, func(c rune) bool { return c == ',' }) {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		speed, err := strconv.ParseFloat(value, 64)
		if err != nil || !(speed > 0 && speed < 1e6) {
			return nil, fmt.Errorf("-speed has %q: want <class>=<number above 0>", part)
		}
		if _, ok := speeds[name]; !ok {
			return nil, fmt.Errorf("-speed names class %q, which the policy does not have", name)
		}
		speeds[name] = speed
	}
	return speeds, nil
}

// mostEvaluations bounds a run, to about two minutes: a week every second.
const mostEvaluations = 7 * 24 * 3600

func (r *scaleRun) run(w io.Writer) error {
	trace, err := r.readTrace()
	if err != nil {
		return err
	}
	if span := trace[len(trace)-1].At; span/r.interval > mostEvaluations {
		return fmt.Errorf("-trace spans %s, which is %d evaluations every %s: want at most %d; give a longer -interval, or a part of the trace", span, span/r.interval, r.interval, mostEvaluations)
	}
	classes, scaler := r.parts()
	result := simulate.Run(simulate.Config{Classes: classes, Deployments: r.deployments, MinHealthy: 10 * time.Second}, trace, scaler)
	printSummary(w, simulate.Summarize(result, classes), classes, trace)
	if r.every > 0 {
		printPeriods(w, simulate.Periods(result, trace, max(r.every, simulate.Step)), classes)
	}
	if r.plot == "" {
		return nil
	}
	file, err := os.Create(r.plot)
	if err != nil {
		return err
	}
	title := fmt.Sprintf("%s, cold start %s", filepath.Base(r.trace), r.config.Policy.ColdStart)
	err = simulate.Plot(file, filepath.Ext(r.plot)[1:], title, result, trace, classes)
	return errors.Join(err, file.Close())
}

func (r *scaleRun) readTrace() ([]simulate.Request, error) {
	model := simulate.ServiceModel{PerInputToken: r.perInput, PerOutputToken: r.perOutput}
	if r.trace == "-" {
		return simulate.ReadTrace(os.Stdin, model)
	}
	file, err := os.Open(r.trace)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return simulate.ReadTrace(file, model)
}

// parts makes the replicas and the scaler that the policy describes.
func (r *scaleRun) parts() ([]simulate.Class, *simulate.PolicyScaler) {
	scaler := &simulate.PolicyScaler{Policy: r.config.Policy, Classes: scale.WithSpeeds(r.config.Classes, r.speeds), QueryWindow: r.window, Every: r.interval}
	var classes []simulate.Class
	for i, class := range scaler.Classes {
		if r.max > 0 {
			scaler.Classes[i].Max = min(class.Max, r.max)
		}
		if !r.load {
			scaler.Classes[i].Speed = 1
		}
		scaler.Min = append(scaler.Min, min(r.min, scaler.Classes[i].Max))
		initial := scaler.Min[i]
		if i == 0 && r.initial >= 0 {
			initial = r.initial
		}
		classes = append(classes, simulate.Class{
			Name: class.Name, Slots: class.Slots, Cost: class.Cost, Speed: r.speeds[class.Name],
			ColdStart: r.config.Policy.ColdStart, Initial: initial,
		})
	}
	return classes, scaler
}
