package strategy

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/autoscaler-plugin/settings"
	"aliquot.example/internal/gpu"
	"aliquot.example/internal/learned"
	"aliquot.example/internal/profilekv"
	"aliquot.example/internal/scale"
)

const (
	// enough requests of a class must have been measured for its curve to be believed.
	enough = 8
	// newer is how many times as many must have taught another curve of a class than the one
	// in force: of two that are about as well known neither is better.
	newer = 2
	// loosened is how many times the objective a class may take with one request before it
	// counts as one that misses it, where it did not.
	loosened = 1.15
)

// sizes are curves, or numbers of replicas, by class and by the slices of the GPU that a
// replica has, see learned.SlicesOf.
type sizes[T any] map[string]map[string]T

func (s sizes[T]) of(class string) map[string]T {
	if s[class] == nil {
		s[class] = map[string]T{}
	}
	return s[class]
}

// known is what the gateways have learned of how long replicas take, and how many replicas
// there are.
type known struct {
	curves   sizes[learned.Curve]
	replicas sizes[int]
}

// curves reads what the gateways have learned and what was benchmarked.
func (g *gateways) curves(ctx context.Context, service string, now time.Time) (k known, err error) {
	client, err := g.kv()
	if err != nil {
		return k, err
	}
	options := (&consul.QueryOptions{}).WithContext(ctx)
	pairs, meta, err := client.KV().List(g.demand.Rates+"/"+service+"/", options)
	if err := settings.Whole(meta, err); err != nil {
		return k, fmt.Errorf("curves of %q: %w", service, err)
	}
	var rates []learned.Rates
	for _, pair := range pairs {
		doc, _ := learned.ParseRates(pair.Value)
		rates = append(rates, doc)
	}
	listed, err := profilekv.List(client, service, options)
	if err != nil {
		return k, fmt.Errorf("curves of %q: %w", service, err)
	}
	k = known{sizes[learned.Curve]{}, sizes[int]{}}
	// Without them the curve in force stays, or the one that most requests taught counts.
	entries, _, err := client.Health().Service(service, "", true, options)
	if err != nil {
		entries = nil
	}
	for _, e := range entries {
		have, _ := strconv.Atoi(e.Service.Meta[gpu.MetaSlices])
		of, _ := strconv.Atoi(e.Service.Meta[gpu.MetaTotal])
		k.replicas.of(e.Service.Meta[gpu.MetaClass])[learned.SlicesOf(have, of)]++
	}
	for class, m := range learned.Known(now, rates, listed.Profiles[service], believed) {
		k.take(class, m)
	}
	return k, nil
}

// believed trusts what gateways published of enough requests.
func believed(samples float64, _ time.Duration) bool { return samples >= enough }

// take adds the curves of a class. A size that was only benchmarked counts where replicas
// have it, or where the gateways know no size of the class.
func (k known) take(class string, m learned.Merged) {
	served := false
	for size, curve := range m.Tokens {
		served = served || m.SourceOf(size) == learned.FromGateways && curve.Samples >= enough && curve.Prompt > 0
	}
	for size, curve := range m.Tokens {
		profiled := m.SourceOf(size) == learned.FromProfile
		unused := profiled && served && k.replicas[class][size] == 0
		if unused || !profiled && curve.Samples < enough || curve.Prompt <= 0 {
			continue
		}
		k.curves.of(class)[size] = curve
	}
}

// force is what the classes of a service serve within its objective, by class. What is learned
// changes a little all the time, and each change makes another mix the cheapest: it comes into
// force when it has moved.
type force struct {
	serving map[string]scale.Serving
	// size is that of the replicas whose curve it is, by class.
	size map[string]string
	// assumed are the classes of which nothing was measured: serving is by their prior.
	assumed map[string]bool
	// tokens is those of a mean request, 0 where no curve is known.
	tokens float64
	// since is when it came into force, of one class the zero time: nothing replaces another.
	since time.Time
}

// age is for how long it has been in force.
func (f force) age(now time.Time) time.Duration {
	if f.since.IsZero() {
		return scale.Always
	}
	return max(0, now.Sub(f.since))
}

