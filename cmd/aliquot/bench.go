package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/cli"
	consul "github.com/hashicorp/consul/api"
	"golang.org/x/term"

	"aliquot.example/gateway/engine"
	"aliquot.example/internal/profile"
	"aliquot.example/internal/profilekv"
	"aliquot.example/profiler"
)

type benchCommand struct{ ui cli.Ui }

func (benchCommand) Synopsis() string { return "Measure how fast a model server is" }

func (benchCommand) Help() string {
	return `Usage: aliquot bench -url=<url> | -service=<name> [options]

  Measures a server that speaks OpenAI's protocol, with prompts of many lengths and many
  requests at once. It prints how long the server takes to read a prompt and to make one
  step, as curves with the quality of their fit, and what the server can do within an
  objective. It puts full load on the server: use one that serves nobody else. Ctrl-C
  ends the benchmark early and prints what has been measured so far.

  With -request it sends your own request instead of completions, and measures only
  answers per second.

  With -save it stores the figures in Consul KV as a profile of this kind of replica of
  the service, and prints what has changed since the last profile. Gateway, router and
  autoscaler use the profile until they have learned better figures from requests.

  The API key comes from the environment variable OPENAI_API_KEY. Consul and Nomad are
  found by the usual CONSUL_* and NOMAD_* variables. docs/bench.md explains the figures,
  docs/profiles.md the use of profiles.

Options:

  -url         The server, such as http://10.0.0.5:8000.
  -service     The service in Consul. Without -url, one of its replicas is measured.
  -class       Hardware class of the replica, such as l4. Without -url it selects the
               replica to measure, with -url it names the class of that server.
  -slices      Share of a GPU that the replica has, such as 10of20, or 1of1 for a whole
               GPU. Used like -class.
  -save        Save the figures as a profile of the service. Default false.
  -objective   Another objective for the profile, such as "ttft=1s tpot=50ms". Can be
               repeated.
  -image       Image of the server for the profile, if Nomad does not know it.
  -driver      Version of the GPU driver for the profile, if Nomad does not know it.
  -wait        Longest wait for the server to become ready. Default 0: no wait.
  -model       The model. Default: the first one that the server lists.
  -time        Longest duration of the benchmark. Default 10m.
  -precision   A point is measured until half the width of its 95% confidence interval is
               this fraction of its mean. Default 0.03.
  -prompt      Mean prompt of the load, in tokens. Default 512.
  -output      Mean answer of the load, in tokens. Default 128.
  -ttft        Objective: time to the first token, 0 for none. Default 2s.
  -tpot        Objective: time between two tokens, 0 for none. Default 100ms.
  -e2e         Objective: time to the end of an answer, 0 for none. Default 0.
  -slots       Requests that the server takes at once, if it has a limit. Default: the
               value in the service's meta.
  -cost        Cost of the server per hour, in any unit.
  -stall       Give up a request after this time without a byte. Default 1m.
  -beside      URLs of other servers to keep busy meanwhile, separated by commas, such as
               replicas on the same GPU, to measure the cost of sharing.
  -request     File with the JSON body of your own request. It goes to the path of -url.
  -json        File for all figures as JSON, or - for standard output instead of the table.
  -plot        File for a picture, .svg or .png.

Example:

  aliquot bench -url=http://10.0.0.5:8000 -ttft=1s -tpot=50ms -plot=chat.svg
  aliquot bench -service=chat -class=l4 -save
`
}

// benchRun holds the parsed flags of the command.
type benchRun struct {
	url, model, request, json, plot, neighbours string
	options                                     profiler.Options
	stall, wait                                 time.Duration
	profile                                     profileFlags
}

