// Package replay implements aliquot simulate scale: it reads a trace and a policy as users write
// them, replays the trace against the policy, and prints the results.
package replay

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"aliquot.example/internal/learned"
	"aliquot.example/internal/scale"
	"aliquot.example/simulate"
)

// Options are the command's flags.
type Options struct {
	// Trace is a file of requests, "-" for Stdin. Policy is a file or settings.
	Trace, Policy string
	Stdin         io.Reader
	// Slots and Classes override those of the policy. Speed sets the speeds of classes.
	Slots, Classes, Speed string
	// Load makes the policy plan with these speeds.
	Load bool
	// Curves names one file per class with the curve of its engine. Objective overrides the
	// policy's objective.
	Curves, Objective string
	// Frontier also replays with looser and tighter objectives.
	Frontier                                                bool
	Plot                                                    string
	ColdStart, Interval, Window, Every, PerInput, PerOutput time.Duration
	Min, Max, Initial                                       int
	Deployments                                             bool
}

// Replay is Options after parsing.
type Replay struct {
	Options
	config scale.Config
	speeds map[string]float64
	curves map[string]learned.Curve
}

// New parses and completes the options.
func New(o Options) (*Replay, error) {
	r := &Replay{Options: o}
	return r, r.check()
}

func (r *Replay) check() error {
	if err := r.checkFlags(); err != nil {
		return err
	}
	settings, err := r.settings()
	if err != nil {
		return err
	}
	if r.config, err = scale.ParseConfig(settings); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	if window := r.config.Policy.Window(); r.Window < window {
		return fmt.Errorf("-query-window=%s: want at least %s, which is down_delay and stable_window", r.Window, window)
	}
	if r.speeds, err = readSpeeds(r.Speed, r.config.Classes); err != nil {
		return err
	}
	return r.checkCurves()
}

// checkFlags returns errors of flags that do not depend on the policy.
func (r *Replay) checkFlags() error {
	format := strings.TrimPrefix(filepath.Ext(r.Plot), ".")
	switch {
	case r.Trace == "":
		return errors.New("no trace: want -trace <file>")
	case r.Policy == "":
		return errors.New("no policy: want -policy <file or settings>")
	case r.Min < 0 || r.Max < 0 || r.Max > 0 && r.Max < r.Min:
		return fmt.Errorf("-min=%d -max=%d: want both at least 0, and -max at least -min", r.Min, r.Max)
	case r.Interval < time.Millisecond || r.Window < time.Second ||
		min(r.Every, r.ColdStart, r.PerInput, r.PerOutput) < 0:
		return errors.New("a duration is out of range: want -interval of at least 1ms, " +
			"-query-window of at least 1s, and none negative")
	case r.Plot != "" && format != "svg" && format != "png":
		return fmt.Errorf("-plot=%s: want a file that ends in .svg or .png", r.Plot)
	}
	return nil
}

// settings returns the policy's settings, with those that flags override.
func (r *Replay) settings() (map[string]string, error) {
	settings, load, err := readPolicy(r.Policy)
	if err != nil {
		return nil, err
	}
	r.Load = r.Load || load
	if r.Classes != "" {
		delete(settings, "slots")
		delete(settings, "max")
		settings["classes"], settings["class"] = r.Classes, firstWord(r.Classes)
	}
	if r.Slots != "" {
		delete(settings, "classes")
		delete(settings, "class")
		settings["slots"] = r.Slots
	}
	if r.ColdStart > 0 {
		settings["coldstart"] = r.ColdStart.String()
	}
	if r.Objective != "" {
		settings["objective"] = r.Objective
	}
	return settings, nil
}

// checkCurves reads the curves. With an objective, every class needs one.
func (r *Replay) checkCurves() (err error) {
	if r.curves, err = readCurves(r.Curves, r.config.Classes); err != nil {
		return err
	}
	switch {
	case r.config.Objective == nil && len(r.curves) > 0:
		return errors.New("-curve without an objective: want -objective, or the setting objective in the policy")
	case r.config.Objective != nil && len(r.curves) < len(r.config.Classes):
		return errors.New("an objective needs the curve of each class: want -curve <class>=<file>, " +
			"a file that aliquot bench -json wrote")
	case r.Frontier && r.config.Objective == nil:
		return errors.New("-frontier needs an objective")
	}
	return nil
}

