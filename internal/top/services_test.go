package top

import (
	"encoding/json"
	"testing"

	"aliquot.example/internal/api"
)

func TestMergeSumsQueuesAndKeepsReplicas(t *testing.T) {
	var one []api.Service
	answer := `[{"service":"chat","queued":2,"active":{"h100":3,"t4":1},"replicas":[
		{"id":"a","class":"h100","slots":4,"rate":2},{"id":"b","class":"t4","slots":2,"rate":0.5,"sleep":"asleep"},{"id":"c","class":"t4","slots":2,"rate":1.5}]}]`
	if err := json.Unmarshal([]byte(answer), &one); err != nil {
		t.Fatal(err)
	}
	s := Snapshot{Services: merge([][]api.Service{one, one})}
	s.sort()
	if len(s.Services) != 1 {
		t.Fatalf("got %+v", s.Services)
	}
	got := s.Services[0]
	want := []Class{{Name: "h100", Replicas: 1, Slots: 4, Active: 6, Rate: 2}, {Name: "t4", Replicas: 2, Slots: 4, Active: 2, Rate: 1, Asleep: 1}}
	if got.Queued != 4 || got.Active != 8 || len(got.Classes) != 2 || got.Classes[0] != want[0] || got.Classes[1] != want[1] {
		t.Fatalf("got %+v", got)
	}
}

// Gateways that serve one language model are weighed by what each served.
func TestTokensOfSeveralGateways(t *testing.T) {
	a := []api.Service{{Service: "chat", Quantile: 0.99, Tokens: &api.Tokens{Ended: 30, Met: 30, TTFT: 1, TPOT: 0.01, Prompt: 10, Output: 1}}}
	b := []api.Service{{Service: "chat", Tokens: &api.Tokens{Ended: 10, Missed: 10, TTFT: 3, TPOT: 0.05, Prompt: 5, Output: 2}}}
	got := merge([][]api.Service{a, b})
	if want := (api.Tokens{Ended: 40, Met: 30, Missed: 10, TTFT: 1.5, TPOT: 0.02, Prompt: 15, Output: 3}); len(got) != 1 || *got[0].Tokens != want || got[0].Quantile != 0.99 {
		t.Errorf("%+v, want %+v", got[0].Tokens, want)
	}
}

// Of gateways that share a queue the owner says what replicas there are and how fast, and
// each says what it carries itself.
func TestServicesOfGatewaysThatShareAQueue(t *testing.T) {
	member := []api.Service{{Service: "chat", Role: "member", Queued: 1, Active: map[string]int{"h100": 2}, Replicas: []api.Replica{
		{ID: "a", Class: "h100", Slots: 4, Rate: 9}, {ID: "gone", Class: "h100", Slots: 4, Rate: 9},
	}}}
	owner := []api.Service{{Service: "chat", Role: "owner", Queued: 1, Active: map[string]int{"h100": 1}, Replicas: []api.Replica{{ID: "a", Class: "h100", Slots: 4, Rate: 2}}}}
	for _, answers := range [][][]api.Service{{member, owner}, {owner, member}} {
		got := merge(answers)
		if want := (Class{Name: "h100", Replicas: 1, Slots: 4, Active: 3, Rate: 2}); len(got) != 1 || got[0].Queued != 2 || got[0].Classes[0] != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}