func (c benchCommand) Run(args []string) int {
	var r benchRun
	o := &r.options
	o.Design, o.Rounds = profile.Usual(), profile.UsualRounds()
	flags := newFlags("bench", c.ui)
	flags.StringVar(&r.url, "url", "", "")
	flags.StringVar(&r.profile.service, "service", "", "")
	flags.StringVar(&r.profile.replica.Class, "class", "", "")
	flags.StringVar(&r.profile.replica.Slices, "slices", "", "")
	flags.BoolVar(&r.profile.save, "save", false, "")
	flags.Var(&r.profile.objectives, "objective", "")
	flags.StringVar(&r.profile.replica.Image, "image", "", "")
	flags.StringVar(&r.profile.replica.Driver, "driver", "", "")
	flags.DurationVar(&r.wait, "wait", 0, "")
	flags.StringVar(&r.model, "model", "", "")
	flags.DurationVar(&o.Time, "time", 10*time.Minute, "")
	flags.Float64Var(&o.Rounds.Precision, "precision", o.Rounds.Precision, "")
	flags.IntVar(&o.Prompt, "prompt", 512, "")
	flags.IntVar(&o.Output, "output", 128, "")
	flags.DurationVar(&o.Objective.TTFT, "ttft", 2*time.Second, "")
	flags.DurationVar(&o.Objective.TPOT, "tpot", 100*time.Millisecond, "")
	flags.DurationVar(&o.Objective.E2E, "e2e", 0, "")
	flags.IntVar(&o.Slots, "slots", 0, "")
	flags.Float64Var(&o.Cost, "cost", 0, "")
	flags.DurationVar(&r.stall, "stall", time.Minute, "")
	flags.StringVar(&r.neighbours, "beside", "", "")
	flags.StringVar(&r.request, "request", "", "")
	flags.StringVar(&r.json, "json", "", "")
	flags.StringVar(&r.plot, "plot", "", "")
	if !flags.parse(args) {
		return 2
	}
	if err := r.check(); err != nil {
		c.ui.Error("aliquot bench: " + flat(err) + "; see aliquot bench -help")
		return 2
	}
	if err := r.run(os.Stdout); err != nil {
		c.ui.Error("aliquot bench: " + flat(err))
		return 1
	}
	return 0
}

// check validates the flags and sets the options that follow from them.
func (r *benchRun) check() error {
	if err := r.checkFlags(); err != nil {
		return err
	}
	if err := r.profile.check(r.url); err != nil {
		return err
	}
	path, err := r.servers()
	if err == nil && r.request != "" {
		r.options.Post = &profiler.Post{Path: path}
		r.options.Post.Body, err = os.ReadFile(r.request)
	} else if err == nil && strings.Trim(path, "/") != "" {
		err = fmt.Errorf("-url=%s: want no path: requests go to /v1/completions; only -request uses a path", r.url)
	}
	return err
}

// checkFlags returns an error for the first flag with an invalid value.
func (r *benchRun) checkFlags() error {
	o := &r.options
	switch {
	case r.url == "" && r.request != "":
		return errors.New("-request goes to the path of a URL: want -url too")
	case o.Time < 10*time.Second || r.stall < time.Second || r.wait < 0:
		return fmt.Errorf("-time=%s -stall=%s -wait=%s: want at least 10s, 1s and 0", o.Time, r.stall, r.wait)
	case !(o.Rounds.Precision > 0 && o.Rounds.Precision < 1):
		return fmt.Errorf("-precision=%g: want more than 0, less than 1", o.Rounds.Precision)
	case o.Prompt < 1 || o.Output < 2 || o.Slots < 0:
		return fmt.Errorf("-prompt=%d -output=%d -slots=%d: want at least 1, 2 and 0", o.Prompt, o.Output, o.Slots)
	case min(o.Objective.TTFT, o.Objective.TPOT, o.Objective.E2E) < 0 || !(o.Cost >= 0 && o.Cost <= 1e12):
		return errors.New("an objective or the cost is negative: want 0 or more")
	}
	return r.checkPlot()
}

// checkPlot returns an error if -plot is given and cannot be drawn.
func (r *benchRun) checkPlot() error {
	format := strings.TrimPrefix(filepath.Ext(r.plot), ".")
	switch {
	case r.plot != "" && format != "svg" && format != "png":
		return fmt.Errorf("-plot=%s: want a file that ends in .svg or .png", r.plot)
	case r.plot != "" && r.request != "":
		return errors.New("-plot draws curves, and -request measures none: leave one of them out")
	}
	return nil
}

