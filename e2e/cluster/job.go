package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/modelserver/hardware"
)

// Vars are the HCL variables of a job file.
type Vars map[string]any

// assignments renders the variables as a variables file. Strings, numbers and booleans have the
// same syntax in JSON and HCL, except for HCL's templates.
func (v Vars) assignments() (string, error) {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(v)) {
		value, err := json.Marshal(v[name])
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%s = %s\n", name, strings.NewReplacer("${", "$${", "%{", "%%{").Replace(string(value)))
	}
	return b.String(), nil
}

// Run submits a job file. A relative path is relative to the checkout.
func (c *Cluster) Run(file string, vars Vars) (*nomad.Job, error) {
	if !filepath.IsAbs(file) {
		file = filepath.Join(c.root, file)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return c.RunText(string(text), vars)
}

// RunText submits a job in HCL.
func (c *Cluster) RunText(text string, vars Vars) (*nomad.Job, error) {
	variables, err := vars.assignments()
	if err != nil {
		return nil, err
	}
	job, err := c.Nomad.Jobs().ParseHCLOpts(&nomad.JobsParseRequest{JobHCL: text, Variables: variables,
		Canonicalize: true})
	if err != nil {
		return nil, err
	}
	if _, _, err := c.Nomad.Jobs().Register(job, nil); err != nil {
		return nil, fmt.Errorf("job %s: %w", *job.ID, err)
	}
	return job, nil
}

// Purge stops a job, waits until its tasks have ended, and purges it. It purges last, because a
// purged job can no longer be queried.
func (c *Cluster) Purge(ctx context.Context, job string) error {
	if _, _, err := c.Nomad.Jobs().Deregister(job, false, nil); err != nil {
		return err
	}
	if err := c.awaitEnd(ctx, job); err != nil {
		return err
	}
	_, _, err := c.Nomad.Jobs().Deregister(job, true, nil)
	return err
}

// awaitEnd waits until every allocation of a stopped job has ended.
func (c *Cluster) awaitEnd(ctx context.Context, job string) error {
	return AwaitWithin(ctx, 60*time.Second, "the end of job "+job, func() string {
		allocs, _, err := c.Nomad.Jobs().Allocations(job, true, nil)
		if err != nil {
			return err.Error()
		}
		for _, alloc := range allocs {
			if !ended(alloc.ClientStatus) {
				return fmt.Sprintf("allocation %s is %s", alloc.ID[:8], alloc.ClientStatus)
			}
		}
		return ""
	})
}

func ended(status string) bool {
	return status == nomad.AllocClientStatusComplete || status == nomad.AllocClientStatusFailed ||
		status == nomad.AllocClientStatusLost
}

// stopJobs stops all jobs at the same time. It ignores errors.
func (c *Cluster) stopJobs(ctx context.Context) {
	jobs, _, err := c.Nomad.Jobs().List(nil)
	if err != nil {
		return
	}
	for _, job := range jobs {
		_, _, _ = c.Nomad.Jobs().Deregister(job.ID, false, nil)
	}
	for _, job := range jobs {
		_ = c.awaitEnd(ctx, job.ID)
	}
}

// AwaitRunning waits until a job has count running allocations and returns them sorted by name. It
// fails as soon as an allocation has failed for good.
func (c *Cluster) AwaitRunning(ctx context.Context, job string, count int) ([]*nomad.Allocation, error) {
	var running []*nomad.Allocation
	var failed error
	err := AwaitWithin(ctx, 90*time.Second, fmt.Sprintf("%d running allocations of job %s", count, job), func() string {
		stubs, _, err := c.Nomad.Jobs().Allocations(job, true, nil)
		if err != nil {
			return err.Error()
		}
		running = nil
		for _, stub := range stubs {
			switch {
			case stub.ClientStatus == nomad.AllocClientStatusFailed &&
				stub.DesiredStatus == nomad.AllocDesiredStatusRun && stub.NextAllocation == "":
				failed = fmt.Errorf("allocation %s (%s) failed: %s", stub.ID[:8], stub.Name, Events(stub.TaskStates))
			case stub.ClientStatus == nomad.AllocClientStatusRunning &&
				stub.DesiredStatus == nomad.AllocDesiredStatusRun:
				alloc, _, err := c.Nomad.Allocations().Info(stub.ID, nil)
				if err != nil {
					return err.Error()
				}
				running = append(running, alloc)
			}
		}
		if len(running) == count || failed != nil {
			return ""
		}
		return fmt.Sprintf("there are %d of %d; %s", len(running), len(stubs), c.pending(job, stubs))
	})
	slices.SortFunc(running, func(a, b *nomad.Allocation) int { return strings.Compare(a.Name, b.Name) })
	return running, errors.Join(failed, err)
}

// pending describes the allocations that do not run.
func (c *Cluster) pending(job string, stubs []*nomad.AllocationListStub) string {
	var parts []string
	for _, stub := range stubs {
		if stub.ClientStatus != nomad.AllocClientStatusRunning {
			parts = append(parts, fmt.Sprintf("%s %s: %s", stub.Name, stub.ClientStatus, Events(stub.TaskStates)))
		}
	}
	if reason := c.Blocked(job); reason != "" {
		parts = append(parts, "not placed: "+reason)
	}
	return strings.Join(parts, "; ")
}

// Blocked returns Nomad's reason why a part of a job is not placed, or "".
func (c *Cluster) Blocked(job string) string {
	evaluations, _, err := c.Nomad.Jobs().Evaluations(job, nil)
	if err != nil {
		return err.Error()
	}
	for _, evaluation := range evaluations {
		if evaluation.Status != "blocked" {
			continue
		}
		var parts []string
		for group, metric := range evaluation.FailedTGAllocs {
			dimensions := slices.Sorted(maps.Keys(metric.DimensionExhausted))
			filtered := slices.Sorted(maps.Keys(metric.ConstraintFiltered))
			parts = append(parts, fmt.Sprintf("group %s: exhausted %v filtered %v", group, dimensions, filtered))
		}
		if len(parts) > 0 {
			return strings.Join(parts, "; ")
		}
		return "waiting for room"
	}
	return ""
}

// Events returns the messages of the tasks' last events, newest last.
func Events(states map[string]*nomad.TaskState) string {
	var parts []string
	for _, task := range slices.Sorted(maps.Keys(states)) {
		events := states[task].Events
		for _, event := range events[max(0, len(events)-6):] {
			parts = append(parts, fmt.Sprintf("[%s] %s", event.Type, event.DisplayMessage))
		}
	}
	return strings.Join(parts, " ")
}

// AwaitEvent waits until a task of an allocation has an event that contains text, and returns the
// event's message.
func (c *Cluster) AwaitEvent(ctx context.Context, alloc, text string) (string, error) {
	var found string
	err := AwaitWithin(ctx, 60*time.Second, fmt.Sprintf("a task event with %q", text), func() string {
		info, _, err := c.Nomad.Allocations().Info(alloc, nil)
		if err != nil {
			return err.Error()
		}
		for _, state := range info.TaskStates {
			for _, event := range state.Events {
				if strings.Contains(event.DisplayMessage, text) {
					found = event.DisplayMessage
					return ""
				}
			}
		}
		return "there are: " + Events(info.TaskStates)
	})
	return found, err
}

// Address returns the host:port of an allocation's port.
func Address(alloc *nomad.Allocation, label string) (string, error) {
	for _, port := range alloc.AllocatedResources.Shared.Ports {
		if port.Label == label {
			return port.HostIP + ":" + strconv.Itoa(port.Value), nil
		}
	}
	return "", fmt.Errorf("allocation %s has no port %q", alloc.ID[:8], label)
}

// Info asks the model server of an allocation what it sees inside its container. It waits until the
// server answers.
func (c *Cluster) Info(ctx context.Context, alloc *nomad.Allocation) (hardware.Info, error) {
	var info hardware.Info
	address, err := Address(alloc, "http")
	if err != nil {
		return info, err
	}
	err = AwaitWithin(ctx, 45*time.Second, "the model server of "+alloc.Name, func() string {
		response, err := http.Get("http://" + address + "/v1/info")
		if err != nil {
			return err.Error()
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return err.Error()
		}
		if response.StatusCode != http.StatusOK {
			return fmt.Sprintf("answers %s: %s", response.Status, strings.TrimSpace(string(body)))
		}
		info = hardware.Info{}
		return why(json.Unmarshal(body, &info))
	})
	return info, err
}

// AwaitComplete waits until all allocations of a batch job have completed, and returns them.
func (c *Cluster) AwaitComplete(ctx context.Context, job string, count int) ([]*nomad.Allocation, error) {
	var done []*nomad.Allocation
	err := AwaitWithin(ctx, 90*time.Second, fmt.Sprintf("%d completed allocations of job %s", count, job),
		func() string {
			stubs, _, err := c.Nomad.Jobs().Allocations(job, true, nil)
			if err != nil {
				return err.Error()
			}
			done = nil
			for _, stub := range stubs {
				if stub.ClientStatus != nomad.AllocClientStatusComplete {
					continue
				}
				alloc, _, err := c.Nomad.Allocations().Info(stub.ID, nil)
				if err != nil {
					return err.Error()
				}
				done = append(done, alloc)
			}
			if len(done) < count {
				return fmt.Sprintf("there are %d; %s", len(done), c.pending(job, stubs))
			}
			return ""
		})
	return done, err
}

// AwaitFailure waits until a task of a job has failed for good with an event that contains text,
// and returns its events.
func (c *Cluster) AwaitFailure(ctx context.Context, job, text string) (string, error) {
	var reason string
	err := AwaitWithin(ctx, 60*time.Second, "the failure of job "+job, func() string {
		stubs, _, err := c.Nomad.Jobs().Allocations(job, true, nil)
		if err != nil {
			return err.Error()
		}
		for _, stub := range stubs {
			reason = Events(stub.TaskStates)
			if stub.ClientStatus == nomad.AllocClientStatusFailed && strings.Contains(reason, text) {
				return ""
			}
		}
		return fmt.Sprintf("none has failed with %q; %s", text, c.pending(job, stubs))
	})
	return reason, err
}
