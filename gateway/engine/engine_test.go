package engine

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"aliquot.example/gateway/line"
	"aliquot.example/internal/dispatch"
)

func TestEveryEngineIsRead(t *testing.T) {
	for file, want := range map[string]State{
		"vllm":    {"vllm", 12, 2, 0.5, 864000, 3},
		"vllm-v0": {"vllm", 1, 0, 0.5, -1, -1},
		"sglang":  {"sglang", 9, 4, 0.31, 448000, -1},
		"tgi":     {"tgi", 3, 11, -1, -1, -1},
		"trtllm":  {"trtllm", 6, 1, 0.125, 96000, -1},
		"triton":  {"triton", 8, 2, 0.4, 96000, -1},
	} {
		text, err := os.ReadFile("testdata/" + file + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(bytes.NewReader(text))
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", file, got, err, want)
		}
		if got, err = Parse(strings.NewReader(strings.ReplaceAll(string(text), "\n", "\r\n"))); err != nil || got != want {
			t.Errorf("%s with other line ends: %+v, %v", file, got, err)
		}
	}
	for _, text := range []string{"", "up 1\n", "<html>", strings.Repeat("x", 3*maxLine) + "\nvllm:num_requests_runningx 4"} {
		if got, err := Parse(strings.NewReader(text)); err != nil || got.Kind != "" {
			t.Errorf("%.20q is taken for an engine: %+v, %v", text, got, err)
		}
	}
	if got, err := Parse(strings.NewReader("vllm:num_requests_running{ 4\n")); err == nil {
		t.Errorf("a broken line is read as %+v", got)
	}
	if got, err := Parse(strings.NewReader("vllm:num_requests_running NaN\nvllm:num_requests_waiting +Inf\nvllm:num_requests_waiting -3\n")); err != nil || got.Kind != "" {
		t.Errorf("no numbers are read as %+v, %v", got, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, file := range []string{"vllm", "sglang", "tgi", "trtllm", "triton"} {
		text, err := os.ReadFile("testdata/" + file + ".txt")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Parse(bytes.NewReader(text))
		if err == nil && (s.Running < -1 || s.Waiting < -1 || s.KVTokens < -1 || !(s.KVUsed <= 1)) {
			t.Errorf("%+v", s)
		}
	})
}

// fleet collects what a scraper passes on.
type fleet struct {
	mu       sync.Mutex
	replicas []line.Replica
	states   map[string]State
	changed  chan struct{}
}

func (f *fleet) options(interval time.Duration) Options {
	f.states, f.changed = map[string]State{}, make(chan struct{}, 1)
	wake := func() {
		select {
		case f.changed <- struct{}{}:
		default:
		}
	}
	return Options{
		Client: http.DefaultTransport, Scheme: "http", Interval: interval,
		Set: func(r []line.Replica) {
			f.mu.Lock()
			f.replicas = r
			f.mu.Unlock()
			wake()
		},
		Observed: func(id string, s State) {
			f.mu.Lock()
			f.states[id] = s
			f.mu.Unlock()
			wake()
		},
	}
}

// await waits until what was passed on is as wanted.
func (f *fleet) await(t *testing.T, what string, wanted func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		f.mu.Lock()
		ok := wanted()
		f.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-f.changed:
		case <-deadline:
			t.Fatalf("not seen: %s; %+v %+v", what, f.replicas, f.states)
		}
	}
}

// serve is a server with some pages.
func serve(t *testing.T, pages map[string]string) (address string, most *atomic.Int64) {
	t.Helper()
	var now atomic.Int64
	most = new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer now.Add(-1)
		page, ok := pages[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Write([]byte(page))
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), most
}

func at(id, address string) line.Replica {
	return line.Replica{Address: address, Replica: dispatch.Replica{ID: id, KV: 5, MaxPrompt: 6}}
}

// What an engine tells of itself is passed on; of one that tells nothing the
// replica's own description stays.
func TestReplicasAreCompleted(t *testing.T) {
	vllm, err := os.ReadFile("testdata/vllm.txt")
	if err != nil {
		t.Fatal(err)
	}
	trtllm, err := os.ReadFile("testdata/trtllm.txt")
	if err != nil {
		t.Fatal(err)
	}
	a, most := serve(t, map[string]string{"/metrics": string(vllm), "/v1/models": `{"data":[{"id":"m","max_model_len":40960},{"id":"lora"}]}`})
	b, _ := serve(t, map[string]string{"/metrics": `[{"json":1}]`, "/prometheus/metrics": string(trtllm)})
	c, _ := serve(t, nil)
	var f fleet
	s := New(f.options(time.Millisecond))
	s.Replace(t.Context(), []line.Replica{at("a", a), at("b", b), at("c", c)})
	f.await(t, "the engines' sizes", func() bool {
		return len(f.states) == 2 && f.replicas[0].KV == 864000 && f.replicas[0].MaxPrompt == 40960 && f.replicas[1].KV == 96000 && f.replicas[1].MaxPrompt == 6
	})
	if r := f.replicas[2]; r.KV != 5 || r.MaxPrompt != 6 {
		t.Errorf("of a replica that tells nothing is believed %+v", r)
	}
	if most.Load() != 1 {
		t.Errorf("%d questions at a time", most.Load())
	}
	s.Replace(t.Context(), []line.Replica{at("b", b)})
	f.await(t, "the replicas that are left, with their sizes", func() bool { return len(f.replicas) == 1 && f.replicas[0].KV == 96000 })
}

