package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/learned"
	"aliquot.example/internal/rightsize"
	"aliquot.example/profiler/matrix"
	"aliquot.example/profiler/sizing"
)

// totalVariable matches the variable in a job file for the number of slices of a whole GPU.
var totalVariable = regexp.MustCompile(`(?m)^\s*variable\s+"slices_total"\s*\{`)

// change submits the job with the slice count of the best choice.
func (r *rightSize) change(ctx context.Context, a sizing.Answer) error {
	best, err := r.best(a)
	if err != nil {
		return err
	}
	size := learned.SlicesOf(best.Slices, best.Total)
	has := func(r sizing.Running) bool { return r.Class == best.Class && r.Slices == size }
	switch {
	case len(a.Running) > 0 && !slices.ContainsFunc(a.Running, func(r sizing.Running) bool { return !has(r) }):
		r.ui.Output("All replicas already have this size: nothing to change")
		return nil
	case best.Total == 1 || !slicesVariable.MatchString(r.file.text):
		return fmt.Errorf("%s has no variable to set %s: change its device block by hand",
			r.file.path, kind(best.Class, size))
	}
	if err := a.Fits(best); err != nil {
		return err
	}
	if err := r.same(ctx); err != nil {
		return err
	}
	return r.submit(ctx, a, best)
}

// sized returns the job file with variables for a slice count.
func (r *rightSize) sized(count, total int) jobFile {
	file := r.file
	file.vars = append(slices.Clone(file.vars), fmt.Sprintf("slices=%d", count))
	if total > 0 && totalVariable.MatchString(file.text) {
		file.vars = append(file.vars, fmt.Sprintf("slices_total=%d", total))
	}
	return file
}

// same returns an error if the job in Nomad differs from the job file with the present slice
// count. Submitting the file would then change more than the size, for example the model, because
// the user forgot a variable. A job that is not in Nomad yet does not differ.
func (r *rightSize) same(ctx context.Context) error {
	q := (&nomad.QueryOptions{Namespace: orEmpty(r.job.Namespace), Region: orEmpty(r.job.Region)}).WithContext(ctx)
	now, _, err := r.nomad.Jobs().Info(*r.job.ID, q)
	var status nomad.UnexpectedResponseError
	if errors.As(err, &status) && status.StatusCode() == http.StatusNotFound {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read job %s from Nomad: %w", *r.job.ID, err)
	}
	file := r.file
	if count, total := matrix.SlicesOf(now); count > 0 {
		file = r.sized(count, total)
	}
	s, err := file.steer(ctx)
	if err != nil {
		return err
	}
	plan, _, err := s.nomad.Jobs().Plan(s.job, true, s.write().WithContext(ctx))
	if err != nil {
		return err
	}
	if what := differs(plan.Diff); what != "" {
		return fmt.Errorf("job %s in Nomad differs from %s with these variables in %s: repeat the -var and "+
			"-var-file of its last run, or submit the other changes with aliquot job run first",
			*s.job.ID, r.file.path, what)
	}
	return nil
}

// differs names the first difference in a plan, "" if there is none. It ignores counts, and spreads
// and affinities, because packing changes these with the demand. It never returns a value, which
// may be a secret.
func differs(d *nomad.JobDiff) string {
	if d == nil {
		return ""
	}
	if what := differsIn(d.Fields, d.Objects); what != "" {
		return what
	}
	for _, g := range d.TaskGroups {
		if g.Type == "Added" || g.Type == "Deleted" {
			return "group " + g.Name
		}
		fields := slices.DeleteFunc(slices.Clone(g.Fields), func(f *nomad.FieldDiff) bool { return f.Name == "Count" })
		if what := differsIn(fields, g.Objects); what != "" {
			return "group " + g.Name + ", " + what
		}
		for _, t := range g.Tasks {
			if what := differsIn(t.Fields, t.Objects); what != "" {
				return "group " + g.Name + ", task " + t.Name + ", " + what
			}
		}
	}
	return ""
}

func differsIn(fields []*nomad.FieldDiff, objects []*nomad.ObjectDiff) string {
	for _, f := range fields {
		if f.Type != "None" {
			return f.Name
		}
	}
	for _, o := range objects {
		if o.Type == "None" || o.Name == "Affinity" || o.Name == "Spread" {
			continue
		}
		if what := differsIn(o.Fields, o.Objects); what != "" {
			return strings.ToLower(o.Name) + " " + what
		}
	}
	return ""
}

// submit registers the job with the size of a choice.
func (r *rightSize) submit(ctx context.Context, a sizing.Answer, best rightsize.Choice) error {
	s, err := r.sized(best.Slices, best.Total).steer(ctx)
	if err != nil {
		return err
	}
	if count, _ := matrix.SlicesOf(s.job); count != best.Slices {
		return fmt.Errorf("%s: the variable \"slices\" does not set the count of a device block: change the block by "+
			"hand", r.file.path)
	}
	s.printNotes(r.ui)
	answer, _, err := s.nomad.Jobs().RegisterOpts(s.job, &nomad.RegisterOptions{PreserveCounts: true},
		s.write().WithContext(ctx))
	if err != nil {
		return err
	}
	if answer.Warnings != "" {
		r.ui.Warn(strings.TrimSpace(answer.Warnings))
	}
	fmt.Fprintf(os.Stdout, "Job %s submitted with %d slices for each replica, evaluation %s\n", *s.job.ID, best.Slices,
		answer.EvalID)
	if n := a.Replicas(); n > 0 && best.Replicas > n {
		r.ui.Warn(fmt.Sprintf("Note: %d replicas of this size are needed, and %d serve now: wait for the autoscaler, "+
			"or use nomad job scale", best.Replicas, n))
	}
	return nil
}
