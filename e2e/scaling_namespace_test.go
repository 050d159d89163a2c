package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/cluster"
)

// elsewhere scales a job that is in another namespace than the agents.
func (s *scaling) elsewhere(ctx context.Context, t *testing.T) {
	const team = "team"
	if _, err := s.c.Nomad.Namespaces().Register(&nomad.Namespace{Name: team}, nil); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../" + oneClassJob)
	if err != nil {
		t.Fatal(err)
	}
	const head = "job \"scaling-one-class\" {\n"
	moved := strings.Replace(string(text), head, head+"  namespace = \""+team+"\"\n", 1)
	if moved == string(text) {
		t.Fatalf("%s has no %q", oneClassJob, head)
	}
	job, err := s.c.RunText(moved, cluster.Vars{"service": "elsewhere", "image": s.c.Image, "memory": 64, "strategy": soon})
	if err != nil {
		t.Fatal(err)
	}
	in := &nomad.QueryOptions{Namespace: team}
	count := func(want int) {
		t.Helper()
		err := cluster.AwaitWithin(ctx, 90*time.Second, fmt.Sprintf("count %d of a job in another namespace", want), func() string {
			status, _, err := s.c.Nomad.Jobs().ScaleStatus(*job.ID, in)
			if err != nil || status.TaskGroups["server"].Desired != want {
				return fmt.Sprintf("%+v, %v", status, err)
			}
			return ""
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	stop := s.load(ctx, t, "elsewhere", 7)
	defer func() {
		if _, _, err := s.c.Nomad.Jobs().Deregister(*job.ID, true, &nomad.WriteOptions{Namespace: team}); err != nil {
			t.Error(err)
		}
	}()
	count(2)
	stop()
	count(0)
}
