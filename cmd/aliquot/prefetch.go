package main

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/hashicorp/cli"
	"github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot/internal/blob"
	"aliquot/internal/consultoken"
)

type prefetchCommand struct{ ui cli.Ui }

func (prefetchCommand) Synopsis() string { return "Bring models to the nodes before they are needed" }

func (prefetchCommand) Help() string {
	return `Usage: aliquot cache prefetch [-group=all] [-remove] [-key=aliquot/prefetch] [-job=<job>] [<model> ...]

  Adds models to a list in Consul KV. The caches that follow the list fetch them, some
  nodes at a time, and keep them until they are removed from it. Without a model it
  prints the list.

  The Consul agent is found by the CONSUL_* variables, the Nomad agent by NOMAD_*.

Options:

  -group    The list: all, or one that the configuration of some caches names in
            prefetch.groups. Default all.
  -remove   Remove the models from the list. Default false.
  -job      Take the models that the tasks of this registered job name in "models".
  -key      Prefix of the lists in Consul KV. Default aliquot/prefetch.

Example:

  aliquot cache prefetch -group=h100 hf://Qwen/Qwen3-4B@main
`
}

func (c prefetchCommand) Run(args []string) int {
	flags := newFlags("cache prefetch", c.ui)
	group := flags.String("group", "all", "")
	remove := flags.Bool("remove", false, "")
	job := flags.String("job", "", "")
	key := flags.String("key", "aliquot/prefetch", "")
	if err := flags.Parse(args); err != nil {
		c.ui.Error(fmt.Sprintf("aliquot cache prefetch: %v; see aliquot cache prefetch -help", err))
		return 2
	}
	names, err := flags.Args(), error(nil)
	if *job != "" {
		if names, err = withJob(names, *job); err != nil {
			c.ui.Error("aliquot cache prefetch: " + flat(err))
			return 1
		}
	}
	for _, name := range names {
		if _, err := blob.ParseRef(name); err != nil {
			c.ui.Error("aliquot cache prefetch: " + flat(err))
			return 2
		}
	}
	client, err := consultoken.NewClient(api.DefaultConfig())
	var list []string
	if err == nil {
		list, err = editList(client.KV(), *key+"/"+*group, names, *remove)
	}
	if err != nil {
		c.ui.Error("aliquot cache prefetch: " + flat(err))
		return 1
	}
	for _, name := range list {
		c.ui.Output(name)
	}
	return 0
}

// withJob adds the models of a job to a list.
func withJob(names []string, id string) ([]string, error) {
	client, err := nomad.NewClient(nomad.DefaultConfig())
	if err != nil {
		return nil, err
	}
	job, _, err := client.Jobs().Info(id, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot read job %q at %s: %w", id, client.Address(), err)
	}
	more := modelsOf(job)
	if len(more) == 0 {
		return nil, fmt.Errorf("no task of job %q names models in its config", id)
	}
	return append(slices.Clone(names), more...), nil
}

// modelsOf lists the models that the tasks of a job name.
func modelsOf(job *nomad.Job) (names []string) {
	for _, g := range job.TaskGroups {
		for _, t := range g.Tasks {
			list, _ := t.Config["models"].([]any)
			for _, name := range list {
				if text, ok := name.(string); ok && t.Driver == "aliquot" && !slices.Contains(names, text) {
					names = append(names, text)
				}
			}
		}
	}
	return names
}

// editList changes a list of models and returns it. It tries again where somebody else
// changed it meanwhile.
func editList(kv *api.KV, key string, names []string, remove bool) (list []string, err error) {
	for range 10 {
		pair, _, err := kv.Get(key, &api.QueryOptions{RequireConsistent: true})
		if err != nil {
			return nil, err
		}
		if pair == nil {
			pair = &api.KVPair{Key: key, Value: []byte("[]")}
		}
		if err := json.Unmarshal(pair.Value, &list); err != nil {
			return nil, fmt.Errorf("%s is no JSON list of names: %w", key, err)
		}
		if len(names) == 0 {
			return list, nil
		}
		list = slices.DeleteFunc(list, func(name string) bool { return slices.Contains(names, name) })
		if !remove {
			list = append(list, names...)
		}
		slices.Sort(list)
		list = slices.Compact(list)
		pair.Value, _ = json.Marshal(list)
		if written, _, err := kv.CAS(pair, nil); err != nil || written {
			return list, err
		}
	}
	return nil, fmt.Errorf("%s is changed by others all the time", key)
}
