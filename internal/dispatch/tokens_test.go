package dispatch

import (
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever happens, the books of a replica are those of the requests that it has,
// its cache is not promised twice, and no request is lost.
func TestBooksAreThoseOfTheRequestsInFlight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t)
		m.q.policy.Mode = Tokens
		kv := map[string]int{}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				id := fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "id"))
				class := rapid.SampledFrom([]string{"h100", "l4", "b"}).Draw(t, "class")
				kv[id] = rapid.SampledFrom([]int{0, 2000, 20000}).Draw(t, "kv")
				m.q.Put(Replica{ID: id, Class: class, Weight: 1, KV: kv[id]})
				m.slots[id] = 1
			},
			"drop": m.drop,
			"submit": func(t *rapid.T) {
				k := &Ticket{Request: Request{
					Tenant:   rapid.SampledFrom([]string{"", "x"}).Draw(t, "tenant"),
					Priority: rapid.IntRange(0, 2).Draw(t, "priority"),
					Prompt:   rapid.IntRange(0, 3000).Draw(t, "prompt"),
					Output:   rapid.IntRange(0, 500).Draw(t, "output"), Expire: m.now.Add(time.Minute),
				}}
				for i := range rapid.IntRange(0, k.Prompt/BlockTokens).Draw(t, "blocks") {
					k.Blocks = append(k.Blocks, uint64(i+10*rapid.IntRange(0, 1).Draw(t, "of")))
				}
				m.enter(t, k)
			},
			"time": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond)
			},
			"progress": func(t *rapid.T) {
				k := m.some(t, m.runningSet())
				if rapid.Bool().Draw(t, "first") {
					m.q.Began(k, m.now)
				} else {
					m.q.Progress(k, rapid.IntRange(0, 600).Draw(t, "tokens"), m.now)
				}
			},
			"observe": func(t *rapid.T) {
				m.q.Observe(fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "id")), EngineState{
					Running: rapid.IntRange(0, 9).Draw(t, "running"), Waiting: rapid.IntRange(0, 9).Draw(t, "waiting"), KVUsed: 0.5,
				}, m.now)
			},
			"finish": func(t *rapid.T) {
				k := m.some(t, m.runningSet())
				m.q.Settle(k, rapid.IntRange(-1, 4000).Draw(t, "prompt"), -1, rapid.IntRange(-1, 600).Draw(t, "output"))
				m.q.Finish(k, Verdict(rapid.IntRange(0, int(Busy)).Draw(t, "outcome")), 0, m.now)
				delete(m.running, k)
			},
			"retry": func(t *rapid.T) {
				k := m.some(t, m.runningSet())
				m.q.Retry(k, Failed, 0, m.now)
				delete(m.running, k)
				m.waiting[k] = true
			},
			"": func(t *rapid.T) {
				for k := m.q.Next(m.now); k != nil; k = m.q.Next(m.now) {
					r, _ := k.Replica()
					if !m.waiting[k] || m.slots[r.ID] == 0 {
						t.Fatalf("a request that does not wait was started, or on a replica that is gone: %s", r.ID)
					}
					delete(m.waiting, k)
					m.running[k] = r.ID
					if n := m.active(r.ID); r.KV > 0 && n > 1 && k.on.books.memory() > r.KV && k.on.books.memory()-k.Prompt > 0 {
						t.Fatalf("%d tokens were booked on %d", k.on.books.memory(), r.KV)
					}
				}
				sum, streams, blocks := map[string]int{}, map[string]int{}, map[string]map[uint64]int{}
				for k := range m.running {
					if blocks[k.on.ID] == nil {
						blocks[k.on.ID] = map[uint64]int{}
					}
					for _, hash := range k.Blocks {
						blocks[k.on.ID][hash]++
					}
					sum[k.on.ID] += k.Prompt + k.entry.tokens
					if k.entry.began {
						streams[k.on.ID]++
					}
				}
				for _, s := range m.q.fleet.all {
					if b := &s.books; b.kv != sum[s.ID] || len(b.begun) != streams[s.ID] {
						t.Fatalf("books of %s: %d tokens, %d streams; in flight are %d and %d", s.ID, b.kv, len(b.begun), sum[s.ID], streams[s.ID])
					}
				}
				for _, s := range m.q.fleet.all {
					saved := 0
					for hash, n := range blocks[s.ID] {
						if saved += (n - 1) * BlockTokens; s.books.shared.blocks[hash].n != n {
							t.Fatalf("%d of %d requests with a block are counted", s.books.shared.blocks[hash].n, n)
						}
					}
					if x := &s.books.shared; x.saved != saved || len(x.blocks) != len(blocks[s.ID]) {
						t.Fatalf("%d tokens of %d blocks count as shared, %d of %d are", x.saved, len(x.blocks), saved, len(blocks[s.ID]))
					}
				}
				if m.q.Waiting() != len(m.waiting) || m.served() != len(m.running) {
					t.Fatal("a request was lost")
				}
			},
		})
	})
}

func tokens(prompt, output int) func(*Request) {
	return func(r *Request) { r.Prompt, r.Output = prompt, output }
}

