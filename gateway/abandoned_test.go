package gateway

import (
	"testing"
	"testing/synctest"
	"time"

	"aliquot.example/gateway/line"
	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/prompt"
)

// A client that asks for more than others and leaves says nothing of a replica, until
// it has waited for a multiple of what its own request may take.
func TestWhoAsksForMuchMayWaitLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &classMetrics{class: "h100", means: &means{}, firsts: &means{}}
		for range 20 {
			c.means.add("h100", time.Second, 50)
			c.firsts.add("h100", 100*time.Millisecond, 100)
		}
		for name, d := range map[string]struct {
			size   prompt.Size
			prompt int
			early  time.Duration // says nothing
			late   time.Duration // says that it hangs
		}{
			"as usual":      {prompt.Size{API: prompt.Chat, Answers: 1, Limit: 50}, 100, 3 * time.Second, 5 * time.Second},
			"long":          {prompt.Size{API: prompt.Chat, Answers: 1, Limit: 500}, 100, 30 * time.Second, 50 * time.Second},
			"several":       {prompt.Size{API: prompt.Chat, Answers: 10, Limit: 50}, 100, 30 * time.Second, 50 * time.Second},
			"without limit": {prompt.Size{API: prompt.Chat, Answers: 1}, 100, 300 * time.Second, 400 * time.Second},
			"a stream":      {prompt.Size{API: prompt.Chat, Answers: 1, Limit: 500, Streamed: true}, 100, 300 * time.Millisecond, 500 * time.Millisecond},
			"much to read":  {prompt.Size{API: prompt.Chat, Answers: 1, Limit: 500, Streamed: true}, 1000, 3 * time.Second, 5 * time.Second},
			"no language":   {prompt.Size{API: prompt.Opaque, Answers: 1}, 100, 3 * time.Second, 5 * time.Second},
		} {
			x := &exchange{service: &service{}, reading: &reading{size: d.size, prompt: d.prompt}}
			x.attempts.began = time.Now()
			x.pass.Endpoint = &line.Endpoint{Class: "h100", Value: c}
			time.Sleep(d.early)
			if o := x.abandoned(); o != dispatch.Neutral {
				t.Errorf("%s: after %v the replica is blamed", name, d.early)
			}
			time.Sleep(d.late - d.early)
			if o := x.abandoned(); o != dispatch.Failed {
				t.Errorf("%s: after %v nobody is blamed", name, d.late)
			}
			x.service.config.Queue.SendAhead = 1 // it may have waited for another request there
			if o := x.abandoned(); o != dispatch.Neutral {
				t.Errorf("%s, sent ahead: after %v the replica is blamed", name, d.late)
			}
		}
	})
}
