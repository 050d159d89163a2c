package main

import (
	"context"
	"io"
	"math"
	"net/http"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"aliquot.example/e2e/modelserver/engine"
	tells "aliquot.example/gateway/engine"
	"aliquot.example/internal/profile"
	"aliquot.example/profiler"
)

// measured runs `aliquot bench` as the command does against a server in memory.
func measured(t *testing.T, client *http.Client, change func(*profiler.Options)) (*profiler.Report, error) {
	return profiler.Run(t.Context(), benchOf(client, change))
}

func benchOf(client *http.Client, change func(*profiler.Options)) profiler.Options {
	o := profiler.Options{
		Server: &profiler.Server{URL: "http://m", HTTP: client, Stall: time.Minute, Metrics: func(r io.Reader) (profiler.Engine, error) {
			s, err := tells.Parse(r)
			return profiler.Engine{Kind: s.Kind, Running: s.Running, Waiting: s.Waiting, KVTokens: s.KVTokens, Preemptions: s.Preemptions}, err
		}},
		Time: 10 * time.Minute, Design: profile.Usual(), Rounds: profile.UsualRounds(), Prompt: 512, Output: 128,
		Objective: profiler.Objective{TTFT: 2 * time.Second, TPOT: 100 * time.Millisecond},
	}
	if change != nil {
		change(&o)
	}
	return o
}

// The benchmark finds the values with which the engine computes.
func TestBenchFindsWhatTheEngineComputesWith(t *testing.T) {
	for _, class := range []string{"a100", "l4"} {
		t.Run(class, func(t *testing.T) {
			h, _ := engine.Class(class)
			synctest.Test(t, func(t *testing.T) {
				report, err := measured(t, serving(t, class, nil), nil)
				if err != nil {
					t.Fatal(err)
				}
				if testing.Verbose() {
					report.Print(os.Stderr)
				}
				if report.Curve == nil {
					t.Fatal("there is no curve")
				}
				c, truth := report.Curve, h.Truth()
				for name, of := range map[string][2]float64{
					"a token of a prompt": {c.Prefill, truth.Prefill},
					"a step":              {c.A, truth.Step}, "a sequence": {c.B, truth.Sequence}, "a token in the cache": {c.C, truth.Token},
					"the cache": {c.KV, float64(h.KVTokens / 16 * 16)},
				} {
					if math.Abs(of[0]/of[1]-1) > 0.05 {
						t.Errorf("%s: %.4g, the engine computes with %.4g", name, of[0], of[1])
					}
				}
				// The growing cost of the later parts of a long prompt is measured, too.
				if math.Abs(c.Growth/truth.Growth-1) > 0.1 {
					t.Errorf("growth %.4g, the engine computes with %.4g", c.Growth, truth.Growth)
				}
				if len(report.Faults) > 0 || report.Prefill.Poor() || report.Step.Poor() {
					t.Errorf("faults %v, fits %s and %s", report.Faults, report.Prefill, report.Step)
				}
			})
		})
	}
}

// Ctrl-C keeps what was measured so far.
func TestBenchKeepsWhatItHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := serving(t, "a100", nil)
		ctx, cancel := context.WithTimeout(t.Context(), 70*time.Second)
		defer cancel()
		report, err := profiler.Run(ctx, benchOf(client, nil))
		if err != nil || !report.Interrupted || report.Seconds > 71 {
			t.Fatalf("ended after %.0f s, interrupted: %v, %v", report.Seconds, report.Interrupted, err)
		}
		if len(report.Points) < 5 {
			t.Errorf("%d points are left of it", len(report.Points))
		}
	})
}

// A run ends within its time, on any server, and reports what it had no time for.
func TestBenchEndsInItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last profiler.Progress
		report, err := measured(t, serving(t, "t4", nil), func(o *profiler.Options) {
			o.Time = 2 * time.Minute
			o.Progress = func(p profiler.Progress) {
				if p.Part < 0 || p.Part > 1 || p.Left < 0 || p.Left > o.Time {
					t.Errorf("progress %+v", p)
				}
				last = p
			}
		})
		if err != nil || report.Seconds > 180 {
			t.Fatalf("after %.0f s: %v", report.Seconds, err)
		}
		if len(report.Left) == 0 || last.Stage == "" {
			t.Errorf("left out %q, last progress %+v", report.Left, last)
		}
	})
}

// Neighbours on the same hardware make a server slower, and the benchmark measures that.
func TestBenchBesideANeighbour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := serving(t, "a100", nil)
		short := func(o *profiler.Options) {
			o.Design = profile.Design{Prompts: []int{120, 480}, Concurrencies: []int{1, 4}, Window: 32}
		}
		alone, err := measured(t, client, short)
		if err != nil {
			t.Fatal(err)
		}
		// The stand-in's neighbour is in the same batch, which is the most that sharing can cost.
		beside, err := measured(t, client, func(o *profiler.Options) {
			short(o)
			o.Neighbours = []*profiler.Server{o.Server}
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(alone.Closed) == 0 || len(beside.Closed) != len(alone.Closed) {
			t.Fatalf("%d loads alone, %d beside a neighbour", len(alone.Closed), len(beside.Closed))
		}
		if a, b := alone.Closed[0].Rate.Value, beside.Closed[0].Rate.Value; !(b < a) {
			t.Errorf("%.3g answers a second alone, %.3g beside a neighbour", a, b)
		}
		if len(beside.Notes) == 0 {
			t.Error("nothing is said of the neighbour")
		}
	})
}
