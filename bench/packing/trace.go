package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// machine is one node of the published cluster.
type machine struct {
	cpu, memory, gpus int // thousandths of a core, MiB
	model             string
	// whole means that the node offers its GPUs whole, as one group.
	whole bool
}

// apart sets GPUs aside for tasks of several GPUs: machines of eight GPUs, evenly chosen,
// offer them whole until they are the given part, 0 to 1, of all GPUs.
func apart(cluster []machine, part float64) []machine {
	out := slices.Clone(cluster)
	var large []int
	for i, m := range out {
		if m.gpus == 8 {
			large = append(large, i)
		}
	}
	n := min(len(large), int(math.Round(part*capacity(cluster)/8)))
	for i := range n {
		out[large[i*len(large)/n]].whole = true
	}
	return out
}

// task is one task of a workload. If gpus is 1, it asks for this part, 0 to 1, of one GPU.
type task struct {
	cpu, memory, gpus int
	part              float64
	// whole means that a task of several GPUs makes one request for whole GPUs, instead of
	// one request for all slices of each.
	whole bool
}

// gpu returns the GPU capacity that a task asks for, in GPUs.
func (t task) gpu() float64 {
	if t.gpus == 1 {
		return t.part
	}
	return float64(t.gpus)
}

// slices rounds the part of one GPU up to whole slices of n.
func (t task) slices(n int) int {
	if t.gpus == 0 {
		return 0
	}
	return int(math.Ceil(t.part*float64(n) - 1e-9))
}

// rows calls each with every record of a CSV file except the header.
func rows(dir, name string, columns int, each func(number func(column int) int, text func(column int) string)) error {
	file, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	defer file.Close()
	in := csv.NewReader(file)
	for line := 1; ; line++ {
		record, err := in.Read()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if len(record) < columns {
			return fmt.Errorf("%s: line %d has %d columns, want %d", name, line, len(record), columns)
		}
		if line == 1 {
			continue
		}
		var bad error
		each(func(i int) int {
			n, err := strconv.Atoi(record[i])
			if err != nil {
				bad = fmt.Errorf("%s: line %d: %w", name, line, err)
			}
			return n
		}, func(i int) string { return record[i] })
		if bad != nil {
			return bad
		}
	}
}

// readCluster reads every nth node.
func readCluster(dir string, every int) ([]machine, error) {
	var out []machine
	i := 0
	err := rows(dir, "openb_node_list_gpu_node.csv", 5, func(number func(int) int, text func(int) string) {
		if i++; (i-1)%every == 0 {
			out = append(out, machine{cpu: number(1), memory: number(2), gpus: number(3), model: text(4)})
		}
	})
	return out, err
}

func readTasks(dir, workload string) ([]task, error) {
	var out []task
	err := rows(dir, "openb_pod_list_"+workload+".csv", 6, func(number func(int) int, _ func(int) string) {
		t := task{cpu: number(1), memory: number(2), gpus: number(3)}
		if t.gpus == 1 {
			t.part = float64(number(4)) / 1000
		} else if t.gpus > 1 {
			t.part = 1
		}
		out = append(out, t)
	})
	return out, err
}

// capacity returns the number of GPUs of a cluster.
func capacity(cluster []machine) float64 {
	sum := 0
	for _, m := range cluster {
		sum += m.gpus
	}
	return float64(sum)
}

// arrivals draws tasks until their demand is most times the cluster's capacity: each task of
// the list once, in a random order, and then tasks of the list at random.
func arrivals(tasks []task, capacity, most float64, seed uint64) []task {
	source := rand.New(rand.NewPCG(seed, 16))
	order := source.Perm(len(tasks))
	var out []task
	for sum, i := 0.0, 0; sum < most*capacity; i++ {
		t := tasks[source.IntN(len(tasks))]
		if i < len(order) {
			t = tasks[order[i]]
		}
		out = append(out, t)
		sum += t.gpu()
	}
	return out
}
