package learned

import (
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"testing"
	"time"
)

func TestTheColdStartIsThatOfTheSlowestClassThatIsKnown(t *testing.T) {
	var doc Starts
	add := func(class string, age time.Duration, seconds ...float64) {
		for _, s := range seconds {
			doc.Samples = append(doc.Samples, Start{At: noon.Add(-age), Class: class, Seconds: s})
		}
	}
	if _, ok := doc.P95(noon); ok {
		t.Error("a value out of nothing")
	}
	add("h100", time.Hour, 10, 12)
	if _, ok := doc.P95(noon); ok {
		t.Error("two samples are believed")
	}
	add("h100", time.Hour, 11)
	add("l4", 8*24*time.Hour, 500, 500, 500, 500) // too old
	if p95, ok := doc.P95(noon); !ok || p95 != 12*time.Second {
		t.Errorf("got %v, want the largest of three", p95)
	}
	add("t4", time.Minute, 40, 50, 60)
	if p95, _ := doc.P95(noon); p95 != 60*time.Second {
		t.Errorf("got %v, want that of the slower class", p95)
	}
	add("broken", time.Minute, -5, 0, 1e300, 1e300, 7200)
	add("t4", -8*24*time.Hour, 900, 900, 900) // by a clock that was wrong
	if p95, _ := doc.P95(noon); p95 != 60*time.Second {
		t.Errorf("got %v out of what cannot be", p95)
	}
	doc.Samples = nil
	for i := range 100 {
		add("h100", time.Hour, float64(i+1))
	}
	if p95, _ := doc.P95(noon); p95 != 95*time.Second {
		t.Errorf("of 1..100: got %v, want 95s", p95)
	}
}

func TestPartsAreMeansByClass(t *testing.T) {
	var doc Starts
	doc.Add(
		Start{At: noon, Class: "h100", Seconds: 60, Parts: map[string]float64{"image": 20, "models": 10, "load": 20}},
		Start{At: noon, Class: "h100", Seconds: 20, Parts: map[string]float64{"load": 10, "unknown": 5, "container": -3}},
		Start{At: noon, Class: "h100", Seconds: 30}, Start{At: noon, Class: "l4", Seconds: 30},
	)
	got := doc.ByClass(noon)
	want := map[string]ColdStart{
		"h100": {Count: 3, P95: 60, Parts: map[string]float64{"image": 10, "models": 5, "load": 15}}, "l4": {Count: 1},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestStartsAreReadBack(t *testing.T) {
	var doc Starts
	for i := range keptStarts + 5 {
		doc.Add(Start{At: noon, Class: "h100", Seconds: float64(i + 1), Parts: map[string]float64{"load": 1}})
	}
	if len(doc.Samples) != keptStarts || doc.Samples[0].Seconds != 6 {
		t.Fatalf("%d starts are kept, from %v on", len(doc.Samples), doc.Samples[0].Seconds)
	}
	text, err := json.Marshal(doc)
	if again, err2 := ParseStarts(text); errors.Join(err, err2) != nil || !reflect.DeepEqual(again, doc) {
		t.Errorf("read back as %+v, %v", again, errors.Join(err, err2))
	}
	for _, text := range []string{"", "[]", `{"version":2}`, `{"version":1,"samples":7}`} {
		if _, err := ParseStarts([]byte(text)); !errors.Is(err, ErrStarts) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestPartsGoThroughTheAnnotations(t *testing.T) {
	notes := map[string]string{"image": "app:1", "start_load_seconds": "soon", "start_models_seconds": "-1", "start_container_seconds": "NaN"}
	if got := PartsIn(notes); got != nil {
		t.Errorf("read %v", got)
	}
	NotePart(notes, "load", 41.25)
	NotePart(notes, "image", 0)
	if got := PartsIn(notes); !maps.Equal(got, map[string]float64{"load": 41.25, "image": 0}) {
		t.Errorf("read %v of %v", got, notes)
	}
}
