package main

import (
	"cmp"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"text/tabwriter"

	"aliquot.example/e2e/modelserver/hardware"
	"aliquot.example/internal/gpu"
)

// asked returns the replicas that answered, sorted by service and GPU.
func (w *watch) asked() []*replica {
	var out []*replica
	for _, r := range w.replicas {
		if r.err == nil && r.info.Grant != nil {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b *replica) int {
		return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.info.Grant.Group, b.info.Grant.Group),
			cmp.Compare(a.alloc, b.alloc))
	})
	return out
}

// printReplicas prints what one container of each service sees on each GPU.
func (s *summary) printReplicas(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SERVICE\tGPU\tSLICES\tIMAGE\tCOMPUTE\tSEEN INSIDE THE CONTAINER\tHELD BY\tSTARTED")
	all := s.watch.asked()
	for i := 0; i < len(all); {
		r, n := all[i], 0
		for i < len(all) && all[i].service == r.service && all[i].info.Grant.Group == r.info.Grant.Group {
			i, n = i+1, n+1
		}
		g := r.info.Grant
		fmt.Fprintf(t, "%s\t%s\t%d of %d\t%s\t%s\t%s\t%s\t%d\n", r.service, g.Group, g.Slices, g.Total,
			path.Base(s.image)+":"+r.info.Variant, compute(r.info), sees(r.info), g.Enforcement, n)
	}
	_ = t.Flush()
}

// compute returns the task's part of the GPU in its vendor's terms.
func compute(info hardware.Info) string {
	if info.Grant.Vendor == gpu.AMD {
		return fmt.Sprintf("%d CUs", info.Grant.Units)
	}
	return info.Environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] + "%"
}

// sees returns what the process found when it opened the GPU, or what it could open.
func sees(info hardware.Info) string {
	if info.Grant.Vendor == gpu.AMD {
		return strings.ReplaceAll(strings.Join(info.DeviceNodes, " "), "/dev/", "")
	}
	if info.CUDA == nil || len(info.CUDA.Devices) == 0 {
		return "no GPU"
	}
	d := info.CUDA.Devices[0]
	return fmt.Sprintf("%d of %d SMs, %d of %d MiB", d.SMs, d.Total, d.Limit, d.Memory)
}
