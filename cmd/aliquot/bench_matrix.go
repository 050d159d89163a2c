package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/cli"
	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/learned"
	"aliquot.example/internal/profilekv"
	"aliquot.example/internal/scale"
	"aliquot.example/profiler"
	"aliquot.example/profiler/matrix"
)

type benchMatrixCommand struct{ ui cli.Ui }

func (benchMatrixCommand) Synopsis() string {
	return "Measure a job on several classes and slice counts"
}

func (benchMatrixCommand) Help() string {
	return `Usage: aliquot bench matrix -job=<file> -slices=<counts> [options]

  Measures a job on every hardware class with every slice count. For each combination it
  runs one replica of the job and a benchmark in the same Nomad allocation. It prints what
  each can do within the objectives and which is the cheapest, and saves the results as
  profiles of the service. The allocations register no service, and are removed after the
  measurement or on Ctrl-C. Those of one class run one after the other, so that they do not
  disturb each other on the same GPU.

  The nodes need the aliquot program; see -command.

Options:

  -job         The job file, such as jobs/vllm.nomad.hcl. Required.
  -slices      Slice counts, separated by commas, such as 5,10,20. If the job has a
               variable "slices", it is set too. Required.
  -classes     Hardware classes, separated by commas. Default: all classes of the nodes.
  -var         A variable of the job, name=value. Can be repeated.
  -var-file    A file with variables of the job. Can be repeated.
  -objective   An objective, such as "ttft=2s tpot=100ms". Can be repeated; the first one
               comes first in profiles. Default "ttft=2s tpot=100ms".
  -cost        Cost of a whole GPU per hour and class, such as h100=2.5,l4=1.
  -service     The service to which the profiles belong. Default: the job's ID.
  -save        Save the profiles. Default true.
  -time        Longest duration of each benchmark. Default 10m.
  -wait        Longest wait for a server to become ready. Default 30m.
  -room        Longest wait for Nomad to place a replica. Default 5m.
  -prompt      Mean prompt of the load, in tokens. Default 512.
  -output      Mean answer of the load, in tokens. Default 128.
  -port        Label of the server's port. Default: the only port of its group.
  -driver      Task driver for the benchmark: exec or raw_exec. Default exec.
  -command     The aliquot program: a name in /usr/local/bin or /usr/bin of the nodes, or a path.
               Default aliquot.

Example:

  aliquot bench matrix -job=jobs/vllm.nomad.hcl -slices=5,10,20 -cost=h100=2.5,l4=1
`
}

// benchMatrix holds the parsed flags of the command, and its results.
type benchMatrix struct {
	file                           jobFile
	slices, classes, cost, service string
	port, driver, command          string
	objectives                     list
	save                           bool
	time, wait, room               time.Duration
	prompt, output                 int
	counts                         []int
	costs                          map[string]float64
	promised                       []matrix.Promise
	text                           string // of the job file
	nomad                          matrix.Nomad
	done                           []learned.Profile
	mu                             sync.Mutex // guards done
	ui                             cli.Ui
}

