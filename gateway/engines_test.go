package gateway

import (
	"testing"
	"testing/synctest"
	"time"

	"aliquot.example/gateway/engine"
	"aliquot.example/gateway/line"
	"aliquot.example/internal/dispatch"
)

func TestWhatAnEngineSaidIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &service{line: line.New(line.Options{Policy: dispatch.Policy{Mode: dispatch.Tokens, Placements: []dispatch.Placement{{}}, Priorities: 1}})}
		l := &language{engines: map[string]engineReport{}}
		one := []line.Replica{{Replica: dispatch.Replica{ID: "r", Slots: 1}, Address: "127.0.0.1:1"}}
		l.set(v, one)
		if s, ok := l.engine("r"); ok {
			t.Errorf("before it said anything: %+v", s)
		}
		l.observed(v, "r", engine.State{Running: 3})
		if s, ok := l.engine("r"); !ok || s.Running != 3 {
			t.Errorf("what it said: %+v %v", s, ok)
		}
		l.set(v, one)
		if _, ok := l.engine("r"); !ok {
			t.Error("the same replicas again: what it said is lost")
		}
		time.Sleep(believed + time.Second)
		if s, ok := l.engine("r"); ok {
			t.Errorf("long after: %+v", s)
		}
		l.observed(v, "r", engine.State{Running: 3})
		l.set(v, nil)
		l.observed(v, "r", engine.State{Running: 4}) // the answer to an earlier question
		if len(l.engines) != 0 {
			t.Errorf("after it left: %+v", l.engines)
		}
	})
}
