package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"aliquot.example/e2e/cluster"
	"aliquot.example/ui/browser"
)

// page shows the cluster in a browser while a service on two classes is stable. Each view shows the
// current state, and the page computes the same decisions as the autoscaler.
func (s *scaling) page(ctx context.Context, t *testing.T) {
	if why := browser.Missing(); why != "" {
		t.Skip(why)
	}
	run(ctx, t, s.c, "jobs/ui.nomad.hcl", cluster.Vars{
		"driver": "raw_exec", "port": 0,
		"consul": strings.TrimPrefix(s.c.ConsulAddress, "http://"), "nomad_ui": s.c.NomadAddress,
	}, 1)
	address := "http://" + passing(ctx, t, s.c, "aliquot-ui")
	b, err := browser.Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Stop()
	within, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	shows := func(view string, expressions ...string) {
		t.Helper()
		if err := b.Open(address + "/#/" + view); err != nil {
			t.Fatal(err)
		}
		for _, expression := range expressions {
			if err := b.Await(within, expression); err != nil {
				t.Errorf("%s: %v", view, err)
			}
		}
	}
	text := func(of string) string { return "document.body.innerText.includes(`" + of + "`)" }
	label := func(title, of string) string {
		return `(` + of + `).test([...document.querySelectorAll(".plot")].find((e) => e.ariaLabel.startsWith("` + title + `"))?.ariaLabel)`
	}
	shows("cluster", `document.querySelectorAll(".gpu").length >= 2`, text("mix"), text("all healthy"))
	shows("services/mix", label("Simultaneous requests", `/on h100 [1-9]/`), label("Replicas", `/h100 3/`), `document.querySelectorAll(".tile dd")[2].innerText.startsWith("3")`)
	shows("scaling/mix", text("mix/h100 stays at 3"), text("mix/t4 stays at 0"), label("Demand", `/demand [0-9.]+, planned for [0-9.]+/`),
		label("Replicas", `/h100 was 3, h100 by policy 3, t4 was 0, t4 by policy 0/`), label("Cost", `/cost was 24, cost by policy 24/`))
	shows("requests/mix", `document.querySelector(".filters") !== null`)
	shows("events", text("mix/h100"))
	if said := b.Heard(); len(said) > 0 {
		t.Errorf("the console says %q", said)
	}
}
