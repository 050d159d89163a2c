package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/cli"
	"github.com/hashicorp/consul/api"

	"aliquot.example/internal/blob"
	"aliquot.example/internal/consultoken"
	"aliquot.example/internal/variant"
)

type prefetchCommand struct{ ui cli.Ui }

func (prefetchCommand) Synopsis() string {
	return "Bring models, images and compile caches to nodes before they are needed"
}

func (prefetchCommand) Help() string {
	return `Usage: aliquot cache prefetch [-group=all] [-remove] [-key=aliquot/prefetch]
                              [-job=<job> [-vendor=<vendor>]] [<item> ...]

  Adds items to a list in Consul KV. The caches that follow the list fetch the items, some
  nodes at a time, and keep them until they are removed from the list. Without an item it
  prints the list. An item is one of

    hf://Qwen/Qwen3-4B@main            a model, in any form that "models" takes
    image://vllm/vllm-openai:v0.28.0   an image, pulled without credentials
    compiled://default/chat            the compile cache of job chat in namespace default

  The Consul agent is found by the CONSUL_* variables, the Nomad agent by NOMAD_*.

Options:

  -group    The list: all, or one that caches name in prefetch.groups of their
            configuration. Default all.
  -remove   Remove the items from the list. Default false.
  -job      Add the items of a registered job: the models and images of its tasks, and
            its compile cache if a task has compile_cache.
  -vendor   GPU vendor of the nodes that follow the list: nvidia, amd, intel or cpu.
            Needed for a job whose images differ by hardware.
  -key      Prefix of the lists in Consul KV. Default aliquot/prefetch.

Example:

  aliquot cache prefetch -group=h100 -job=chat -vendor=nvidia
`
}

func (c prefetchCommand) Run(args []string) int {
	flags := newFlags("cache prefetch", c.ui)
	group := flags.String("group", "all", "")
	remove := flags.Bool("remove", false, "")
	job := flags.String("job", "", "")
	vendor := flags.String("vendor", "", "")
	key := flags.String("key", "aliquot/prefetch", "")
	if err := flags.Parse(args); err != nil {
		c.ui.Error(fmt.Sprintf("aliquot cache prefetch: %v; see aliquot cache prefetch -help", err))
		return 2
	}
	if *vendor != "" && !slices.Contains(variant.Vendors(), *vendor) {
		c.ui.Error(fmt.Sprintf("aliquot cache prefetch: -vendor=%s: want one of %s", *vendor,
			strings.Join(variant.Vendors(), ", ")))
		return 2
	}
	names := slices.Clone(flags.Args())
	for i, name := range names {
		item, err := blob.ParseItem(name)
		if err != nil {
			c.ui.Error("aliquot cache prefetch: " + flat(err))
			return 2
		}
		names[i] = item.String()
	}
	if *job != "" {
		more, err := ofJob(*job, *vendor)
		if err != nil {
			c.ui.Error("aliquot cache prefetch: " + flat(err))
			return 1
		}
		names = append(names, more...)
	}
	client, err := consultoken.NewClient(api.DefaultConfig())
	var list []string
	if err == nil {
		list, err = editList(client.KV(), *key+"/"+*group, names, *remove)
	}
	if err != nil {
		c.ui.Error("aliquot cache prefetch: cannot use the list in Consul: " + flat(err))
		return 1
	}
	for _, name := range list {
		c.ui.Output(name)
	}
	return 0
}

// editList changes a list of items and returns it. It retries if another writer changes the list
// at the same time.
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
			return nil, fmt.Errorf("%s is not a JSON list of names: %w", key, err)
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
	return nil, fmt.Errorf("other writers changed %s during each of 10 attempts: try again", key)
}
