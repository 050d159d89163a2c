package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"text/tabwriter"
	"time"

	"aliquot/e2e/cluster"
	"aliquot/e2e/modelserver/hardware"
	"aliquot/internal/gpu"
)

// row is one allocation: where Nomad put it, and what its container sees.
type row struct {
	alloc, group, image string
	info                hardware.Info
	// service is the meta of its Consul service.
	service map[string]string
}

// slices runs the job on GPUs of a class and reads back what landed where.
func slices(ctx context.Context, c *cluster.Cluster, class string) ([]row, error) {
	c.Say("submitting jobs/slices.nomad.hcl for %s: 6 and 10 of 20 slices", class)
	job, err := c.Run("jobs/slices.nomad.hcl", cluster.Vars{"name": "slices-" + class, "image": c.Image, "gpus": "^" + class + "-"})
	if err != nil {
		return nil, err
	}
	allocs, err := c.AwaitRunning(ctx, *job.ID, 2)
	if err != nil {
		return nil, err
	}
	if class == "mi300x" {
		// No kernel driver is there to see the tasks open their GPU.
		for _, alloc := range allocs {
			if _, err := c.OpenGPU(ctx, alloc, 8<<30, 0); err != nil {
				return nil, err
			}
		}
	}
	c.Say("asking the model servers what they see")
	var rows []row
	for _, alloc := range allocs {
		info, err := c.Info(ctx, alloc)
		if err != nil {
			return nil, err
		}
		r := row{alloc: alloc.ID[:8], group: alloc.TaskGroup, image: path.Base(c.Image) + ":" + info.Variant, info: info}
		if r.service, err = meta(ctx, c, *job.Name, alloc.TaskGroup); err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// meta waits for the one healthy instance with a tag and returns its meta.
func meta(ctx context.Context, c *cluster.Cluster, service, tag string) (found map[string]string, err error) {
	err = cluster.AwaitWithin(ctx, 30*time.Second, "a healthy instance of "+service+" in Consul", func() string {
		entries, _, err := c.Consul.Health().Service(service, tag, true, nil)
		if err != nil {
			return err.Error()
		}
		if len(entries) != 1 {
			return fmt.Sprintf("there are %d", len(entries))
		}
		found = entries[0].Service.Meta
		return ""
	})
	return found, err
}

// table shows rows in aligned columns.
func table(rows []row) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ALLOCATION\tGROUP\tGPU\tSLICES\tIMAGE\tCOMPUTE\tMEMORY LIMIT\tSEES IN ITS CONTAINER\tHELD BY")
	for _, r := range rows {
		g := r.info.Grant
		if g == nil {
			fmt.Fprintf(w, "%s\t%s\tnone\n", r.alloc, r.group)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d of %d\t%s\t%s\t%s\t%s\t%s\n", r.alloc, r.group, g.Group, g.Slices, g.Total, r.image,
			compute(r.info), memory(r.info), sees(r.info), g.Enforcement)
	}
	w.Flush()
	return b.String()
}

// compute is the task's part of the GPU in its vendor's terms.
func compute(info hardware.Info) string {
	if info.Grant.Vendor == gpu.AMD {
		return fmt.Sprintf("%d CUs", info.Grant.Units)
	}
	return info.Environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] + "%"
}

// memory is the limit of the task's GPU memory, which NVIDIA writes as 0=<n>M.
func memory(info hardware.Info) string {
	limit := strings.TrimPrefix(info.Environment["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"], "0=")
	if limit == "" {
		return "none"
	}
	return strings.TrimSuffix(limit, "M") + " MiB"
}

// sees is what the process found when it opened the GPU, or could open of it.
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

// check compares what the containers see with what the job asked for.
func check(rows []row) error {
	want := map[string]struct {
		slices, percentage string
		units              int
	}{"small": {"6", "30", 90}, "large": {"10", "50", 150}}
	var problems []error
	complain := func(r row, format string, values ...any) {
		problems = append(problems, fmt.Errorf("group %s: %s", r.group, fmt.Sprintf(format, values...)))
	}
	for _, r := range rows {
		if r.info.Problem != "" {
			complain(r, "%s", r.info.Problem)
		}
		if r.info.Grant == nil || r.info.Grant.Vendor == gpu.NVIDIA && r.info.CUDA == nil {
			complain(r, "the container sees no GPU")
			continue
		}
		if r.info.Variant != string(r.info.Grant.Vendor) {
			complain(r, "image for %s on a GPU of %s", r.info.Variant, r.info.Grant.Vendor)
		}
		switch have := r.info.Environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"]; {
		case r.info.Grant.Vendor == gpu.AMD && (r.info.Grant.Units != want[r.group].units || r.info.Environment["HSA_CU_MASK"] == ""):
			complain(r, "%d compute units by mask %q, want %d", r.info.Grant.Units, r.info.Environment["HSA_CU_MASK"], want[r.group].units)
		case r.info.Grant.Vendor == gpu.NVIDIA && have != want[r.group].percentage:
			complain(r, "percentage %q, want %q", have, want[r.group].percentage)
		}
		if have := r.service["aliquot_slices"]; have != want[r.group].slices {
			complain(r, "Consul knows of %q slices, want %q", have, want[r.group].slices)
		}
		if have := r.service["gpu_class"]; have != r.info.Grant.Class {
			complain(r, "Consul knows class %q, the task was granted %q", have, r.info.Grant.Class)
		}
	}
	// Two rows of each vendor, on one GPU of it.
	for i := 0; i+1 < len(rows); i += 2 {
		a, b := rows[i].info.Grant, rows[i+1].info.Grant
		if a != nil && b != nil && a.GPUs[0] != b.GPUs[0] {
			problems = append(problems, fmt.Errorf("the groups lie on %s and %s, and one GPU has room for both", a.Group, b.Group))
		}
	}
	return errors.Join(problems...)
}