func TestRequestsGoWhereTheyCostTheFewestSeconds(t *testing.T) {
	q := New(Policy{Mode: Tokens})
	q.Put(Replica{ID: "fast", Class: "h100", Weight: 1})
	q.Put(Replica{ID: "slow", Class: "l4", Weight: 0.085})
	now := epoch
	count := map[string]int{}
	for range 400 {
		submit(t, q, now, ask(0, tokens(4000, 200)))
		got, _ := drain(q, now)
		for _, k := range got {
			count[k.on.ID]++
			q.Began(k, now)
		}
		now = now.Add(time.Second)
	}
	if count["fast"] < 200 || count["slow"] == 0 {
		t.Errorf("of 400 requests without an end %v were sent", count)
	}
}

// chat is a prompt of so many blocks that begins like others of its name.
func chat(name, blocks, output int) func(*Request) {
	return func(r *Request) {
		r.Prompt, r.Output = blocks*BlockTokens, output
		for i := range blocks {
			r.Blocks = append(r.Blocks, uint64(name)<<32+uint64(i))
		}
	}
}

// The cache holds once what prompts in flight share: a second question about a long text is
// sent where the first one is answered, though both prompts together are longer than the cache.
func TestWhatPromptsShareTakesRoomOnce(t *testing.T) {
	for _, c := range []struct {
		name int
		want string
	}{{1, "second@long"}, {2, "second@empty"}} {
		q := New(Policy{Mode: Tokens})
		q.Put(Replica{ID: "long", Class: "l4", KV: 80_000})
		submit(t, q, epoch, ask("first", chat(1, 100, 100)))
		first, _ := drain(q, epoch)
		now := epoch.Add(20 * time.Second)
		q.Began(first[0], now)
		q.Put(Replica{ID: "empty", Class: "l4", KV: 80_000})
		submit(t, q, now, ask("second", chat(c.name, 101, 100)))
		_, got := drain(q, now)
		expect(t, fmt.Sprintf("a prompt of text %d", c.name), got, c.want)
		q.Finish(first[0], Served, 0, now)
		if s := q.fleet.servers["long"]; s.active == 0 && (s.books.memory() != 0 || len(s.books.shared.blocks) != 0) {
			t.Errorf("an empty replica has %d tokens and blocks %v", s.books.memory(), s.books.shared.blocks)
		}
	}
}

func TestAPromptThatNeverFitsGoesElsewhere(t *testing.T) {
	q := New(Policy{Mode: Tokens})
	q.Put(Replica{ID: "small", Class: "h100", KV: 4000})
	q.Put(Replica{ID: "short", Class: "h100", MaxPrompt: 4000})
	q.Put(Replica{ID: "large", Class: "l4", KV: 80000})
	submit(t, q, epoch, ask("a", tokens(5000, 10)))
	_, got := drain(q, epoch)
	expect(t, "a prompt of 5,000 tokens", got, "a@large")
}

func TestAPromptTooLongForAllGoesToTheOneThatTakesMost(t *testing.T) {
	q := New(Policy{Mode: Tokens, Placements: []Placement{{}, {Require: []string{"l4"}}}})
	q.Put(Replica{ID: "large", Class: "h100", KV: 400_000})
	q.Put(Replica{ID: "small", Class: "l4", KV: 40_000})
	q.Put(Replica{ID: "medium", Class: "l4", KV: 80_000})
	submit(t, q, epoch, ask("a", tokens(100_000, 10), placed(1)))
	_, got := drain(q, epoch)
	expect(t, "on l4 alone", got, "a@medium")
	q.fleet.eject(q.fleet.servers["large"], epoch)
	submit(t, q, epoch, ask("b", tokens(100_000, 10)))
	_, got = drain(q, epoch)
	expect(t, "anywhere, while the one that takes it is out", got)
	_, got = drain(q, epoch.Add(time.Second))
	expect(t, "when it is back", got, "b@large")
}

func TestLoadFromElsewhereCounts(t *testing.T) {
	q := New(Policy{Mode: Tokens})
	q.Put(Replica{ID: "a", Class: "h100", KV: 400_000})
	q.Put(Replica{ID: "b", Class: "h100", KV: 400_000})
	to := func(now time.Time) map[string]int {
		count := map[string]int{}
		for range 20 {
			submit(t, q, now, ask(0, tokens(1000, 100)))
			got, _ := drain(q, now)
			for _, k := range got {
				count[k.on.ID]++
				q.Began(k, now)
				q.Finish(k, Neutral, 0, now)
			}
			now = now.Add(100 * time.Millisecond)
		}
		return count
	}
	q.Observe("a", EngineState{Running: 60, Waiting: 10, KVUsed: 0.8}, epoch)
	if count := to(epoch); count["b"] < 18 {
		t.Errorf("beside a replica that 70 requests of others keep busy: %v", count)
	}
	if count := to(epoch.Add(2 * metricsTTL)); count["a"] == 0 {
		t.Errorf("after the observation is old: %v", count)
	}
}

