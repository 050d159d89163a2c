package watch

import (
	"testing"

	"aliquot/internal/api"
)

func TestMergeOfGatewaysThatDecideEachForItself(t *testing.T) {
	one := []api.Service{{Service: "chat", Queued: 2, Active: map[string]int{"t4": 1}, Replicas: []api.Replica{{ID: "a", Active: 1}}}}
	two := []api.Service{{Service: "chat", Queued: 3, Active: map[string]int{"t4": 2, "h100": 1}, Replicas: []api.Replica{{ID: "a", Active: 2}, {ID: "b", Active: 1}}}, {Service: "code"}}
	got := merge([]string{"g1", "g2"}, [][]api.Service{one, two})
	if len(got) != 2 || got[0].Name != "chat" || got[1].Name != "code" {
		t.Fatalf("%+v", got)
	}
	chat := got[0]
	if chat.Queued != 5 || chat.Active["t4"] != 3 || chat.Active["h100"] != 1 || len(chat.Gateways) != 2 {
		t.Errorf("%+v", chat)
	}
	if len(chat.Replicas) != 2 || chat.Replicas[0].Active != 3 {
		t.Errorf("replicas: %+v", chat.Replicas)
	}
	if one[0].Replicas[0].Active != 1 {
		t.Error("what a gateway said was changed")
	}
}

func TestMergeTakesReplicasOfTheOwner(t *testing.T) {
	other := []api.Service{{Service: "chat", Queued: 1, Role: "member", Replicas: []api.Replica{{ID: "old"}}}}
	owns := []api.Service{{Service: "chat", Queued: 1, Role: owner, Replicas: []api.Replica{{ID: "a"}, {ID: "b"}}}}
	for _, answers := range [][][]api.Service{{other, owns}, {owns, other}} {
		if got := merge([]string{"g1", "g2"}, answers); got[0].Queued != 2 || len(got[0].Replicas) != 2 {
			t.Errorf("%+v", got)
		}
	}
}