// A replica that moves is asked at its new address, and what was known of the old
// one is forgotten.
func TestAReplicaThatMoves(t *testing.T) {
	tgi, err := os.ReadFile("testdata/tgi.txt")
	if err != nil {
		t.Fatal(err)
	}
	vllm, err := os.ReadFile("testdata/vllm.txt")
	if err != nil {
		t.Fatal(err)
	}
	a, _ := serve(t, map[string]string{"/metrics": string(vllm)})
	b, _ := serve(t, map[string]string{"/metrics": string(tgi)})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var f fleet
	s := New(f.options(time.Millisecond))
	s.Replace(ctx, []line.Replica{at("r", a)})
	f.await(t, "the first engine", func() bool { return f.states["r"].Kind == "vllm" && f.replicas[0].KV == 864000 })
	s.Replace(ctx, []line.Replica{at("r", b)})
	f.await(t, "the second engine", func() bool { return f.states["r"].Kind == "tgi" && f.replicas[0].KV == 5 })
}

// endless serves text again and again until the client leaves.
func endless(t *testing.T, text string) (address string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := io.WriteString(w, text); err != nil {
				return
			}
		}
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// Metrics without an end are an error, whether they are known or not, and no more of them
// is read than its bound. Nothing of them is believed.
func TestMetricsWithoutAnEnd(t *testing.T) {
	for name, text := range map[string]string{
		"of others":    "# HELP x y\nother_total{a=\"b\"} 1\n",
		"known":        "vllm:num_requests_running{model_name=\"m\"} 1\n",
		"in one line":  "vllm:num_requests_running",
		"empty labels": "vllm:cache_config_info{",
	} {
		address := endless(t, strings.Repeat(text, 64))
		s := New(Options{Client: http.DefaultTransport, Scheme: "http"})
		state, err := s.ask(t.Context(), &visit{replica: at("r", address)})
		if err == nil {
			t.Errorf("%s: read as %+v", name, state)
		}
		mode := SleepMode{Client: http.DefaultTransport, Scheme: "http", Level: 1}
		if err := mode.Sleep(t.Context(), address); !errors.Is(err, ErrBusy) {
			t.Errorf("%s: a replica is put to sleep whose load is unknown: %v", name, err)
		}
	}
}

// An engine whose metrics do not say what it works on is not put to sleep.
func TestWhoseLoadIsUnknown(t *testing.T) {
	for name, page := range map[string]string{"no metrics": "", "metrics of something else": "up 1\n"} {
		var slept atomic.Bool
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/metrics" && page != "":
				io.WriteString(w, page)
			case r.URL.Path == "/is_sleeping":
				io.WriteString(w, `{"is_sleeping":false}`)
			case r.URL.Path == "/sleep":
				slept.Store(true)
			default:
				http.NotFound(w, r)
			}
		}))
		mode := SleepMode{Client: http.DefaultTransport, Scheme: "http", Level: 1}
		err := mode.Sleep(t.Context(), strings.TrimPrefix(server.URL, "http://"))
		if !errors.Is(err, ErrBusy) || err == ErrBusy || slept.Load() {
			t.Errorf("%s: %v, slept: %t", name, err, slept.Load())
		}
		server.Close()
	}
}

// The gateway knows which engines can sleep by what they answer.
func TestWhoCannotSleep(t *testing.T) {
	for name, c := range map[string]struct {
		answers map[string]string
		sleeps  bool
		cannot  bool
	}{
		"vLLM, awake":                     {map[string]string{"/is_sleeping": `{"is_sleeping":false}`}, false, false},
		"vLLM, asleep":                    {map[string]string{"/is_sleeping": `{"is_sleeping":true}`}, true, false},
		"SGLang":                          {map[string]string{"/model_info": `{"weight_version":"default"}`, "/server_info": `{"enable_memory_saver":true}`}, false, false},
		"SGLang of an earlier release":    {map[string]string{"/get_model_info": `{"weight_version":"aliquot-released/7"}`}, true, false},
		"SGLang, half awake":              {map[string]string{"/model_info": `{"weight_version":"aliquot-resumed/"}`}, true, false},
		"SGLang without the memory saver": {map[string]string{"/model_info": `{"weight_version":"default"}`, "/get_server_info": `{"enable_memory_saver":false}`}, false, true},
		"SGLang without weight versions":  {map[string]string{"/model_info": `{"model_path":"m"}`}, false, true},
		"another":                         {nil, false, true},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			text, ok := c.answers[r.URL.Path]
			if !ok {
				http.NotFound(w, r)
				return
			}
			io.WriteString(w, text)
		}))
		mode := SleepMode{Client: http.DefaultTransport, Scheme: "http", Level: 1}
		sleeps, err := mode.Asleep(t.Context(), strings.TrimPrefix(server.URL, "http://"))
		if sleeps != c.sleeps || errors.Is(err, ErrNoSleep) != c.cannot || err != nil && !c.cannot {
			t.Errorf("%s: %t, %v", name, sleeps, err)
		}
		server.Close()
	}
}
