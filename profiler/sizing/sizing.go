// Package sizing determines which kinds of replica a service could have, what each serves within an
// objective, and what the service needs. Its sources are what gateways learned, benchmark profiles,
// and the GPU usage of the replicas.
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

// Question is the input of a sizing.
type Question struct {
	Service   string
	Objective learned.Objective
	// Quantile is the part of the requests that the objective covers.
	Quantile float64
	// Cost is the cost of a whole GPU per hour, by class.
	Cost map[string]float64
	// Rate is the requests per second at the busiest time, and MaxTokens the largest number of tokens
	// of a request. 0 is unknown.
	Rate, MaxTokens float64
	// Memory is the memory of a GPU in MiB, by class. 0 is unknown.
	Memory map[string]float64
}

// Running is a kind of replica that the service has now.
type Running struct {
	Class, Slices string
	Replicas      int
	// Allocs are the IDs of its Nomad allocations, and Use is their largest GPU usage.
	Allocs []string
	Use    Use
}

// Answer is the result of a sizing.
type Answer struct {
	Choices []rightsize.Choice
	Need    rightsize.Need
	Running []Running
	// Prompt and Output are the mean tokens of a prompt and of a response that the figures assume.
	Prompt, Output float64
	Notes          []string
}

// Replicas returns the number of present replicas.
func (a Answer) Replicas() (n int) {
	for _, r := range a.Running {
		n += r.Replicas
	}
	return n
}

// Fits returns an error if a running replica of another class may not be able to serve with the
// slice count of a choice. A job has one count for all classes that its replicas are placed on.
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
		why := "this size has no measurements: measure it with aliquot bench matrix"
		if i >= 0 {
			why = a.Choices[i].Refusal(a.Need)
		}
		if why != "" {
			return fmt.Errorf("class %s also serves, and the job would give it %s: %s; -class=%s chooses only among "+
				"its sizes", r.Class, size, why, r.Class)
		}
	}
	return nil
}

// minSamples is the minimum number of measured requests to trust the curve of a kind of replica.
const minSamples = 8

// Ask reads from Consul what is known of a service and calls Decide.
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

// Decide evaluates the kinds of replica from what is known.
func Decide(
	q Question, rates []learned.Rates, profiles []learned.Profile, running []Running, now time.Time,
) Answer {
	believed := func(samples float64, _ time.Duration) bool { return samples >= minSamples }
	known := learned.Known(now, rates, profiles, believed)
	a := Answer{Running: running, Need: rightsize.Need{Rate: q.Rate, MaxTokens: q.MaxTokens}}
	a.Prompt, a.Output = meanTokens(known)
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
	// Maps have no order. Without sorting, equal options would come in a different order each time.
	slices.SortFunc(options, func(a, b rightsize.Option) int {
		return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(a.Total, b.Total), cmp.Compare(a.Slices, b.Slices))
	})
	a.Need.MaxTokens = max(q.MaxTokens, a.Prompt+a.Output)
	for _, r := range running {
		a.Need.Memory = max(a.Need.Memory, r.Use.Memory)
	}
	a.Choices = rightsize.Choose(options, a.Need)
	a.Notes = append(a.Notes, unknown(running, options)...)
	return a
}

// counts reports whether to trust a curve.
func counts(c learned.Curve, from learned.Source) bool {
	return c.Prompt > 0 && (from != learned.FromGateways || c.Samples >= minSamples)
}

// meanTokens returns the mean tokens of a prompt and of a response, over all requests that the gateways
// served, or over the benchmarked ones if they served none. All classes are compared with this
// request. Both are 0 if nothing is known.
func meanTokens(known map[string]learned.Merged) (prompt, output float64) {
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

// evidence describes the source of a curve.
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

// unknown lists the running kinds of replica that have no figures.
func unknown(running []Running, options []rightsize.Option) (notes []string) {
	for _, r := range running {
		known := slices.ContainsFunc(options, func(o rightsize.Option) bool {
			return o.Class == r.Class && learned.SlicesOf(o.Slices, o.Total) == r.Slices
		})
		if !known {
			notes = append(notes, fmt.Sprintf(
				"the running size %s %s has no measurements yet: fewer than %d requests were measured",
				r.Class, r.Slices, minSamples))
		}
	}
	return notes
}

// Replicas returns the present replicas of a service, and the largest max_model_len that they
// register, 0 if none does. It is the most tokens of prompt and response together (vLLM,
// --max-model-len), and so fits Question.MaxTokens.
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
		if err == nil && tokens > 0 && tokens <= maxTokens { // also excludes NaN
			longest = max(longest, tokens)
		}
	}
	slices.SortFunc(all, func(a, b Running) int {
		return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(a.Slices, b.Slices))
	})
	return all, longest, nil
}

// maxTokens is more than any request has.
const maxTokens = 1e9

// minute is the averaging window of Busiest in seconds.
const minute = 60

// Busiest returns the largest mean over a minute of values per second, or the mean of all if there
// is less than a minute.
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
