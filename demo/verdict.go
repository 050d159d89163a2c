package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"aliquot.example/internal/gpu"
)

// verdict returns all failed checks.
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
	if s.toZero < 0 && s.others == 0 {
		complain("the services are not back at zero replicas: %s", s.watch.idle())
	}
	problems = append(problems, s.watch.wrongReplicas()...)
	for _, service := range []string{chat, code} {
		_, served := s.shares(service)
		for _, class := range slices.Sorted(maps.Keys(served)) {
			if !s.watch.everRouted(service, class) {
				complain("%s was served by %s, and Consul never routed to it", service, class)
			}
		}
		scaled := slices.ContainsFunc(s.watch.actions, func(a action) bool {
			return a.job == service && !strings.HasPrefix(a.reason, byGateway)
		})
		if len(served) > 0 && !scaled {
			complain("%s was never scaled by the autoscaler", service)
		}
	}
	return problems
}

// byGateway is the prefix of the reason for a start from zero. All other reasons are the
// autoscaler's.
const byGateway = "aliquot gateway:"

// everRouted reports whether a splitter has ever sent a service's requests to a class.
func (w *watch) everRouted(service, class string) bool {
	return slices.ContainsFunc(w.splits, func(s split) bool {
		return s.service == service && s.shares.classes()[class] > 0
	})
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
			problems = append(problems,
				fmt.Sprintf("no replica says that the image for %s was pulled from the registry", variant))
		}
	}
	for _, r := range all {
		problems = append(problems, r.wrong()...)
	}
	return problems
}

// wrong returns how a replica's view differs from what its job requests.
func (r *replica) wrong() (problems []string) {
	complain := func(format string, values ...any) {
		problems = append(problems, fmt.Sprintf("replica %s of %s: %s", r.alloc[:8], r.service,
			fmt.Sprintf(format, values...)))
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
	return problems
}
