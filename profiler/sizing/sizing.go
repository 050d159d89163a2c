// Package sizing finds out what kinds of replica a service could have, what each does within
// an objective, and what the service needs, from what gateways learned, what was benchmarked
// and what the GPUs say of their tasks.
package sizing

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/learned"
	"aliquot.example/internal/profilekv"
	"aliquot.example/internal/rightsize"
	"aliquot.example/profiler"
)

// Question is what is asked about a service.
type Question struct {
	Service   string
	Objective learned.Objective
	// Quantile is the part of the requests that it is promised to.
	Quantile float64
	// Cost of a whole GPU for an hour, by class.
	Cost map[string]float64
	// Rate is how many requests a second come at the busiest time, and Longest how many
	// tokens one may have; 0 where that is not known.
	Rate, Longest float64
	// Memory is how much memory in MiB a GPU of a class has, 0 where that is not known.
	Memory map[string]float64
}

// Running is a kind of replica that the service has now.
type Running struct {
	Class, Slices string
	Replicas      int
	// Allocs are those of Nomad, of which Use says what they take.
	Allocs []string
	Use    Use
}

// Answer is what is known.
type Answer struct {
	Choices []rightsize.Choice
	Need    rightsize.Need
	Running []Running
	// Request is the mean tokens of a prompt and of an answer that was reckoned with.
	Prompt, Output float64
	Notes          []string
}

// Replicas is how many replicas the service has now.
func (a Answer) Replicas() (n int) {
	for _, r := range a.Running {
		n += r.Replicas
	}
	return n
}

// Fits fails where another class serves now of which it is not known that it can with the slice
// count of a choice: a job's count is one for all classes that its replicas are placed on.
func (a Answer) Fits(c rightsize.Choice) error {
	for _, r := range a.Running {
		_, total, ok := learned.ParseSlices(r.Slices)
		if r.Class == c.Class || r.Class == "" || !ok {
			continue
		}
		size := learned.SlicesOf(c.Slices, total)
		i := slices.IndexFunc(a.Choices, func(o rightsize.Choice) bool {
			return o.Class == r.Class && o.Slices == c.Slices && o.Total == total
		})
		why := "nothing is known of it with so many: measure it by aliquot bench matrix"
		if i >= 0 {
			why = a.Choices[i].Refusal(a.Need)
		}
		if why != "" {
			return fmt.Errorf("%s serves too, and the job's count would give it %s: %s; -class=%s chooses among its "+
				"sizes alone", r.Class, size, why, r.Class)
		}
	}
	return nil
}

// enough requests of a kind of replica must have been measured for its curve to be believed.
const enough = 8

// Ask answers from Consul.
func Ask(ctx context.Context, client *consul.Client, q Question, running []Running, now time.Time) (Answer, error) {
	options := (&consul.QueryOptions{}).WithContext(ctx)
	pairs, _, err := client.KV().List(learned.RatesPrefix+"/"+q.Service+"/", options)
	if err != nil {
		return Answer{}, fmt.Errorf("learned rates in Consul: %w", err)
	}
	var rates []learned.Rates
	for _, pair := range pairs {
		doc, _ := learned.ParseRates(pair.Value)
		rates = append(rates, doc)
	}
	listed, err := profilekv.List(client, q.Service, options)
	if err != nil {
		return Answer{}, err
	}
	a := Decide(q, rates, listed.Profiles[q.Service], running, now)
	for _, bad := range listed.Bad[q.Service] {
		a.Notes = append(a.Notes, bad.Error())
	}
	return a, nil
}

// Decide answers from what is known.
func Decide(
	q Question, rates []learned.Rates, profiles []learned.Profile, running []Running, now time.Time,
) Answer {
	believed := func(samples float64, _ time.Duration) bool { return samples >= enough }
	known := learned.Known(now, rates, profiles, believed)
	a := Answer{Running: running, Need: rightsize.Need{Rate: q.Rate, Longest: q.Longest}}
	a.Prompt, a.Output = usual(known)
	var options []rightsize.Option
	for class, m := range known {
		for size, curve := range m.Tokens {
			have, of, ok := learned.ParseSlices(size)
			source := m.SourceOf(size)
			if !ok || !counts(curve, source) {
				continue
			}
			curve.Prompt, curve.Output = a.Prompt, a.Output
			w := learned.Promised(curve, q.Objective, q.Quantile)
			o := rightsize.Option{
				Class: class, Slices: have, Total: of, Concurrency: w.Concurrency, Rate: w.Rate, KV: curve.KV,
				GPU: q.Cost[class], From: evidence(m, source, class, size, profiles, now),
			}
			if curve.KV == 0 {
				o.Memory = math.Floor(q.Memory[class] * float64(have) / float64(of))
			}
			options = append(options, o)
		}
	}
	// Maps have no order, and of options that are alike the first would be another each time.
	slices.SortFunc(options, func(a, b rightsize.Option) int {
		return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(a.Total, b.Total), cmp.Compare(a.Slices, b.Slices))
	})
	a.Need.Longest = max(q.Longest, a.Prompt+a.Output)
	for _, r := range running {
		a.Need.Memory = max(a.Need.Memory, r.Use.Memory)
	}
	a.Choices = rightsize.Choose(options, a.Need)
	a.Notes = append(a.Notes, unknown(running, options)...)
	return a
}

