package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/cli"
	consul "github.com/hashicorp/consul/api"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/account"
	"aliquot.example/internal/pack"
	"aliquot.example/internal/share"
	"aliquot.example/internal/steer"
)

// The keys of the job's meta for its policy and its islands. The flags override them.
const (
	packMeta   = "aliquot_pack"
	islandMeta = "aliquot_island"
)

// jobOptions is the help for the options that inspect, plan and run share.
const jobOptions = `Options:

  -pack        Which nodes to prefer. fragmentation: those where the remaining capacity
               stays most useful for the typical demand. best-fit: those where the least
               stays free. spread: those where the most stays free. none: as Nomad does.
               Default: the job's meta aliquot_pack, otherwise fragmentation.
  -island      Place each request for several whole GPUs on GPUs that are connected by
               link (NVLink or xGMI), by switch (PCIe), or by numa (NUMA node). none
               removes what an earlier run added. Default: the job's meta
               aliquot_island.
  -var         A variable of the job, name=value. Can be repeated.
  -var-file    A file with variables of the job. Can be repeated.
  -demand      A file with the typical demand, instead of the one in Consul KV.
`

// list is a flag that can be repeated.
type list []string

func (l *list) String() string         { return strings.Join(*l, ",") }
func (l *list) Set(value string) error { *l = append(*l, value); return nil }

// jobFile is the job file of a command line, with the flags that apply to it.
type jobFile struct {
	policy, island, demand string
	vars, files            list
	path                   string
	text                   string // content of path if already read: standard input can be read only once
}

// steered is a job with the additions of its policy.
type steered struct {
	nomad   *nomad.Client
	job     *nomad.Job
	policy  pack.Policy
	from    string // source of the typical demand
	changes []steer.Change
	joined  []steer.Joined
}

// parseJob parses the flags of a command that takes one job file. If it returns false, it has
// reported the error to the user.
func parseJob(flags flagSet, args []string) (jobFile, bool) {
	var f jobFile
	flags.StringVar(&f.policy, "pack", "", "")
	flags.StringVar(&f.island, "island", "", "")
	flags.StringVar(&f.demand, "demand", "", "")
	flags.Var(&f.vars, "var", "")
	flags.Var(&f.files, "var-file", "")
	err := flags.Parse(args)
	if err == nil && flags.NArg() != 1 {
		err = fmt.Errorf("got %d job files: want one, or - for standard input", flags.NArg())
	}
	if err == nil && f.policy != "" {
		if _, err = pack.ParsePolicy(f.policy); err != nil {
			err = fmt.Errorf("-pack: %w", err)
		}
	}
	if err == nil && f.island != "" {
		if _, err = steer.ParseJoint(f.island); err != nil {
			err = fmt.Errorf("-island: %w", err)
		}
	}
	if err != nil {
		flags.ui.Error(fmt.Sprintf("aliquot %s: %v; see aliquot %s -help", flags.Name(), err, flags.Name()))
		return f, false
	}
	f.path = flags.Arg(0)
	return f, true
}

// steer parses the job file and adds what the policy needs.
func (f jobFile) steer(ctx context.Context) (steered, error) {
	var s steered
	text, err := f.read()
	if err != nil {
		return s, err
	}
	if s.nomad, err = nomad.NewClient(nomad.DefaultConfig()); err != nil {
		return s, err
	}
	if s.job, err = f.parse(s.nomad, text); err != nil {
		return s, fmt.Errorf("%s: %w", f.path, err)
	}
	if s.policy, err = f.policyOf(s.job); err != nil {
		return s, err
	}
	var demand pack.Demand
	if s.policy == pack.None {
		s.from = "nothing"
	} else if demand, s.from, err = typical(ctx, f.demand); err != nil {
		return s, err
	}
	by, err := f.islandOf(s.job)
	if err != nil {
		return s, err
	}
	s.changes = steer.Apply(s.job, s.policy, demand.Classes())
	if by != "" {
		s.joined = steer.Join(s.job, by)
	}
	return s, nil
}

func (f jobFile) read() (string, error) {
	if f.text != "" {
		return f.text, nil
	}
	if f.path == "-" {
		text, err := io.ReadAll(os.Stdin)
		return string(text), err
	}
	text, err := os.ReadFile(f.path)
	return string(text), err
}

// parse asks Nomad to parse a job in HCL. It parses JSON itself, in the form that
// `nomad job run -json` takes.
func (f jobFile) parse(client *nomad.Client, text string) (*nomad.Job, error) {
	if strings.HasPrefix(strings.TrimSpace(text), "{") {
		if len(f.vars)+len(f.files) > 0 {
			return nil, errors.New("a job in JSON has no variables: leave out -var and -var-file")
		}
		return parseJSON(text)
	}
	variables, err := f.variables()
	if err != nil {
		return nil, err
	}
	// Do not canonicalize here: the defaults for namespace and region would override those of the
	// environment. Nomad adds the defaults when the job is registered.
	return client.Jobs().ParseHCLOpts(&nomad.JobsParseRequest{JobHCL: text, Variables: variables})
}

