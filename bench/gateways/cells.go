package main

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"text/tabwriter"
)

// cells prints the simulated cost of splitting a service's replicas and clients into independent
// cells, as without one owner that decides for all. Each cell assigns a request to the fastest free
// slot, and queues it if there is none.
func cells() {
	const each = 96 // fast replicas, and as many slow ones
	fmt.Printf("\n%d fast and %d slow replicas of one slot in cells, clients spread by hash, simulated, "+
		"times in fast requests' means\n\n", each, each)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "LOAD\tCELLS\tREPLICAS PER CELL\tMEAN\tP99\tRATIO: MEAN\tP99")
	for _, load := range []float64{0.8, 0.9, 0.95} {
		var one []float64
		for _, n := range []int{1, 2, 4, 8, 16} {
			times := simulate(n, each/n, load)
			slices.Sort(times)
			if n == 1 {
				one = times
			}
			m, q := average(times), times[len(times)*99/100]
			fmt.Fprintf(w, "%.2f\t%d\t%d\t%.2f\t%.2f\t%.2f\t%.2f\n", load, n, 2*each/n, m, q, m/average(one),
				q/one[len(one)*99/100])
		}
	}
	w.Flush()
}

func average(of []float64) float64 {
	var sum float64
	for _, v := range of {
		sum += v
	}
	return sum / float64(len(of))
}

// simulate plays 400,000 requests over all cells and returns their latencies.
func simulate(cells, perClass int, load float64) (times []float64) {
	rng := rand.New(rand.NewPCG(14, uint64(cells)))
	rate := load * float64(cells) * float64(perClass) * (1 + 1/float64(slower))
	all := make([]cell, cells)
	for i := range all {
		all[i] = cell{fast: perClass, slow: perClass}
	}
	now := 0.0
	for range 400_000 {
		now += rng.ExpFloat64() / rate
		all[rng.IntN(cells)].arrive(now, rng.ExpFloat64(), &times)
	}
	for i := range all {
		all[i].until(now+1e9, &times)
	}
	return times
}

// cell is a group of replicas that share one queue.
type cell struct {
	fast, slow int // free slots
	busy       ends
	queue      []waiting
}

type waiting struct{ at, serve float64 }

type end struct {
	at   float64
	slow bool
}

type ends []end

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, j int) bool { return e[i].at < e[j].at }
func (e ends) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *ends) Push(x any)        { *e = append(*e, x.(end)) }
func (e *ends) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func (c *cell) arrive(now, serve float64, times *[]float64) {
	c.until(now, times)
	c.queue = append(c.queue, waiting{now, serve})
	c.begin(now, times)
}

// until ends the requests that finish by a time.
func (c *cell) until(now float64, times *[]float64) {
	for len(c.busy) > 0 && c.busy[0].at <= now {
		e := heap.Pop(&c.busy).(end)
		if e.slow {
			c.slow++
		} else {
			c.fast++
		}
		c.begin(e.at, times)
	}
}

func (c *cell) begin(now float64, times *[]float64) {
	for len(c.queue) > 0 && c.fast+c.slow > 0 {
		w := c.queue[0]
		c.queue = c.queue[1:]
		e := end{now + w.serve, false}
		if c.fast > 0 {
			c.fast--
		} else {
			c.slow--
			e = end{now + w.serve*slower, true}
		}
		heap.Push(&c.busy, e)
		*times = append(*times, e.at-w.at)
	}
}