// counts says whether a curve is believed.
func counts(c learned.Curve, from learned.Source) bool {
	return c.Prompt > 0 && (from != learned.FromGateways || c.Samples >= enough)
}

// usual is the mean tokens of a prompt and of an answer of all requests that the gateways served,
// or where they served none, of those that were benchmarked: classes whose requests differ are
// compared by the same. Both are 0 where nothing is known.
func usual(known map[string]learned.Merged) (prompt, output float64) {
	samples, served := 0.0, false
	for _, class := range slices.Sorted(maps.Keys(known)) {
		m := known[class]
		for _, size := range slices.Sorted(maps.Keys(m.Tokens)) {
			c, from := m.Tokens[size], m.SourceOf(size)
			if !counts(c, from) || served && from != learned.FromGateways {
				continue
			}
			if !served && from == learned.FromGateways {
				samples, prompt, output, served = 0, 0, 0, true
			}
			samples += c.Samples
			prompt += c.Prompt * c.Samples
			output += c.Output * c.Samples
		}
	}
	if samples == 0 {
		return 0, 0
	}
	return prompt / samples, output / samples
}

// evidence says where a curve is from.
func evidence(
	m learned.Merged, source learned.Source, class, size string, profiles []learned.Profile, now time.Time,
) string {
	if source == learned.FromGateways {
		age := now.Sub(m.Updated).Abs().Round(time.Minute)
		return fmt.Sprintf("%.0f requests, published %s ago", m.Tokens[size].Samples, age)
	}
	for _, p := range learned.Newest(now, profiles) {
		if p.Class == class && p.Slices == size {
			text := "benchmarked " + p.Measured.Format("2006-01-02")
			if p.Driver != "" {
				text += ", driver " + p.Driver
			}
			return text
		}
	}
	return string(source)
}

// unknown names kinds of replica that serve and that nothing is known of.
func unknown(running []Running, options []rightsize.Option) (notes []string) {
	for _, r := range running {
		known := slices.ContainsFunc(options, func(o rightsize.Option) bool {
			return o.Class == r.Class && learned.SlicesOf(o.Slices, o.Total) == r.Slices
		})
		if !known {
			notes = append(notes, fmt.Sprintf(
				"nothing is known of %s %s, which serves: fewer than %d requests were measured",
				r.Class, r.Slices, enough))
		}
	}
	return notes
}

// Replicas lists what the service has now, and the longest request that its replicas take,
// 0 where they do not say.
func Replicas(ctx context.Context, client *consul.Client, service string) (all []Running, longest float64, err error) {
	entries, _, err := client.Health().Service(service, "", true, (&consul.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, 0, fmt.Errorf("replicas of %q in Consul: %w", service, err)
	}
	for _, e := range entries {
		if e.Service.Kind != consul.ServiceKindTypical {
			continue
		}
		have, _ := strconv.Atoi(e.Service.Meta[gpu.MetaSlices])
		of, _ := strconv.Atoi(e.Service.Meta[gpu.MetaTotal])
		class, size := e.Service.Meta[gpu.MetaClass], learned.SlicesOf(have, of)
		i := slices.IndexFunc(all, func(r Running) bool { return r.Class == class && r.Slices == size })
		if i < 0 {
			i, all = len(all), append(all, Running{Class: class, Slices: size})
		}
		all[i].Replicas++
		if id := profiler.AllocOf(e.Service.ID); id != "" {
			all[i].Allocs = append(all[i].Allocs, id)
		}
		tokens, err := strconv.ParseFloat(e.Service.Meta[gpu.MetaMaxPrompt], 64)
		if err == nil && tokens > 0 && tokens <= mostTokens { // no NaN either
			longest = max(longest, tokens)
		}
	}
	slices.SortFunc(all, func(a, b Running) int {
		return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(a.Slices, b.Slices))
	})
	return all, longest, nil
}

// mostTokens is more than any request has.
const mostTokens = 1e9

// minute is over how many seconds what comes is averaged.
const minute = 60

// Busiest is the largest mean over a minute of what came in each second, of less than a minute
// the mean over all of it.
func Busiest(seconds []float64) (most float64) {
	sum := 0.0
	for i, v := range seconds {
		sum += v
		if i >= minute {
			sum -= seconds[i-minute]
		}
		most = max(most, sum/float64(min(len(seconds), minute)))
	}
	return most
}
