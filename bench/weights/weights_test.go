package main

import (
	"strings"
	"testing"

	"aliquot.example/internal/weigh"
)

// The table orders every pair of GPUs whose llama2-70b rates are more than 15% apart, within a
// column of results and across rounds, correctly and within a factor of 2.
func TestTheTableOrdersEveryPair(t *testing.T) {
	count := 0
	for _, c := range append(llama70b[:len(llama70b):len(llama70b)], both()) {
		for _, p := range pairs(c, byTable) {
			if !p.counts() {
				continue
			}
			count++
			if !p.good() {
				t.Errorf("%s: %s is %.2f x %s, the table says %.2f", p.column, p.fast, p.measured, p.slow, p.table)
			}
		}
	}
	if count < 100 {
		t.Errorf("only %d pairs were looked at", count)
	}
}

// The plain data-sheet formula does not order all pairs correctly; hence the table.
func TestThePlainFormulaDoesNot(t *testing.T) {
	if v := judge(pairs(both(), byFormula)); v.good == v.count {
		t.Errorf("the plain formula gets all %d pairs right: the table is not needed", v.count)
	}
}

func TestEfficienciesAreThoseMeasured(t *testing.T) {
	for architecture, measured := range efficiency() {
		if r := weigh.Efficiency(architecture) / measured; r < 0.9 || r > 1.1 {
			t.Errorf("%s: %.2f in use, measured %.2f", architecture, weigh.Efficiency(architecture), measured)
		}
	}
}

func TestReportHasBothParts(t *testing.T) {
	var out strings.Builder
	report(&out)
	if text := out.String(); strings.Contains(text, "WRONG") || !strings.Contains(text, "one GPU, 7-8B") {
		t.Error(text)
	}
}
