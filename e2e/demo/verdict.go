package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"aliquot/internal/gpu"
)

// verdict names everything that is not as it should be.
func (s *summary) verdict() []string {
	var problems []string
	complain := func(format string, values ...any) { problems = append(problems, fmt.Sprintf(format, values...)) }
	lost := s.lost()
	for i, r := range lost[:min(3, len(lost))] {
		complain("request %d of %d lost, for %s, sent at %s: %s", i+1, len(lost), r.service, clock(r.at), r.problem)
	}
	if n := s.calls - len(s.results); n > 0 {
		complain("%d requests were not sent", n)
	}
	if answered := len(s.results) - len(lost); len(lost) == 0 && s.served != answered {
		complain("%d requests were answered and the gateway says it served %d", answered, s.served)
	}
	if s.toZero < 0 {
		complain("the services are not back at zero replicas: %s", s.watch.idle())
	}
	problems = append(problems, s.watch.wrongReplicas()...)
	for _, service := range []string{chat, code} {
		routed, served := s.shares(service)
		for _, class := range slices.Sorted(maps.Keys(served)) {
			if routed[class] == 0 {
				complain("%s was served by %s, and Consul never routed to it", service, class)
			}
		}
		grew := slices.ContainsFunc(s.watch.actions, func(a action) bool {
			return a.job == service && a.to > a.from && strings.Contains(a.reason, "demand")
		})
		if len(s.of(service)) > 0 && !grew {
			complain("%s was never scaled up by its demand", service)
		}
	}
	return problems
}

// wrongReplicas compares what the containers see with what their jobs ask for.
func (w *watch) wrongReplicas() (problems []string) {
	all := w.asked()
	if len(all) == 0 {
		return []string{"no replica could be asked what it sees"}
	}
	pulled := map[string]bool{}
	for _, r := range all {
		pulled[r.info.Variant] = pulled[r.info.Variant] || r.pulled
	}
	for _, variant := range slices.Sorted(maps.Keys(pulled)) {
		if !pulled[variant] {
			problems = append(problems, fmt.Sprintf("no replica says that the image for %s was pulled from the registry", variant))
		}
	}
	for _, r := range all {
		complain := func(format string, values ...any) {
			problems = append(problems, fmt.Sprintf("replica %s of %s: %s", r.alloc[:8], r.service, fmt.Sprintf(format, values...)))
		}
		g := r.info.Grant
		if r.info.Problem != "" {
			complain("%s", r.info.Problem)
		}
		if r.info.Variant != string(g.Vendor) {
			complain("the image for %s runs on a GPU of %s", r.info.Variant, g.Vendor)
		}
		want := chatClasses[g.Class].Slices
		if r.service == code {
			want = codeSlices
		}
		if g.Slices != want || len(g.GPUs) != 1 {
			complain("it has %d slices of %d GPUs, want %d of one", g.Slices, len(g.GPUs), want)
		}
		if g.Vendor == gpu.NVIDIA && (r.info.CUDA == nil || len(r.info.CUDA.Devices) != 1) {
			complain("it does not see one GPU")
		}
		if g.Vendor == gpu.AMD && r.info.Environment["HSA_CU_MASK"] == "" {
			complain("it has no CU mask")
		}
	}
	return problems
}
