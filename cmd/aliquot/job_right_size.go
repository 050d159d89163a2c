package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/cli"
	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/autoscaler-plugin/demand"
	"aliquot.example/internal/api"
	"aliquot.example/internal/learned"
	"aliquot.example/internal/rightsize"
	"aliquot.example/internal/scale"
	"aliquot.example/profiler/matrix"
	"aliquot.example/profiler/sizing"
)

type jobRightSizeCommand struct{ ui cli.Ui }

func (jobRightSizeCommand) Synopsis() string {
	return "Show which slice count serves a job at the least cost"
}

func (jobRightSizeCommand) Help() string {
	return `Usage: aliquot job right-size [options] <file>

  Lists the hardware classes and slice counts for which figures of the job's service exist,
  the cheapest first. For each it shows what a replica serves within the objective, how many
  replicas are needed, what they cost, and the source of the figures: requests that gateways
  served, or a benchmark (aliquot bench -save, aliquot bench matrix). It never chooses a size
  whose cache cannot hold the longest request, or whose memory the replicas would exceed.

  With -run it submits the job with the cheapest slice count, through the job's variable
  "slices", and keeps the counts of its groups. It changes nothing if the job in Nomad
  differs from the file and the variables in anything else, or if the new slice count has no
  figures on another class that serves now. Nomad replaces the replicas as the job's update
  block says. Stopped replicas finish their requests within kill_timeout; meanwhile the
  gateway queues new ones.

Options:

  -objective   The objective. Default "ttft=2s tpot=100ms".
  -cost        Cost of a whole GPU per hour and class, such as h100=2.5,l4=1. Default: all
               GPUs cost the same.
  -rate        Requests per second at the busiest time. Default: the rate that the gateways
               saw in the last hour.
  -longest     Longest request, in tokens. Default: max_model_len of the replicas.
  -service     The service. Default: the job's ID.
  -class       Choose only among the sizes of this hardware class.
  -run         Submit the job with the cheapest slice count. Default false.
  -var         A variable of the job, name=value. Can be repeated.
  -var-file    A file with variables of the job. Can be repeated.

Example:

  aliquot job right-size -cost=h100=2.5,l4=1 -class=l4 jobs/vllm.nomad.hcl
`
}

// rightSize holds the parsed flags of the command.
type rightSize struct {
	ui                     cli.Ui
	file                   jobFile
	objective, cost, class string
	question               sizing.Question
	run                    bool
	nomad                  *nomad.Client
	consul                 *consul.Client
	job                    *nomad.Job
}

func (c jobRightSizeCommand) Run(args []string) int {
	r := rightSize{ui: c.ui}
	flags := newFlags("job right-size", c.ui)
	flags.StringVar(&r.objective, "objective", "ttft=2s tpot=100ms", "")
	flags.StringVar(&r.cost, "cost", "", "")
	flags.StringVar(&r.class, "class", "", "")
	flags.StringVar(&r.question.Service, "service", "", "")
	flags.Float64Var(&r.question.Rate, "rate", 0, "")
	flags.Float64Var(&r.question.MaxTokens, "longest", 0, "")
	flags.BoolVar(&r.run, "run", false, "")
	flags.Var(&r.file.vars, "var", "")
	flags.Var(&r.file.files, "var-file", "")
	err := flags.Parse(args)
	if err == nil && flags.NArg() != 1 {
		err = fmt.Errorf("got %d job files: want one", flags.NArg())
	}
	if err == nil {
		r.file.path = flags.Arg(0)
		err = r.check()
	}
	if err != nil {
		c.ui.Error(fmt.Sprintf("aliquot job right-size: %s; see aliquot job right-size -help", flat(err)))
		return 2
	}
	if err := r.answer(); err != nil {
		c.ui.Error("aliquot job right-size: " + flat(err))
		return 1
	}
	return 0
}

// check validates the flags and reads the job file.
func (r *rightSize) check() error {
	o, err := scale.ParseObjective(r.objective)
	if err != nil {
		return fmt.Errorf("-objective: %w", err)
	}
	r.question.Objective, r.question.Quantile = secondsOf(o), o.Quantile
	if r.question.Cost, err = costsOf(r.cost); err != nil {
		return err
	}
	if q := r.question; !(q.Rate >= 0 && q.Rate <= 1e9) || !(q.MaxTokens >= 0 && q.MaxTokens <= 1e9) {
		return fmt.Errorf("-rate=%g -longest=%g: want 0 to 1e9", r.question.Rate, r.question.MaxTokens)
	}
	r.file.text, err = r.file.read()
	return err
}

// answer prints the sizes, and with -run submits the job.
func (r *rightSize) answer() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if r.nomad, err = nomad.NewClient(nomad.DefaultConfig()); err != nil {
		return err
	}
	if r.consul, err = consul.NewClient(consul.DefaultConfig()); err != nil {
		return err
	}
	if r.job, err = r.file.parse(r.nomad, r.file.text); err != nil {
		return fmt.Errorf("%s: %w", r.file.path, err)
	}
	q := &r.question
	q.Service = cmp.Or(q.Service, *r.job.ID)
	running, longest, err := sizing.Replicas(ctx, r.consul, q.Service)
	if err != nil {
		return err
	}
	q.MaxTokens = cmp.Or(q.MaxTokens, longest)
	sizing.Measure(ctx, r.nomad, running)
	if q.Memory, err = (matrix.Nomad{Client: r.nomad}).Memory(ctx); err != nil {
		return fmt.Errorf("cannot read the nodes of Nomad: %w", err)
	}
	a, err := sizing.Ask(ctx, r.consul, *q, running, time.Now())
	if err != nil {
		return err
	}
	if q.Rate == 0 && a.Prompt > 0 {
		if a, err = r.withRate(ctx, a, running); err != nil {
			return err
		}
	}
	r.print(a)
	if r.run {
		return r.change(ctx, a)
	}
	return nil
}