func firstWord(s string) string {
	words := strings.FieldsFunc(s, func(c rune) bool { return c == ' ' || c == ',' })
	if len(words) == 0 {
		return ""
	}
	return words[0]
}

// readSpeeds parses a text such as "h100=1,l4=0.3". A class that it does not name keeps its speed
// in the policy.
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

// maxEvaluations bounds a run to about two minutes: one evaluation per second for a week.
const maxEvaluations = 7 * 24 * 3600

// Run replays the trace and prints the results.
func (r *Replay) Run(w io.Writer) error {
	trace, err := r.readTrace()
	if err != nil {
		return err
	}
	if span := trace[len(trace)-1].At; span/r.Interval > maxEvaluations {
		return fmt.Errorf("-trace spans %s, which is %d evaluations every %s: want at most %d; "+
			"give a longer -interval, or a part of the trace", span, span/r.Interval, r.Interval, maxEvaluations)
	}
	if r.config.Objective != nil {
		return r.runObjective(w, trace)
	}
	classes, scaler := r.parts()
	result := simulate.Run(r.world(classes), trace, scaler)
	printSummary(w, simulate.Summarize(result, classes), classes, trace)
	r.printPeriods(w, result, classes, trace)
	return r.plot(func(to io.Writer, format string) error {
		return simulate.Plot(to, format, r.title(), result, trace, classes)
	})
}

func (r *Replay) world(classes []simulate.Class) simulate.Config {
	return simulate.Config{Classes: classes, Deployments: r.Deployments, MinHealthy: 10 * time.Second}
}

func (r *Replay) printPeriods(w io.Writer, result simulate.Result, classes []simulate.Class, trace []simulate.Request) {
	if r.Every > 0 {
		printPeriods(w, simulate.Periods(result, trace, max(r.Every, simulate.Step)), classes)
	}
}

func (r *Replay) title() string {
	return fmt.Sprintf("%s, cold start %s", filepath.Base(r.Trace), r.config.Policy.ColdStart)
}

// plot writes the plot to its file, if one is requested.
func (r *Replay) plot(draw func(to io.Writer, format string) error) error {
	if r.Plot == "" {
		return nil
	}
	file, err := os.Create(r.Plot)
	if err != nil {
		return err
	}
	err = draw(file, filepath.Ext(r.Plot)[1:])
	return errors.Join(err, file.Close())
}

func (r *Replay) readTrace() ([]simulate.Request, error) {
	model := simulate.ServiceModel{PerInputToken: r.PerInput, PerOutputToken: r.PerOutput}
	if r.Trace == "-" {
		return simulate.ReadTrace(r.Stdin, model)
	}
	file, err := os.Open(r.Trace)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return simulate.ReadTrace(file, model)
}

// parts returns the replicas and the scaler that the policy describes.
func (r *Replay) parts() ([]simulate.Class, *simulate.PolicyScaler) {
	scaler := &simulate.PolicyScaler{Policy: r.config.Policy, Classes: scale.WithSpeeds(r.config.Classes, r.speeds),
		QueryWindow: r.Window, Every: r.Interval}
	var classes []simulate.Class
	for i, class := range scaler.Classes {
		if r.Max > 0 {
			scaler.Classes[i].Max = min(class.Max, r.Max)
		}
		if !r.Load {
			scaler.Classes[i].Speed = 1
		}
		scaler.Min = append(scaler.Min, min(r.Min, scaler.Classes[i].Max))
		initial := scaler.Min[i]
		if i == 0 && r.Initial >= 0 {
			initial = r.Initial
		}
		classes = append(classes, simulate.Class{
			Name: class.Name, Slots: class.Slots, Cost: class.Cost, Speed: r.speeds[class.Name],
			ColdStart: r.config.Policy.ColdStart, Initial: initial,
		})
	}
	return classes, scaler
}
