package main

import (
	"fmt"
	"io"
)

// judge names the contestant that is held to the targets.
const judge = "aliquot-slo"

// target is the share within the objective that the product is to reach on a recording
// with shared prefixes, as a multiple of the best peer's; 1 where none was set.
func target(fleet string, load float64) float64 {
	switch fmt.Sprint(fleet, " ", load) {
	case "mixed 0.7":
		return 1.10
	case "mixed 0.9":
		return 1.35
	case "mixed 1.05":
		return 1.8
	case "equal 0.9":
		return 1.2
	case "big64 0.85":
		return 1.25
	}
	return 1
}

// verdict compares the product with the best of its peers in the same race, where
// both took part.
func verdict(w io.Writer, all []contestant, out []outcome, trace, fleet string, load float64) {
	own, best := -1, -1
	for i, c := range all {
		switch {
		case c.name == judge:
			own = i
		case c.peer && (best < 0 || out[i].within > out[best].within):
			best = i
		}
	}
	if own < 0 || best < 0 {
		return
	}
	want := 1.0
	if trace == "conversation" {
		want = target(fleet, load)
	}
	ratio, word := out[own].within/max(out[best].within, 1e-9), "met"
	if ratio < want {
		word = "MISSED"
	}
	fmt.Fprintf(w, "%s / %s, the best peer: %.3f, target at least %.2f: %s\n", judge, all[best].name, ratio, want, word)
}
