package account

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"

	consul "github.com/hashicorp/consul/api"
	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/pack"
	"aliquot.example/internal/steer"
)

// DemandKey is the key of the typical demand in Consul KV.
const DemandKey = "aliquot/packing/demand"

// maxKinds is the maximum number of kinds, because every node computes levels from all of them.
const maxKinds = 2000

// ParseDemand reads the document of DemandKey or of an override file: a list of kinds
// of tasks with cpu (MHz), memory (MiB), instances, requests, of and weight.
func ParseDemand(text []byte) (pack.Demand, error) {
	var d pack.Demand
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, fmt.Errorf("want a JSON list of {cpu, memory, instances, requests, of, weight}: %w", err)
	}
	if len(d) == 0 || len(d) > maxKinds {
		return nil, fmt.Errorf("it has %d kinds of tasks: want 1 to %d", len(d), maxKinds)
	}
	for i, t := range d {
		switch {
		case t.CPU < 0 || t.MemoryMiB < 0 || t.Instances < 0 || t.Requests < 0 || t.Of < 0:
			return nil, fmt.Errorf("kind %d of %d has a negative number", i+1, len(d))
		case !(t.Weight > 0) || t.Weight > 1e12:
			return nil, fmt.Errorf("kind %d of %d has weight %v: want above 0", i+1, len(d), t.Weight)
		case (t.Instances == 0) != (t.Requests == 0):
			return nil, fmt.Errorf("kind %d of %d has %d requests of %d instances: want both or neither", i+1, len(d),
				t.Requests, t.Instances)
		}
	}
	return d, nil
}

// Demand returns the typical demand and its source: the file if there is one, else Consul KV, else
// pack.Start. client may be nil.
func Demand(ctx context.Context, file string, client *consul.Client) (d pack.Demand, from string, err error) {
	if file != "" {
		text, err := os.ReadFile(file)
		if err == nil {
			d, err = ParseDemand(text)
		}
		if err != nil {
			return nil, "", fmt.Errorf("typical demand in %s: %w", file, err)
		}
		return d, file, nil
	}
	if client == nil {
		return pack.Start(), "the start value", nil
	}
	pair, _, err := client.KV().Get(DemandKey, (&consul.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, "", fmt.Errorf("typical demand in Consul KV: %w", err)
	}
	if pair == nil {
		return pack.Start(), "the start value", nil
	}
	if d, err = ParseDemand(pair.Value); err != nil {
		return nil, "", fmt.Errorf("typical demand in Consul KV %s: %w", DemandKey, err)
	}
	return d, "Consul KV " + DemandKey, nil
}

// learned is the weight of one reading of the jobs against the previous demand.
const learned = 0.2

// maxJobs is the maximum number of jobs that one reading considers.
const maxJobs = 5000

// Seen returns the requests of the jobs in Nomad, including ended jobs that are not
// garbage-collected yet.
func Seen(ctx context.Context, client *api.Client) (pack.Demand, error) {
	q := (&api.QueryOptions{Namespace: api.AllNamespacesNamespace, AllowStale: true}).WithContext(ctx)
	stubs, _, err := client.Jobs().List(q)
	if err != nil {
		return nil, fmt.Errorf("cannot list the jobs of Nomad: %w", err)
	}
	var seen pack.Demand
	for i, stub := range stubs {
		if i >= maxJobs {
			break
		}
		job, _, err := client.Jobs().Info(stub.ID,
			(&api.QueryOptions{Namespace: stub.Namespace, AllowStale: true}).WithContext(ctx))
		if isNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read job %s: %w", stub.ID, err)
		}
		for _, group := range job.TaskGroups {
			if a := steer.AskOf(group); a.Instances > 0 {
				count := 1
				if group.Count != nil {
					count = max(1, *group.Count) // a group that is scaled to 0 is demand, too
				}
				seen = append(seen, pack.Typical{Ask: a, Weight: float64(count)})
			}
		}
	}
	return seen, nil
}

// isNotFound reports whether an error means that the requested object no longer exists.
func isNotFound(err error) bool {
	var answer api.UnexpectedResponseError
	return errors.As(err, &answer) && answer.StatusCode() == http.StatusNotFound
}

// Learn moves the demand in Consul KV towards the requests of the jobs, and returns it. It fails if
// another process has written the demand in the meantime.
func Learn(ctx context.Context, nomad *api.Client, client *consul.Client) (pack.Demand, error) {
	seen, err := Seen(ctx, nomad)
	if err != nil {
		return nil, err
	}
	pair, _, err := client.KV().Get(DemandKey, (&consul.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("typical demand in Consul KV: %w", err)
	}
	old, index := pack.Start(), uint64(0)
	if pair != nil {
		if old, err = ParseDemand(pair.Value); err != nil {
			return nil, fmt.Errorf("typical demand in Consul KV %s: %w; delete the key to start again", DemandKey, err)
		}
		index = pair.ModifyIndex
	}
	next := pack.Blend(old, seen, learned)
	text, err := json.Marshal(next)
	if err != nil {
		return nil, err
	}
	ok, _, err := client.KV().CAS(&consul.KVPair{Key: DemandKey, Value: text, ModifyIndex: index},
		(&consul.WriteOptions{}).WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("typical demand in Consul KV: %w", err)
	}
	if !ok {
		return nil, fmt.Errorf("typical demand in Consul KV: another process has written %s in the meantime; try again",
			DemandKey)
	}
	return next, nil
}
