package apm

import (
	"fmt"
	"testing"
	"time"
)

// A gateway that has just joined knows nothing of the past. That must not keep counts from
// shrinking, and its demand must not count twice.
func TestGatewaysThatShareTheirQueuesAreNotSummed(t *testing.T) {
	old := gatewayStub{first: to.Unix() - 20, queued: make([]float64, 20), whole: true}
	for i := range old.queued {
		old.queued[i] = float64(10 + i)
	}
	joined := gatewayStub{first: to.Unix() - 3, queued: []float64{2, 28, 40}, whole: true}
	p := plugin(t, map[string]string{"gateways": old.start(t) + "," + joined.start(t)})
	m, err := p.Query("queued service=llm", within(15*time.Second))
	if err != nil || len(m) != 15 {
		t.Fatalf("%d seconds, %v: want all that the older one knows", len(m), err)
	}
	if last := fmt.Sprint(values(m)[12:]); last != "[27 28 40]" {
		t.Errorf("the last seconds are %s", last)
	}
	// Arrivals are different: each gateway knows only its own, and the new one may have restarted.
	if m, err := p.Query("arriving service=llm", within(15*time.Second)); err != nil || len(m) != 3 {
		t.Errorf("%d seconds of arrivals, %v: want those that both know", len(m), err)
	}
}

// A gateway of an older release that does not share its queue is still added.
func TestAGatewayThatSharesNothingIsAdded(t *testing.T) {
	a := gatewayStub{first: to.Unix() - 3, queued: []float64{1, 2, 3}, whole: true}.start(t)
	b := gatewayStub{first: to.Unix() - 3, queued: []float64{1, 2, 3}, whole: true}.start(t)
	c := gatewayStub{first: to.Unix() - 3, queued: []float64{10, 20, 30}}.start(t)
	p := plugin(t, map[string]string{"gateways": a + "," + b + "," + c})
	m, err := p.Query("queued service=llm", within(time.Minute))
	if err != nil || fmt.Sprint(values(m)) != "[11 22 33]" {
		t.Errorf("got %v, %v", values(m), err)
	}
}

// Each gateway reports only its own waiting requests.
func TestABurstIsSeenAtAllGateways(t *testing.T) {
	idle := make([]float64, 20)
	stub := func(now int) string {
		return gatewayStub{first: to.Unix() - 20, queued: idle, idle: true, now: now, whole: true}.start(t)
	}
	p := plugin(t, map[string]string{"gateways": stub(3) + "," + stub(4)})
	for query, want := range map[string]string{"queued service=llm": "[7]", "tokens service=llm": "[840]"} {
		if m, err := p.Query(query, within(0)); err != nil || fmt.Sprint(values(m)) != want {
			t.Errorf("%s: got %v, %v, want %s", query, values(m), err, want)
		}
	}
}