// servers builds the server to measure and its neighbours from the URLs. It returns the path of
// -url.
func (r *benchRun) servers() (path string, err error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4096, Proxy: http.ProxyFromEnvironment,
		DisableCompression: true}}
	server := func(text string) (*profiler.Server, string, error) {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, "", fmt.Errorf("%q is not the URL of a server: want one such as http://10.0.0.5:8000", text)
		}
		path := u.RequestURI()
		u.Path, u.RawPath, u.RawQuery = "", "", ""
		return &profiler.Server{
			URL: u.String(), Model: r.model, Key: os.Getenv("OPENAI_API_KEY"), HTTP: client, Stall: r.stall,
			Metrics: engineMetrics,
		}, path, nil
	}
	for _, text := range strings.FieldsFunc(r.neighbours, func(c rune) bool { return c == ',' }) {
		s, _, err := server(strings.TrimSpace(text))
		if err != nil {
			return "", fmt.Errorf("-beside: %w", err)
		}
		r.options.Neighbours = append(r.options.Neighbours, s)
	}
	if r.url == "" { // prepare looks the URL up, once all flags are valid
		r.options.Server, _, err = server("http://localhost")
		return "", err
	}
	r.options.Server, path, err = server(r.url)
	return path, err
}

// engineMetrics parses an engine's metrics as the gateway does.
func engineMetrics(from io.Reader) (profiler.Engine, error) {
	s, err := engine.Parse(from)
	return profiler.Engine{Kind: s.Kind, Running: s.Running, Waiting: s.Waiting, KVTokens: s.KVTokens,
		Preemptions: s.Preemptions}, err
}

func (r *benchRun) run(w io.Writer) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := r.prepare(ctx); err != nil {
		return err
	}
	bar := newBar(os.Stderr)
	r.options.Progress = bar.show
	report, err := profiler.Run(ctx, r.options)
	bar.clear()
	if err != nil {
		return err
	}
	var unsaved error
	if r.profile.save {
		unsaved = r.profile.saveProfile(report)
	}
	err = r.write(w, report)
	if r.profile.save && unsaved == nil && r.json != "-" {
		fmt.Fprintf(w, "\nSaved as the profile of %s on %s.\n", r.profile.service,
			kind(r.profile.replica.Class, r.profile.replica.Slices))
	}
	return errors.Join(err, unsaved)
}

// prepare finds the replica and waits until it answers.
func (r *benchRun) prepare(ctx context.Context) error {
	k := &r.profile
	if r.url == "" {
		given := k.replica
		if err := k.find(); err != nil {
			return err
		}
		r.options.Server.URL = k.replica.URL
		k.replica.Image, k.replica.Driver = given.Image, given.Driver
		if r.options.Slots == 0 {
			r.options.Slots = k.replica.Slots
		}
	}
	if k.save {
		client, err := consul.NewClient(consul.DefaultConfig())
		if err != nil {
			return err
		}
		if err := profilekv.Reach(ctx, client, k.service); err != nil {
			return err
		}
	}
	return r.options.Server.Await(ctx, r.wait)
}

// write prints the report and writes the files of -json and -plot.
func (r *benchRun) write(w io.Writer, report *profiler.Report) (err error) {
	if r.json == "-" {
		err = writeJSON(w, report)
	} else {
		report.Print(w)
		if r.json != "" {
			err = toFile(r.json, func(w io.Writer) error { return writeJSON(w, report) })
		}
	}
	if r.plot != "" {
		err = errors.Join(err, toFile(r.plot, func(w io.Writer) error {
			return report.Plot(w, filepath.Ext(r.plot)[1:])
		}))
	}
	return err
}

func writeJSON(w io.Writer, report *profiler.Report) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(report)
}

func toFile(path string, write func(io.Writer) error) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(file), file.Close())
}

// bar is a progress line on a terminal. Without a terminal it shows nothing.
type bar struct{ w *os.File }

func newBar(w *os.File) *bar {
	if !term.IsTerminal(int(w.Fd())) {
		return &bar{}
	}
	return &bar{w}
}

func (b *bar) show(p profiler.Progress) {
	if b.w == nil {
		return
	}
	const width = 30
	full := int(min(max(p.Part, 0), 1) * width)
	fmt.Fprintf(b.w, "\r\x1b[K%s%s  %s, about %s left; Ctrl-C ends it", strings.Repeat("█", full),
		strings.Repeat("░", width-full), p.Stage, p.Left.Round(time.Second))
}

func (b *bar) clear() {
	if b.w != nil {
		fmt.Fprint(b.w, "\r\x1b[K")
	}
}
