// Command weights compares the curated hardware table with published measurements: whether it
// orders each pair of GPUs correctly, and how far its ratios are off.
package main

import (
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"text/tabwriter"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/weigh"
)

func main() { report(os.Stdout) }

// apart is the ratio above which two measured rates count as different, and factor is how far the
// table's ratio may be from the measured one.
const apart, factor = 1.15, 2.0

// pair compares two classes. fast is the faster one by measurement.
type pair struct {
	column, fast, slow string
	measured, table    float64 // ratio of fast to slow
}

func (p pair) counts() bool  { return p.measured > apart }
func (p pair) ordered() bool { return p.table > 1 }
func (p pair) off() float64  { return math.Max(p.measured/p.table, p.table/p.measured) }
func (p pair) good() bool    { return p.ordered() && p.off() <= factor }

// byTable returns the weight of a class in the table. byFormula returns, for comparison, the weight
// by the plain data-sheet formula, without efficiency.
func byTable(class string) float64 { return row(class).Weight }

func byFormula(class string) float64 {
	h := row(class)
	return weigh.Formula(weigh.Spec{Bandwidth: h.Bandwidth, TFLOPS: h.TFLOPS, Architecture: "hopper"})
}

func row(class string) gpu.Hardware {
	i := slices.IndexFunc(gpu.Table(), func(h gpu.Hardware) bool { return h.Class == class })
	if i < 0 {
		panic("the table has no class " + class)
	}
	return gpu.Table()[i]
}

// pairs returns every pair of classes in a column.
func pairs(c column, weight func(string) float64) []pair {
	var out []pair
	classes := slices.Sorted(maps.Keys(c.rate))
	for i, a := range classes {
		for _, b := range classes[i+1:] {
			fast, slow := a, b
			if c.rate[b] > c.rate[a] {
				fast, slow = b, a
			}
			out = append(out, pair{c.name, fast, slow, c.rate[fast] / c.rate[slow], weight(fast) / weight(slow)})
		}
	}
	return out
}

// both joins the rounds of offline results, each relative to its own H100 SXM, so that GPUs of
// different rounds can be compared.
func both() column {
	out := column{"both rounds", map[string]float64{}}
	count := map[string]float64{}
	for _, c := range llama70b {
		if c.name == "v5.1 server" {
			continue
		}
		for class, rate := range c.rate {
			out.rate[class] += math.Log(rate / c.rate["h100"])
			count[class]++
		}
	}
	for class := range out.rate {
		out.rate[class] = math.Exp(out.rate[class] / count[class])
	}
	return out
}

// rows converts the single-GPU rows into columns.
func rows() []column {
	var out []column
	for _, r := range argonne {
		c := column{fmt.Sprintf("%s %d tokens batch %d", r.model, r.tokens, r.batch), map[string]float64{}}
		for i, rate := range r.rate {
			if rate > 0 {
				c.rate[argonneClasses[i]] = rate
			}
		}
		out = append(out, c)
	}
	return out
}

// verdict summarises the pairs that count.
type verdict struct{ count, ordered, within, good int }

func judge(all []pair) verdict {
	var v verdict
	for _, p := range all {
		if !p.counts() {
			continue
		}
		v.count++
		if p.ordered() {
			v.ordered++
		}
		if p.off() <= factor {
			v.within++
		}
		if p.good() {
			v.good++
		}
	}
	return v
}

func report(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintf(w, "llama2-70b, pairs more than %.0f%% apart: order, and ratio within %g x\n\n", (apart-1)*100, factor)
	fmt.Fprintln(w, "results\tfaster\tslower\tmeasured\ttable\toff by\t")
	columns := append(slices.Clone(llama70b), both())
	for _, c := range columns {
		for _, p := range pairs(c, byTable) {
			if p.counts() {
				mark := "ok"
				if !p.good() {
					mark = "WRONG"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%.2f\t%.2f\t%.2f x\t%s\n", p.column, p.fast, p.slow, p.measured, p.table,
					p.off(), mark)
			}
		}
	}
	fmt.Fprintln(w)
	fmt.Fprintln(w, "summary\tpairs apart\tordered rightly\twithin 2 x\tplain formula: ordered\twithin 2 x\t")
	line := func(name string, columns ...column) {
		var table, formula []pair
		for _, c := range columns {
			table, formula = append(table, pairs(c, byTable)...), append(formula, pairs(c, byFormula)...)
		}
		t, f := judge(table), judge(formula)
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t\n", name, t.count, t.ordered, t.within, f.ordered, f.within)
	}
	for _, c := range columns {
		line("llama2-70b "+c.name, c)
	}
	line(llama8b.name, llama8b)
	line("one GPU, 7-8B, vLLM 2024, FP16", rows()...)
	for _, batch := range []int{1, 16, 64} {
		line(fmt.Sprintf("  of these batch %d", batch), slices.DeleteFunc(rows(), func(c column) bool {
			return c.name[len(c.name)-len(fmt.Sprint(" batch ", batch)):] != fmt.Sprint(" batch ", batch)
		})...)
	}
	fmt.Fprintln(w)
	efficiencies(w)
}

// measuredClasses are the classes whose weight is based on a measurement.
var measuredClasses = []string{
	"gb200", "b200", "gh200", "h200-nvl", "h200", "h100-nvl", "h100-pcie", "h100", "rtx-pro-6000",
	"a100-80gb", "a100-40gb", "l40s", "mi355x", "mi325x", "mi300x", "mi250x",
}

// efficiency returns, by architecture, the geometric mean of measured weight over the plain
// formula.
func efficiency() map[string]float64 {
	sum, n := map[string]float64{}, map[string]float64{}
	for _, class := range measuredClasses {
		a := row(class).Architecture
		sum[a] += math.Log(byTable(class) / byFormula(class))
		n[a]++
	}
	for a := range sum {
		sum[a] = math.Exp(sum[a] / n[a])
	}
	return sum
}

func efficiencies(w io.Writer) {
	fmt.Fprintln(w, "architecture\tmeasured / plain formula\tefficiency in use\t")
	e := efficiency()
	for _, a := range slices.Sorted(maps.Keys(e)) {
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t\n", a, e[a], weigh.Efficiency(a))
	}
}
