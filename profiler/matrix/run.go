package matrix

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/profiler"
)

// Nomad runs cells as Nomad jobs.
type Nomad struct {
	Client *nomad.Client
	// Namespace and Region are those of the job, "" for those of the environment.
	Namespace, Region string
	// Room is how long an allocation may wait for placement.
	Room time.Duration
}

const (
	// pollTimeout is the maximum wait of a blocking query.
	pollTimeout = 10 * time.Second
	// cleanupTimeout is the time limit for removing a job.
	cleanupTimeout = 15 * time.Second
	// retryTimeout is how long to tolerate errors from Nomad, and retryInterval the time between retries.
	retryTimeout, retryInterval = time.Minute, 100 * time.Millisecond
)

func (n Nomad) query(ctx context.Context, index uint64) *nomad.QueryOptions {
	q := &nomad.QueryOptions{Namespace: n.Namespace, Region: n.Region, WaitIndex: index, WaitTime: pollTimeout}
	return q.WithContext(ctx)
}

func (n Nomad) write(ctx context.Context) *nomad.WriteOptions {
	return (&nomad.WriteOptions{Namespace: n.Namespace, Region: n.Region}).WithContext(ctx)
}

// Run submits a job that Job returned, waits for its end and returns its report and its replica. It
// always removes the job, even if ctx ends. An existing job of the same name is an error if it
// still runs; if it has ended, Run removes it first.
func (n Nomad) Run(ctx context.Context, job *nomad.Job) (_ *profiler.Report, _ profiler.Replica, err error) {
	if err := n.clear(ctx, *job.ID); err != nil {
		return nil, profiler.Replica{}, err
	}
	if _, _, err := n.Client.Jobs().EnforceRegister(job, 0, n.write(ctx)); err != nil {
		return nil, profiler.Replica{}, err
	}
	defer func() {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		if failed := n.remove(after, *job.ID); failed != nil && ctx.Err() != nil {
			err = failed // the caller knows that ctx has ended
		} else if failed != nil {
			err = errors.Join(err, failed)
		}
	}()
	alloc, err := n.await(ctx, *job.ID)
	if err != nil {
		return nil, profiler.Replica{}, err
	}
	node, _, err := n.Client.Nodes().Info(alloc.NodeID, n.query(ctx, 0))
	if err != nil {
		return nil, profiler.Replica{}, err
	}
	replica, err := profiler.ReplicaOf(alloc, node)
	if err != nil {
		return nil, profiler.Replica{}, err
	}
	file, err := n.Client.AllocFS().Cat(alloc, reportFile, n.query(ctx, 0))
	if err != nil {
		return nil, replica, fmt.Errorf("report of allocation %s: %w", alloc.ID, err)
	}
	defer file.Close()
	report, err := profiler.ReadReport(file)
	return report, replica, err
}

// clear removes an ended job of the same name. It returns an error if one still runs.
func (n Nomad) clear(ctx context.Context, job string) error {
	old, _, err := n.Client.Jobs().Info(job, n.query(ctx, 0))
	var status nomad.UnexpectedResponseError
	switch {
	case errors.As(err, &status) && status.StatusCode() == http.StatusNotFound:
		return nil
	case err != nil:
		return err
	case old.Status == nil || *old.Status != "dead":
		return fmt.Errorf("the job %s already exists: wait for the other benchmark, or remove the job with "+
			"nomad job stop -purge %s", job, job)
	}
	return n.remove(ctx, job)
}

// remove stops and purges a job.
func (n Nomad) remove(ctx context.Context, job string) error {
	if _, _, err := n.Client.Jobs().Deregister(job, true, n.write(ctx)); err != nil {
		return fmt.Errorf("cannot remove the job %s from Nomad: %w", job, err)
	}
	return nil
}

// await waits until the benchmark in the job's allocation ends. It retries errors from Nomad for up
// to retryTimeout, because a measurement of minutes should survive a leader election.
func (n Nomad) await(ctx context.Context, job string) (*nomad.Allocation, error) {
	began, lastAnswer := time.Now(), time.Now()
	for index := uint64(0); ; {
		alloc, next, err := n.last(ctx, job, index)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil && time.Since(lastAnswer) > retryTimeout:
			return nil, err
		case err != nil:
			select {
			case <-ctx.Done():
			case <-time.After(retryInterval):
			}
			continue
		case alloc == nil && time.Since(began) > n.Room:
			return nil, fmt.Errorf("Nomad did not place the benchmark within %s: no node had room", n.Room)
		}
		index, lastAnswer = next, time.Now()
		if alloc != nil && alloc.ClientStatus != nomad.AllocClientStatusPending &&
			alloc.ClientStatus != nomad.AllocClientStatusRunning {
			return alloc, failure(alloc)
		}
	}
}

// last waits for a change and returns the job's allocation, nil if there is none.
func (n Nomad) last(ctx context.Context, job string, index uint64) (*nomad.Allocation, uint64, error) {
	list, meta, err := n.Client.Jobs().Allocations(job, false, n.query(ctx, index))
	if err != nil {
		return nil, index, err
	}
	if len(list) == 0 {
		return nil, meta.LastIndex, nil
	}
	alloc, _, err := n.Client.Allocations().Info(list[0].ID, n.query(ctx, 0))
	return alloc, meta.LastIndex, err
}

// failure returns why an allocation did not measure, nil if it did.
func failure(a *nomad.Allocation) error {
	if state := a.TaskStates[bencher]; state != nil && state.State == "dead" && !state.Failed {
		return nil
	}
	var why []string
	for name, state := range a.TaskStates {
		if !state.Failed {
			continue
		}
		for i := len(state.Events) - 1; i >= 0; i-- {
			if text := state.Events[i].DisplayMessage; text != "" && state.Events[i].Type != nomad.TaskNotRestarting {
				why = append(why, name+": "+text)
				break
			}
		}
	}
	if len(why) == 0 {
		return errors.New("allocation " + a.ID + " is " + a.ClientStatus)
	}
	return fmt.Errorf("%s; for details run nomad alloc logs %s", strings.Join(why, "; "), a.ID)
}

// Classes returns the hardware classes of the ready nodes.
func (n Nomad) Classes(ctx context.Context) (map[string]bool, error) {
	classes := map[string]bool{}
	err := n.devices(ctx, func(class string, _ map[string]*nomad.Attribute) { classes[class] = true })
	return classes, err
}

// devices calls a function for each GPU group of each ready node.
func (n Nomad) devices(ctx context.Context, each func(class string, attributes map[string]*nomad.Attribute)) error {
	q := n.query(ctx, 0)
	q.Params = map[string]string{"resources": "true"}
	nodes, _, err := n.Client.Nodes().List(q)
	if err != nil {
		return err
	}
	for _, node := range nodes {
		if node.NodeResources == nil || node.Status != nomad.NodeStatusReady {
			continue
		}
		for _, d := range node.NodeResources.Devices {
			if class := d.Attributes["class"]; d.Type == "gpu" && class != nil {
				each(class.String(), d.Attributes)
			}
		}
	}
	return nil
}

// Memory returns, by class, the smallest memory of a GPU in MiB among the nodes.
func (n Nomad) Memory(ctx context.Context) (map[string]float64, error) {
	memory := map[string]float64{}
	err := n.devices(ctx, func(class string, attributes map[string]*nomad.Attribute) {
		if m := attributes["memory"]; m != nil && m.IntVal != nil {
			have, known := memory[class]
			if mib := float64(*m.IntVal); !known || mib < have {
				memory[class] = mib
			}
		}
	})
	return memory, err
}