// Turns are taken between tenants also where requests are bound late.
func TestTokensAreSharedBetweenTenants(t *testing.T) {
	q := New(Policy{Mode: Tokens})
	q.Put(Replica{ID: "r", Class: "l4", KV: 85_000})
	for i := range 200 {
		submit(t, q, epoch, ask(i, tokens(4000, 100), by("long")))
	}
	for i := range 800 {
		submit(t, q, epoch, ask(i, tokens(1000, 25), by("short")))
	}
	sum := map[string]int{}
	now := epoch
	for range 200 {
		k := q.Next(now)
		if k == nil {
			t.Fatal("an idle replica is sent nothing")
		}
		sum[k.Tenant] += k.Prompt
		q.Began(k, now)
		q.Settle(k, k.Prompt, -1, k.Output)
		q.Finish(k, Served, 0, now)
		now = now.Add(time.Second)
	}
	if part := float64(sum["long"]) / float64(sum["long"]+sum["short"]); part < 0.45 || part > 0.55 {
		t.Errorf("the tenant with long prompts was served %.0f%% of the tokens: %v", 100*part, sum)
	}
}

// A replica that can still keep the objective is taken before one that would serve the
// request sooner in all, but begin too late.
func TestTheFirstTokenInTimeIsWorthASlowerAnswer(t *testing.T) {
	for _, c := range []struct {
		ttft time.Duration
		want string
	}{{0, "waits"}, {2 * time.Second, "l4"}, {time.Millisecond, "waits"}} {
		now := time.Unix(1_700_000_000, 0)
		q := New(Policy{Mode: Tokens, SLO: SLO{TTFT: c.ttft}})
		q.Put(Replica{ID: "h100", Class: "h100", Weight: 1})
		q.Put(Replica{ID: "l4", Class: "l4", Weight: 0.085})
		send := func(prompt int) string {
			k := &Ticket{Request: Request{Prompt: prompt, Output: 200, Expire: now.Add(time.Hour)}}
			if why, _ := q.Submit(k, now); why != Accepted {
				t.Fatal(why)
			}
			if got := q.Next(now); got == nil {
				return "waits"
			}
			r, _ := k.Replica()
			return r.ID
		}
		if got := send(45_000); got != "h100" {
			t.Fatalf("the long prompt goes to %s", got)
		}
		if got := send(500); got != c.want {
			t.Errorf("objective %s: the short prompt behind 3 s of reading: %s, want %s", c.ttft, got, c.want)
		}
	}
}

// What an engine says that a request took is believed within reason only.
func TestAnAbsurdUsageChangesLittle(t *testing.T) {
	for _, c := range []struct {
		what           string
		prompt, output int
		progress       bool
	}{{"prompt", 1e18, 100, false}, {"answer", 1000, 1e18, false}, {"both", math.MaxInt, math.MaxInt, false}, {"progress", 1000, 1e18, true}} {
		q := New(Policy{Mode: Tokens})
		q.Put(Replica{ID: "r", Class: "h100"})
		now := epoch
		answer := func(prompt, output int) {
			submit(t, q, now, ask(0, tokens(1000, 0)))
			k := q.Next(now)
			q.Began(k, now.Add(50*time.Millisecond))
			now = now.Add(time.Second)
			if c.progress {
				q.Progress(k, output, now)
			} else {
				q.Settle(k, prompt, -1, output)
			}
			q.Finish(k, Served, 0, now)
		}
		for range 50 {
			answer(1000, 100)
		}
		prompt, output := q.averages.prompt, q.averages.output
		answer(c.prompt, c.output)
		if q.averages.prompt > 3*prompt || q.averages.output > 3*output {
			t.Errorf("%s: the means are %.0f and %.0f after one lie, were %.0f and %.0f", c.what, q.averages.prompt, q.averages.output, prompt, output)
		}
		if s := q.Replicas()[0]; s.InFlight != 0 {
			t.Errorf("%s: %d tokens are in flight of none", c.what, s.InFlight)
		}
		for range 5 {
			submit(t, q, now, ask(0, tokens(60_000, 0)))
			q.Next(now)
		}
		if why, _ := q.Submit(ask("next", tokens(1000, 0), func(r *Request) { r.Expire = now.Add(time.Minute) }), now); why != Accepted {
			t.Errorf("%s: one that may wait for a minute is refused: %v", c.what, why)
		}
	}
}

func TestALongPromptThatTheEngineTellsOfIsLearned(t *testing.T) {
	q := New(Policy{Mode: Tokens})
	q.Put(Replica{ID: "r", Class: "h100", KV: 400_000})
	submit(t, q, epoch, ask("opaque", tokens(0, 0)))
	k := q.Next(epoch)
	q.Settle(k, 30_000, -1, 5000)
	q.Finish(k, Served, 0, epoch.Add(time.Second))
	if q.averages.prompt != 30_000 || q.averages.output <= defaultOutput {
		t.Errorf("learned are %.0f and %.0f tokens of a request of 30,000 and 5,000", q.averages.prompt, q.averages.output)
	}
}