// withRate asks again with the request rate of the busiest minute of the last hour. If the
// gateways do not report it, withRate returns a with a note.
func (r *rightSize) withRate(ctx context.Context, a sizing.Answer, running []sizing.Running) (sizing.Answer, error) {
	gateways := demand.Gateways{
		Service: api.GatewayService, Rates: learned.RatesPrefix, HTTP: http.DefaultClient, StaleAfter: time.Minute,
		Consul: r.consul,
	}
	now := time.Now()
	h, err := gateways.History(ctx, demand.Span{Service: r.question.Service, From: now.Add(-time.Hour), To: now})
	if err != nil {
		a.Notes = append(a.Notes, "the request rate is unknown, so sizes are compared by cost per request: "+flat(err))
		return a, nil
	}
	var tokens []float64
	for _, s := range h.Seconds {
		tokens = append(tokens, s.Arrived)
	}
	r.question.Rate = sizing.Busiest(tokens) / (a.Prompt + a.Output)
	return sizing.Ask(ctx, r.consul, r.question, running, now)
}

// print writes the answer as text.
func (r *rightSize) print(a sizing.Answer) {
	q := r.question
	if len(a.Choices) == 0 {
		r.ui.Output("No size of " + q.Service + " has measurements: measure some with aliquot bench matrix")
		return
	}
	what := "sizes compared by cost per request"
	if a.Need.Rate > 0 {
		what = fmt.Sprintf("%.3g requests per second at the busiest time", a.Need.Rate)
	}
	r.ui.Output(fmt.Sprintf("%s within %s for %g%% of requests: %s; prompts of %.0f and answers of %.0f tokens on "+
		"average, at most %.0f together", q.Service, q.Objective, 100*q.Quantile, what, a.Prompt, a.Output,
		a.Need.MaxTokens))
	for _, run := range a.Running {
		text := fmt.Sprintf("Now: %d x %s", run.Replicas, kind(run.Class, run.Slices))
		if run.Use.Memory > 0 {
			text += fmt.Sprintf(", %.0f MiB in use", run.Use.Memory)
		}
		if run.Use.Busy > 0 {
			text += fmt.Sprintf(", GPU busy %.0f%% of the time", run.Use.Busy)
		}
		r.ui.Output(text)
	}
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CLASS\tSLICES\tAT ONCE\tANSWERS/S\tREPLICAS\tCOST/HOUR\tCOST OF 1M\tEVIDENCE")
	for _, c := range a.Choices {
		count, cost, million := "-", "-", "-"
		if c.Replicas > 0 {
			count, cost = fmt.Sprint(c.Replicas), fmt.Sprintf("%.3g", c.Cost)
		}
		if c.PerMillion > 0 {
			million = fmt.Sprintf("%.4g", c.PerMillion)
		}
		from := c.From
		if c.Refused != "" {
			from = "no: " + c.Refused + " (" + c.From + ")"
		}
		fmt.Fprintf(t, "%s\t%s\t%.0f\t%.3g\t%s\t%s\t%s\t%s\n", c.Class, learned.SlicesOf(c.Slices, c.Total),
			c.Concurrency, c.Rate, count, cost, million, from)
	}
	_ = t.Flush()
	r.ui.Output(strings.TrimSuffix(b.String(), "\n"))
	for _, n := range append(a.Notes, r.unmatched(a)...) {
		r.ui.Warn("Note: " + n)
	}
	if c, err := r.best(a); err == nil {
		r.ui.Output("Cheapest: " + kind(c.Class, learned.SlicesOf(c.Slices, c.Total)))
	} else if !r.run { // with -run, change returns this error
		r.ui.Warn("Note: " + flat(err))
	}
}

// unmatched returns a note for each class of -cost and -class without figures.
func (r *rightSize) unmatched(a sizing.Answer) (notes []string) {
	for _, class := range slices.Sorted(maps.Keys(r.question.Cost)) {
		if !slices.ContainsFunc(a.Choices, func(c rightsize.Choice) bool { return c.Class == class }) {
			notes = append(notes, "-cost names "+class+", which has no figures")
		}
	}
	if r.class != "" && !slices.ContainsFunc(a.Choices, func(c rightsize.Choice) bool { return c.Class == r.class }) {
		notes = append(notes, "-class names "+r.class+", which has no figures")
	}
	return notes
}

// best returns the cheapest choice that can be used.
func (r *rightSize) best(a sizing.Answer) (rightsize.Choice, error) {
	for _, c := range a.Choices {
		if c.Refused == "" && (r.class == "" || c.Class == r.class) {
			return c, nil
		}
	}
	if len(a.Choices) == 0 {
		return rightsize.Choice{}, errors.New("no size has measurements: measure some with aliquot bench matrix")
	}
	return rightsize.Choice{}, errors.New("no measured size keeps the objective and has enough memory and cache")
}