// inForce brings what was learned into force where it has moved, for the policies of all
// classes at once. After a restart of the plugin it does so at the first look, so that
// nothing shrinks for one cold start.
func (p *Plugin) inForce(service string, c *scale.Config, k known, now time.Time) force {
	key := service + " " + c.Objective.String()
	for _, class := range c.Classes {
		key += " " + class.Name
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.force[key].next(c, k, now)
	p.force[key] = f
	return f
}

// next is what is in force after a look at what is known.
func (f force) next(c *scale.Config, k known, now time.Time) force {
	if f.since.After(now) { // the clock was set back: nothing may shrink for a cold start, not until then
		f.since = now
	}
	out := force{maps.Clone(f.serving), maps.Clone(f.size), map[string]bool{}, f.tokens, now}
	if f.serving == nil {
		out.serving, out.size = map[string]scale.Serving{}, map[string]string{}
	}
	other := false
	for _, class := range c.Classes {
		curves, replicas := k.curves[class.Name], k.replicas[class.Name]
		if curves == nil && len(c.Classes) == 1 { // a policy with slots does not name its class
			curves, replicas = flat(k.curves), flat(k.replicas)
		}
		size := choose(curves, replicas, f.size[class.Name])
		if size == "" {
			if f.size[class.Name] == "" { // else an old curve is nearer to the truth
				out.assume(class.Name, c.Objective, k, f.assumed[class.Name])
			}
			continue
		}
		curve := curves[size]
		other = other || size != f.size[class.Name]
		out.size[class.Name] = size
		out.serving[class.Name] = within(curve, c.Objective, f.size[class.Name] != "" && f.serving[class.Name].Most > 0)
		out.tokens = max(1, curve.Prompt+curve.Output)
	}
	other = other || !maps.Equal(f.assumed, out.assumed)
	if !other && !scale.ServingMoved(f.serving, out.serving) && math.Abs(out.tokens-f.tokens) <= 0.1*f.tokens {
		return f
	}
	if len(c.Classes) == 1 {
		out.since = time.Time{}
	}
	return out
}

// assume takes what a class serves from its prior, if there is one. What was assumed before
// stays while nothing is known, as while Consul is away.
func (f force) assume(class string, objective *scale.Objective, k known, before bool) {
	if curve, ok := k.prior(class); ok {
		f.serving[class], f.assumed[class] = within(curve, objective, false), true
	} else if before {
		f.assumed[class] = true
	} else {
		delete(f.serving, class)
	}
}

// prior is what is assumed of a class that has neither served nor been benchmarked: the
// hardware table's, for replicas of the size that most of the class have, or else for whole GPUs.
func (k known) prior(class string) (learned.Curve, bool) {
	slices, total, most := 1, 1, 0
	for _, size := range sorted(k.replicas[class]) {
		if n := k.replicas[class][size]; n > most {
			if s, t, ok := learned.ParseSlices(size); ok {
				slices, total, most = s, t, n
			}
		}
	}
	return learned.Prior(class, float64(slices)/float64(total), k.curves)
}

func sorted[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

// flat is all sizes of all classes.
func flat[T any](s sizes[T]) map[string]T {
	out := map[string]T{}
	for class, of := range s {
		for size, v := range of {
			out[class+" "+size] = v
		}
	}
	return out
}

// choose returns the size of replicas whose curve counts, "" where none is known: that of most
// replicas, then the one in force unless another is far better known, then the one that most
// requests taught.
func choose(curves map[string]learned.Curve, replicas map[string]int, inForce string) string {
	taught := func(size string) float64 {
		if size == inForce {
			return newer * curves[size].Samples
		}
		return curves[size].Samples
	}
	sorted := slices.SortedFunc(maps.Keys(curves), func(a, b string) int {
		return cmp.Or(cmp.Compare(replicas[b], replicas[a]), cmp.Compare(taught(b), taught(a)), strings.Compare(a, b))
	})
	if len(sorted) == 0 {
		return ""
	}
	return sorted[0]
}

// within is what a replica serves within the objective. A class that met it with one request
// is not left out for missing it by little.
func within(curve learned.Curve, objective *scale.Objective, met bool) scale.Serving {
	o := learned.Objective{TTFT: objective.TTFT.Seconds(), TPOT: objective.TPOT.Seconds(), E2E: objective.E2E.Seconds()}
	l := curve.Within(o, objective.Quantile)
	loose := learned.Objective{TTFT: loosened * o.TTFT, TPOT: loosened * o.TPOT, E2E: loosened * o.E2E}
	if met && l.Most == 0 && curve.Within(loose, objective.Quantile).Most > 0 {
		l.Most = 1
		l.Rate, l.First, l.Token = curve.At(1)
	}
	return scale.Serving(l)
}