func (c benchMatrixCommand) Run(args []string) int {
	m := benchMatrix{ui: &cli.ConcurrentUi{Ui: c.ui}}
	flags := newFlags("bench matrix", c.ui)
	flags.StringVar(&m.file.path, "job", "", "")
	flags.Var(&m.file.vars, "var", "")
	flags.Var(&m.file.files, "var-file", "")
	flags.StringVar(&m.slices, "slices", "", "")
	flags.StringVar(&m.classes, "classes", "", "")
	flags.StringVar(&m.cost, "cost", "", "")
	flags.StringVar(&m.service, "service", "", "")
	flags.StringVar(&m.port, "port", "", "")
	flags.StringVar(&m.driver, "driver", "exec", "")
	flags.StringVar(&m.command, "command", "aliquot", "")
	flags.Var(&m.objectives, "objective", "")
	flags.BoolVar(&m.save, "save", true, "")
	flags.DurationVar(&m.time, "time", 10*time.Minute, "")
	flags.DurationVar(&m.wait, "wait", 30*time.Minute, "")
	flags.DurationVar(&m.room, "room", 5*time.Minute, "")
	flags.IntVar(&m.prompt, "prompt", 512, "")
	flags.IntVar(&m.output, "output", 128, "")
	if !flags.parse(args) {
		return 2
	}
	if err := m.check(); err != nil {
		c.ui.Error("aliquot bench matrix: " + flat(err) + "; see aliquot bench matrix -help")
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := m.run(ctx); err != nil {
		c.ui.Error("aliquot bench matrix: " + flat(err))
		return 1
	}
	return 0
}

// check validates the flags and reads the job file.
func (m *benchMatrix) check() error {
	switch {
	case m.file.path == "":
		return errors.New("no job file: want -job")
	case m.slices == "":
		return errors.New("no slice counts: want -slices, such as 5,10,20")
	case m.time < 10*time.Second || m.wait < time.Second || m.room < time.Second:
		return fmt.Errorf("-time=%s -wait=%s -room=%s: want at least 10s, 1s and 1s", m.time, m.wait, m.room)
	case m.prompt < 1 || m.output < 2:
		return fmt.Errorf("-prompt=%d -output=%d: want at least 1 and 2", m.prompt, m.output)
	case m.driver != "exec" && m.driver != "raw_exec":
		return fmt.Errorf("-driver=%s: want exec or raw_exec", m.driver)
	}
	return m.read()
}

// read parses the flags that are lists, and reads the job file.
func (m *benchMatrix) read() (err error) {
	for _, text := range split(m.slices) {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 1024 {
			return fmt.Errorf("-slices has %q: want numbers from 1 to 1024", text)
		}
		if !slices.Contains(m.counts, n) {
			m.counts = append(m.counts, n)
		}
	}
	if len(m.counts) == 0 {
		return fmt.Errorf("-slices=%q has no count: want a list such as 5,10,20", m.slices)
	}
	if strings.Contains(m.service, "/") {
		return fmt.Errorf("-service=%s: want the name of a service, which has no slash", m.service)
	}
	if m.costs, err = costsOf(m.cost); err != nil {
		return err
	}
	if len(m.objectives) == 0 {
		m.objectives = list{"ttft=2s tpot=100ms"}
	}
	for _, text := range m.objectives {
		o, err := scale.ParseObjective(text)
		if err != nil {
			return fmt.Errorf("-objective: %w", err)
		}
		m.promised = append(m.promised, matrix.Promise{Objective: secondsOf(o), Quantile: o.Quantile})
	}
	m.text, err = m.file.read()
	return err
}

func split(text string) []string {
	return strings.FieldsFunc(text, func(c rune) bool { return c == ',' || c == ' ' })
}

// costsOf parses a list such as "h100=2.5,l4=1".
func costsOf(text string) (map[string]float64, error) {
	costs := map[string]float64{}
	for _, part := range split(text) {
		class, value, ok := strings.Cut(part, "=")
		cost, err := strconv.ParseFloat(value, 64)
		if !ok || class == "" || err != nil || !(cost > 0 && cost <= 1e9) {
			return nil, fmt.Errorf("-cost has %q: want <class>=<number above 0>", part)
		}
		costs[class] = cost
	}
	return costs, nil
}

// run measures every cell and prints the tables.
func (m *benchMatrix) run(ctx context.Context) error {
	client, err := nomad.NewClient(nomad.DefaultConfig())
	if err != nil {
		return err
	}
	m.nomad = matrix.Nomad{Client: client, Room: m.room}
	classes := split(m.classes)
	if len(classes) == 0 {
		found, err := m.nomad.Classes(ctx)
		if err != nil {
			return fmt.Errorf("classes of the nodes: %w", err)
		}
		if classes = slices.Sorted(maps.Keys(found)); len(classes) == 0 {
			return errors.New("no node has a GPU: run aliquot doctor")
		}
	}
	slices.Sort(classes)
	classes = slices.Compact(classes) // two runs of one class would disturb each other
	for _, class := range slices.Sorted(maps.Keys(m.costs)) {
		if !slices.Contains(classes, class) {
			m.ui.Warn("Note: -cost names " + class + ", which is not measured")
		}
	}
	failed := make([]error, len(classes))
	var wg sync.WaitGroup
	for i, class := range classes {
		wg.Go(func() { failed[i] = m.measureClass(ctx, class) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		failed = slices.DeleteFunc(failed, func(err error) bool { return errors.Is(err, context.Canceled) })
		failed = append(failed, errors.New("interrupted before all was measured"))
	}
	if len(m.done) > 0 {
		slices.SortFunc(m.done, func(a, b learned.Profile) int {
			return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(a.Slices, b.Slices))
		})
		matrix.Print(os.Stdout, m.done, m.promised, m.costs)
	}
	return errors.Join(failed...)
}

// measureClass measures all slice counts of a class, one after the other. A failure of one does
// not stop the others: measureClass returns all errors joined.
func (m *benchMatrix) measureClass(ctx context.Context, class string) error {
	var all error
	for _, n := range m.counts {
		cell := matrix.Cell{Class: class, Slices: n}
		err := m.measure(ctx, cell)
		if ctx.Err() != nil {
			return cmp.Or(err, ctx.Err())
		}
		switch {
		case err == nil:
		case all == nil:
			all = fmt.Errorf("%s: %w", cell, err)
		default:
			all = fmt.Errorf("%w; %s: %w", all, cell, err)
		}
	}
	return all
}

// slicesVariable matches the variable in a job file that sizes its replicas.
var slicesVariable = regexp.MustCompile(`(?m)^\s*variable\s+"slices"\s*\{`)

// job parses the job file for a cell.
func (m *benchMatrix) job(cell matrix.Cell) (*nomad.Job, error) {
	file := m.file
	if slicesVariable.MatchString(m.text) {
		file.vars = append(slices.Clone(file.vars), fmt.Sprintf("slices=%d", cell.Slices))
	}
	job, err := file.parse(m.nomad.Client, m.text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file.path, err)
	}
	return job, nil
}

func (m *benchMatrix) measure(ctx context.Context, cell matrix.Cell) error {
	job, err := m.job(cell)
	if err != nil {
		return err
	}
	service := m.service
	if service == "" {
		service = *job.ID
	}
	if err := m.checkSave(ctx, service); err != nil {
		return err
	}
	port := m.port
	if port == "" {
		if port, err = matrix.Port(job, cell.Class); err != nil {
			return err
		}
	}
	runner := matrix.Runner{Driver: m.driver, Command: m.command, Port: port, Args: []string{
		"-wait=" + m.wait.String(), "-time=" + m.time.String(),
		"-prompt=" + strconv.Itoa(m.prompt), "-output=" + strconv.Itoa(m.output),
		"-ttft=" + spanOf(m.promised[0].TTFT), "-tpot=" + spanOf(m.promised[0].TPOT),
		"-e2e=" + spanOf(m.promised[0].E2E),
	}}
	if job, err = matrix.Job(job, cell, runner); err != nil {
		return err
	}
	run := m.nomad
	run.Namespace, run.Region = orEmpty(job.Namespace), orEmpty(job.Region)
	m.ui.Info(fmt.Sprintf("%s: measuring, as job %s", cell, *job.ID))
	report, replica, err := run.Run(ctx, job)
	if err != nil {
		return err
	}
	return m.keep(ctx, cell, service, report, replica)
}

// checkSave returns an error if profiles of the service could not be saved. It runs before the
// measurement, which would otherwise be lost.
func (m *benchMatrix) checkSave(ctx context.Context, service string) error {
	if !m.save {
		return nil
	}
	client, err := consul.NewClient(consul.DefaultConfig())
	if err != nil {
		return err
	}
	if err := profilekv.Reach(ctx, client, service); err != nil {
		return fmt.Errorf("%w; use -save=false to measure without saving", err)
	}
	return nil
}

// keep adds a report to the matrix and saves its profile.
func (m *benchMatrix) keep(
	ctx context.Context, cell matrix.Cell, service string, report *profiler.Report, of profiler.Replica,
) error {
	var others []learned.Objective
	for _, o := range m.promised[1:] {
		others = append(others, o.Objective)
	}
	p, err := report.Profile(of, others)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.done = append(m.done, p)
	m.mu.Unlock()
	if !m.save {
		return nil
	}
	client, err := consul.NewClient(consul.DefaultConfig())
	if err != nil {
		return err
	}
	before, err := profilekv.Save(ctx, client, service, p)
	if err != nil {
		return err
	}
	if !before.Measured.IsZero() {
		changed, _ := p.Changes(before)
		m.ui.Info(fmt.Sprintf("%s: %s", cell, changed))
	}
	return nil
}

func spanOf(seconds float64) string { return time.Duration(seconds * float64(time.Second)).String() }

func orEmpty(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}
