package dispatch

import "testing"

func TestUsualBelievesNoSingleAnswer(t *testing.T) {
	u := averages{output: defaultOutput}
	answer := func(prompt, output int) {
		u.add(&Ticket{Request: Request{Prompt: prompt}, entry: entry{tokens: output}})
	}
	for range 200 {
		answer(1000, 100)
	}
	if u.prompt != 1000 || u.output < 99 || u.output > 110 {
		t.Fatalf("learned are %.0f and %.0f tokens of requests of 1000 and about 100", u.prompt, u.output)
	}
	answer(1<<30, 1<<30)
	if u.prompt > 2000 || u.output > 200 {
		t.Errorf("one answer makes the means %.0f and %.0f", u.prompt, u.output)
	}
	if n := u.needOf(&Ticket{}); n.output != u.output || n.prompt != 1 {
		t.Errorf("nothing is declared, and %+v expected", n)
	}
}
