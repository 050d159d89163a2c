package talk

import (
	"math"
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"aliquot.example/internal/dispatch"
)

var now = time.Unix(1_000_000, 0)

func TestARecordArrivesAsItWasSent(t *testing.T) {
	in := []Record{
		{Kind: Hello, Gateway: "10.0.0.1:7070", Process: 1 << 63, MaxVersion: 2},
		{Kind: Enter, Service: "app", Epoch: 7, ID: 3, Arrived: now.Add(-time.Second), Require: []string{"h100", "h200"}, Prefer: []string{"h200"}, Request: &dispatch.Request{
			Tenant: "a", Priority: 1, Placement: 2, Cost: 0.5, Expire: now.Add(time.Minute), Deadline: now.Add(2 * time.Minute),
			Prompt: 1000, Output: 10, Blocks: []uint64{1, 1 << 63}, Whole: true,
		}},
		{Kind: Grant, Service: "app", Epoch: 7, ID: 3, Replica: "r", Address: "10.0.0.2:80", Class: "h100"},
		{Kind: Leave, ID: 3, Verdict: dispatch.Busy, Pause: time.Second, Began: true, Tokens: 9, HasUsage: true, Prompt: -1, Cached: -1, Output: 12, Started: now.Add(-time.Minute)},
		{Kind: Refused, ID: 4, Refusal: dispatch.TooLate, After: 3 * time.Second},
		{Kind: Heartbeat, Heartbeat: 9, Heard: 8, Leaving: true, Hears: []string{"10.0.0.1:7070", "10.0.0.2:7070"}, Loads: []Load{
			{"app", 3, []Held{{"r", "h100", 2, 900}, {"s", "", 1, 0}}, 4000, true, []dispatch.Charge{{Tenant: "a", Priority: 1, Placement: 2, Ahead: 0.25}, {Ahead: 1e9}}, 7, 1 << 63},
			{"b", 0, nil, 0, false, nil, 0, 0},
		}},
		{Kind: Ended, Service: "app", Charges: []dispatch.Charge{{Tenant: "b", Ahead: 3}}},
		{Kind: Claimed, Service: "app", Epoch: 1 << 40, Report: 3, Salt: [2]uint64{1 << 63, 5}},
		{Kind: Spent, Tenant: "a", Amount: -3.5},
	}
	later := now.Add(time.Hour) // another host's clock
	out, err := Parse(Append(nil, Version, in, now), Version, later)
	if err != nil || len(out) != len(in) {
		t.Fatalf("%d records, %v", len(out), err)
	}
	shift := func(at *time.Time) {
		if !at.IsZero() {
			*at = at.Add(-time.Hour)
		}
	}
	for i := range out {
		shift(&out[i].Arrived)
		shift(&out[i].Started)
		if r := out[i].Request; r != nil {
			shift(&r.Expire)
			shift(&r.Deadline)
		}
		if !reflect.DeepEqual(in[i], out[i]) {
			t.Errorf("sent %+v\ngot  %+v", in[i], out[i])
		}
	}
}

// A later release may add fields and kinds; one of another version is named.
func TestWhatIsNotKnownIsPassedOver(t *testing.T) {
	w := writer{nil, now}
	w.unsigned(frameVersion, Version)
	w.nested(frameRecord, func() {
		w.unsigned(recordKind, 99)
		w.text(1000, "new")
		w.unsigned(recordID, 5)
	})
	w.text(77, "new")
	out, err := Parse(w.b, Version, now)
	if err != nil || len(out) != 1 || out[0].ID != 5 {
		t.Errorf("%+v, %v", out, err)
	}
	other := protowire.AppendVarint(protowire.AppendTag(nil, frameVersion, protowire.VarintType), Version+1)
	if _, err := Parse(other, Version, now); err == nil {
		t.Error("a frame of another version is taken")
	}
}

// A number that is none would stay in every sum that it is added to.
func TestNumbersAreFinite(t *testing.T) {
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		out, err := Parse(Append(nil, Version, []Record{{Kind: Spent, Tenant: "a", Amount: v}}, now), Version, now)
		if err != nil || len(out) != 1 || out[0].Amount != 0 {
			t.Errorf("%v arrives as %+v, %v", v, out, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Append(nil, Version, []Record{{Kind: Heartbeat, Loads: []Load{{"a", 1, []Held{{"r", "c", 1, 2}}, 3, true, []dispatch.Charge{{Tenant: "t", Ahead: 1}}, 6, 7}}}, {Kind: Enter, Request: &dispatch.Request{Blocks: []uint64{1}}}}, now))
	f.Fuzz(func(t *testing.T, b []byte) {
		records, err := Parse(b, Version, now)
		if err != nil {
			return
		}
		again, err := Parse(Append(nil, Version, records, now), Version, now)
		if err != nil || len(again) != len(records) {
			t.Errorf("%d records became %d, %v", len(records), len(again), err)
		}
	})
}
