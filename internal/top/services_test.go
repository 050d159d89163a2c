package top

import (
	"encoding/json"
	"testing"
)

func TestMergeSumsQueuesAndKeepsReplicas(t *testing.T) {
	var one []gatewayService
	answer := `[{"service":"chat","queued":2,"active":{"h100":3,"t4":1},"replicas":[
		{"id":"a","class":"h100","slots":4,"rate":2},{"id":"b","class":"t4","slots":2,"rate":0.5},{"id":"c","class":"t4","slots":2,"rate":1.5}]}]`
	if err := json.Unmarshal([]byte(answer), &one); err != nil {
		t.Fatal(err)
	}
	s := Snapshot{Services: merge([][]gatewayService{one, one})}
	s.sort()
	if len(s.Services) != 1 {
		t.Fatalf("got %+v", s.Services)
	}
	got := s.Services[0]
	want := []Class{{Name: "h100", Replicas: 1, Slots: 4, Active: 6, Rate: 2}, {Name: "t4", Replicas: 2, Slots: 4, Active: 2, Rate: 1}}
	if got.Queued != 4 || got.Active != 8 || len(got.Classes) != 2 || got.Classes[0] != want[0] || got.Classes[1] != want[1] {
		t.Fatalf("got %+v", got)
	}
}
