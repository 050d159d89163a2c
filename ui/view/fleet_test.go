package view

import (
	"fmt"
	"testing"

	"aliquot.example/internal/api"
)

// large is a cluster of a thousand services on ten thousand allocations, of which each
// service has two that start.
func large() Facts {
	var f Facts
	for i := range 1000 {
		s := Service{Name: fmt.Sprintf("service-%04d", i)}
		for j := range 10 {
			a := Alloc{ID: fmt.Sprintf("%08x-0000-0000-0000-%012x", i, j), Namespace: "default", Job: s.Name, Group: "server", Desired: "run", Client: "running", Class: "h100"}
			f.Allocs = append(f.Allocs, a)
			if j < 8 {
				s.Replicas = append(s.Replicas, api.Replica{ID: "_nomad-task-" + a.ID + "-group-server-chat-http", Class: "h100", Usable: 4})
			}
		}
		f.Services = append(f.Services, s)
	}
	return f
}

func TestALargeCluster(t *testing.T) {
	for _, s := range ServicesOf(large()).Services {
		if s.Ready != 8 || s.Starting != 2 || s.Slots != 32 {
			t.Fatalf("%+v", s)
		}
	}
}

func BenchmarkServicesOf(b *testing.B) {
	f := large()
	for b.Loop() {
		ServicesOf(f)
	}
}
