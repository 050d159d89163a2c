package apm

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/account"
	"aliquot.example/internal/pack"
	"aliquot.example/internal/query"
)

func TestAnswersAboutNodes(t *testing.T) {
	node := account.Node{
		Pool: "rented", Open: true, Busy: true, Names: []string{"h100-0"}, Classes: []string{"h100"},
		Free: pack.Node{CPU: 1000, MemoryMiB: 1000, Groups: []pack.Group{{Free: 5, Total: 20, Unit: 0.05}}},
	}
	ten := uint64(10)
	group := api.NewTaskGroup("group", 2).AddTask(api.NewTask("task", "docker").Require(&api.Resources{
		Devices: []*api.RequestedDevice{{Name: "gpu", Count: &ten}},
	}))
	waiting := []account.Waiting{{Job: api.NewServiceJob("job", "job", "global", 50), Group: group, Count: 3}}
	for text, want := range map[string]int{
		"placed class=h100":                             15,
		"free class=h100":                               5,
		"blocked class=h100":                            30,
		"placed class=t4":                               0,
		"nodes class=h100":                              3, // two more for three tasks of half a GPU
		"nodes class=h100 standby=1x10":                 3, // half a GPU of these is free
		"nodes class=h100 standby=1x5":                  3,
		"nodes class=h100 standby=2x10":                 4,
		"nodes class=h100 gpus=4 slices=20":             2,
		"nodes class=h100 gpus=8 slices=1":              1, // whole GPUs do not have 10 instances
		"nodes class=h100 gpus=16 slices=1":             4, // they do: the query does not say what 10 means
		"nodes class=h100 gpus=2 slices=1 after='gb10'": 1,
		"nodes class=l4 gpus=2 slices=20":               1,
		"nodes class=l4 gpus=2 slices=20 standby=2x20":  2,
	} {
		q, err := query.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		s := supplyOf(q, []account.Node{node}, waiting, time.Now())
		if got, err := New(hclog.NewNullLogger()).answer(text, q, s); err != nil || got != want {
			t.Errorf("%s: %d, %v, want %d", text, got, err, want)
		}
	}
	q, err := query.Parse("nodes class=l4")
	if err != nil {
		t.Fatal(err)
	}
	s := supplyOf(q, []account.Node{node}, waiting, time.Now())
	_, err = New(hclog.NewNullLogger()).answer("nodes class=l4", q, s)
	if err == nil || !strings.Contains(err.Error(), "gpus=8 slices=20") {
		t.Errorf("no node of the class, and nothing about a new one: %v", err)
	}
	s.Waiting = nil
	if got, err := New(hclog.NewNullLogger()).answer("nodes class=l4", q, s); got != 0 || err != nil {
		t.Errorf("nothing is wanted and there is nothing: %d, %v", got, err)
	}
}

// If nodes of the group exist but none has the class, the query is an error. Otherwise it would
// request more and more nodes.
func TestAClassThatTheNodesLack(t *testing.T) {
	node := account.Node{
		Pool: "rented", Open: true, Names: []string{"h100-0"}, Classes: []string{"h100"},
		Free: pack.Node{Groups: []pack.Group{{Free: 20, Total: 20, Unit: 0.05}}},
	}
	for text, want := range map[string]string{
		"nodes class=h10 pool=rented gpus=1 slices=20 standby=1x10": `have class "h100"`,
		"blocked class=h10 pool=rented":                             `class "h10"`,
		"nodes class=h100 pool=rented standby=1x10":                 "",
		"nodes class=h10 pool=other gpus=1 slices=20":               "",
		"nodes class=h10 gpus=1 slices=20":                          "",
	} {
		q, err := query.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		_, err = New(hclog.NewNullLogger()).answer(text, q, supplyOf(q, []account.Node{node}, nil, time.Now()))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