func parseJSON(text string) (*nomad.Job, error) {
	var all map[string]any
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return nil, fmt.Errorf("it starts with { but is not valid JSON: %w", err)
	}
	if where := nullIn(all, "the JSON"); where != "" {
		return nil, fmt.Errorf("%s is null: remove the list entry or give it a value", where)
	}
	var wrapped struct{ Job *nomad.Job }
	if err := json.Unmarshal([]byte(text), &wrapped); err != nil {
		return nil, err
	}
	if wrapped.Job == nil {
		wrapped.Job = &nomad.Job{}
		if err := json.Unmarshal([]byte(text), wrapped.Job); err != nil {
			return nil, err
		}
	}
	if wrapped.Job.ID == nil || *wrapped.Job.ID == "" {
		return nil, fmt.Errorf("the JSON has no job with an ID")
	}
	return wrapped.Job, nil
}

// nullIn returns the path of the first list entry that is null, "" if there is none.
func nullIn(v any, where string) string {
	switch v := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if found := nullIn(v[key], where+"."+key); found != "" {
				return found
			}
		}
	case []any:
		for i, e := range v {
			at := fmt.Sprintf("%s[%d]", where, i)
			if e == nil {
				return at
			}
			if found := nullIn(e, at); found != "" {
				return found
			}
		}
	}
	return ""
}

// variables returns one HCL file with all variables. The last value of a variable wins, and -var
// wins over -var-file: HCL itself would refuse duplicates.
func (f jobFile) variables() (string, error) {
	values := map[string]string{}
	for _, path := range f.files {
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		file, problems := hclsyntax.ParseConfig(text, path, hcl.InitialPos)
		if problems.HasErrors() {
			return "", fmt.Errorf("-var-file: %w", problems)
		}
		attributes, problems := file.Body.JustAttributes()
		if problems.HasErrors() {
			return "", fmt.Errorf("-var-file: %w", problems)
		}
		for name, a := range attributes {
			values[name] = string(a.Expr.Range().SliceBytes(text))
		}
	}
	for _, v := range f.vars {
		name, value, ok := strings.Cut(v, "=")
		if !ok || !variable.MatchString(name) {
			return "", fmt.Errorf("-var %q: want name=value", v)
		}
		values[name] = literal(value)
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(&b, "%s = %s\n", name, values[name])
	}
	return b.String(), nil
}

var (
	variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)
	// plain matches values that need no quotes in HCL. If the variable is a string, HCL converts a
	// number or a boolean.
	plain = regexp.MustCompile(`^(-?[0-9]+(\.[0-9]+)?|true|false|null|[\[{"].*)$`)
)

// literal returns the value of -var as an HCL expression.
func literal(value string) string {
	if plain.MatchString(value) {
		return value
	}
	return strings.NewReplacer("${", "$${", "%{", "%%{").Replace(fmt.Sprintf("%q", value))
}

// policyOf returns the policy of the flag, otherwise that of the job's meta.
func (f jobFile) policyOf(job *nomad.Job) (pack.Policy, error) {
	if f.policy != "" {
		return pack.Policy(f.policy), nil // checked with the flags
	}
	name := job.Meta[packMeta]
	if name == "" {
		return pack.Fragmentation, nil
	}
	p, err := pack.ParsePolicy(name)
	if err != nil {
		return "", fmt.Errorf("the job's meta %s: %w", packMeta, err)
	}
	return p, nil
}

// islandOf returns the connection of the flag, otherwise that of the job's meta, "" for none.
func (f jobFile) islandOf(job *nomad.Job) (share.Joint, error) {
	if f.island != "" {
		return share.Joint(f.island), nil // checked with the flags
	}
	name := job.Meta[islandMeta]
	if name == "" {
		return "", nil
	}
	by, err := steer.ParseJoint(name)
	if err != nil {
		return "", fmt.Errorf("the job's meta %s: %w", islandMeta, err)
	}
	return by, nil
}

// typical returns the typical demand and its source.
func typical(ctx context.Context, file string) (pack.Demand, string, error) {
	var client *consul.Client
	if file == "" {
		var err error
		if client, err = consul.NewClient(consul.DefaultConfig()); err != nil {
			return nil, "", err
		}
	}
	return account.Demand(ctx, file, client)
}

// printNotes prints the notes of all groups.
func (s steered) printNotes(ui cli.Ui) {
	for _, c := range s.changes {
		for _, note := range c.Notes {
			ui.Warn(fmt.Sprintf("group %s: %s", c.Group, note))
		}
	}
	for _, j := range s.joined {
		where := fmt.Sprintf("group %s, task %s, device %s", j.Group, j.Task, j.Device)
		switch {
		case j.Constraint == nil:
			ui.Warn(where + ": island not requested: " + j.Note)
		case j.Note != "":
			ui.Warn(where + ": " + j.Note)
		}
	}
}
