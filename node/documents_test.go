package node

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/e2e/consultest"
	"aliquot.example/internal/driver"
)

// documents is an agent of node n1 on a real Consul.
func documents(t *testing.T) *Agent {
	t.Helper()
	server, err := consultest.Start(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	return New(Config{Prefix: "aliquot/node", NodeID: "n1"}, nil, server.Client, slog.New(slog.NewTextHandler(testLog{t}, nil)))
}

func (a *Agent) put(t *testing.T, key, text string) {
	t.Helper()
	if _, err := a.docs.KV.Put(&consul.KVPair{Key: a.docs.Prefix + "/" + key, Value: []byte(text)}, nil); err != nil {
		t.Fatal(err)
	}
}

// Documents that cannot be understood are a trouble that the agent reports, and no end of
// its look; slots are replaced by hand, and only then.
func TestDocumentsThatCannotBeUnderstood(t *testing.T) {
	a := documents(t)
	ctx := t.Context()
	a.put(t, "wanted", `{"max": "many"}`)
	a.put(t, "slots", `{"holders": {"n1": {"node": "gpu-1"}}}`)
	seen := driver.Seen{ID: "n1", Name: "gpu-1", Now: time.Now()}
	if err := a.read(ctx, &seen); err != nil || seen.NoSlots || !strings.Contains(seen.Trouble, "aliquot/node/wanted") || seen.Slots.Holders["n1"].Node != "gpu-1" {
		t.Errorf("%v, %+v", err, seen)
	}
	err := a.docs.SetWanted(ctx, func(w driver.Wanted, damaged error) (driver.Wanted, error) { return w, damaged })
	if pair, _, _ := a.docs.KV.Get("aliquot/node/wanted", nil); !errors.Is(err, ErrDocument) || string(pair.Value) != `{"max": "many"}` {
		t.Errorf("a change of what cannot be understood: %v, then %s", err, pair.Value)
	}
	if err := a.docs.ResetSlots(ctx); err == nil || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("slots that can be read: %v", err)
	}
	a.put(t, "slots", "garbage")
	seen = driver.Seen{ID: "n1", Name: "gpu-1", Now: time.Now()}
	if err := a.read(ctx, &seen); err != nil || !seen.NoSlots || !strings.Contains(seen.Trouble, "-reset-slots") {
		t.Errorf("%v, %+v", err, seen)
	}
	a.state = driver.State{Phase: driver.Installing, Eligible: true, Plan: driver.Plan{Version: "580.126.09"}}
	a.publish(ctx, seen, "")
	if err := a.do(ctx, driver.GiveSlot, seen); !errors.Is(err, ErrDocument) {
		t.Errorf("%v", err)
	}
	if _, err := a.docs.Status(ctx); !errors.Is(err, ErrDocument) {
		t.Errorf("%v", err)
	}
	if err := a.docs.ResetSlots(ctx); err != nil {
		t.Fatal(err)
	}
	if slots, _, err := a.docs.Slots(ctx); err != nil || len(slots.Holders) > 0 {
		t.Errorf("%v, %+v", err, slots)
	}
	a.put(t, "wanted", `{"max": 1}`)
	s, err := a.docs.Status(ctx)
	if err != nil || len(s.Nodes) != 1 || s.Nodes[0].Trouble != seen.Trouble {
		t.Errorf("%v, %+v", err, s)
	}
	if phase, err := a.docs.InProgress(ctx, "gpu-1"); err != nil || phase != driver.Installing {
		t.Errorf("%v, %q", err, phase)
	}
	// The node takes its slot again, once, and keeps whether it took tasks.
	for range 2 {
		if err := a.do(ctx, driver.KeepSlot, seen); err != nil {
			t.Fatal(err)
		}
	}
	if slots, _, err := a.docs.Slots(ctx); err != nil || !slots.Holders["n1"].Eligible || slots.Holders["n1"].Version != "580.126.09" {
		t.Errorf("%v, %+v", err, slots)
	}
	if err := a.do(ctx, driver.MarkDone, seen); err != nil {
		t.Fatal(err)
	}
	if slots, _, err := a.docs.Slots(ctx); err != nil || slots.Done["n1"].Version != "580.126.09" {
		t.Errorf("%v, %+v", err, slots)
	}
}
