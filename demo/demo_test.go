package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/cluster"
	"aliquot.example/e2e/modelserver/hardware"
	"aliquot.example/internal/gpu"
)

func TestBurstIsTheSameOnEveryRunAndInOrder(t *testing.T) {
	calls := assign(burst())
	if !reflect.DeepEqual(calls, assign(burst())) {
		t.Fatal("two runs differ")
	}
	var total time.Duration
	for _, p := range phases {
		total += p.length
	}
	count := map[string]int{}
	for i, c := range calls {
		count[c.service]++
		if i > 0 && c.at < calls[i-1].at || c.at >= total || c.input < 1 || c.output < 1 {
			t.Fatalf("call %d: %+v", i, c)
		}
	}
	if calls[0].at != 0 || count[code] != len(calls)/4 || len(calls) < 200 {
		t.Errorf("first at %s, %v", calls[0].at, count)
	}
}

func TestTraceEndsAtItsLength(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trace.csv")
	if err := os.WriteFile(path, []byte("arrival_s,input_tokens,output_tokens\n1,5,0\n2,5,6\n3,5,7\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := readTrace(path, 3*time.Second)
	if err != nil || len(got) != 2 || assign(got)[0].output != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := readTrace(path, time.Second); err == nil || !strings.Contains(err.Error(), "use a longer -length") {
		t.Errorf("an empty part of a trace: %v", err)
	}
}

// A stream that is not whole is a lost request, whatever its status was.
func TestBrokenAnswersAreLost(t *testing.T) {
	event := func(finish string) string {
		return fmt.Sprintf("data: {\"system_fingerprint\":\"nvidia/t4/5of20\",\"choices\":[{\"finish_reason\":%s}]}\n\n", finish)
	}
	whole := `{"system_fingerprint":"amd/mi300x/5of20","choices":[{"finish_reason":"length"}],"usage":{"completion_tokens":%d}}`
	for _, test := range []struct {
		name, answer string
		stream       bool
		class, want  string
	}{
		{"stream", event("null") + event(`"length"`) + "data: [DONE]\n\n", true, "t4", ""},
		{"short stream", event(`"length"`) + "data: [DONE]\n\n", true, "t4", "after 1 of 2"},
		{"stream too long", event("null") + event("null") + event(`"length"`) + "data: [DONE]\n\n", true, "t4", "after 3 of 2"},
		{"broken stream", event("null") + event(`"length"`), true, "t4", "broke off after 2 of 2"},
		{"whole", fmt.Sprintf(whole, 2), false, "mi300x", ""},
		{"short", fmt.Sprintf(whole, 1), false, "mi300x", "does not have the 2 tokens"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, test.answer) }))
		r := newReplay(server.URL, []call{{service: chat, input: 1, output: 2, stream: test.stream}})
		r.run(t.Context())
		server.Close()
		got := r.ended()[0]
		if got.class != test.class || (got.problem == "") != (test.want == "") || !strings.Contains(got.problem, test.want) {
			t.Errorf("%s: %+v, want %q", test.name, got, test.want)
		}
	}
}

func TestRefusedRequestIsLostWithItsReason(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "queue is full", http.StatusServiceUnavailable)
	}))
	defer server.Close()
	r := newReplay(server.URL, []call{{service: chat, input: 1, output: 2}})
	r.run(t.Context())
	if sent, answered, lost := r.progress(); sent != 1 || answered != 0 || lost != 1 {
		t.Errorf("%d sent, %d answered, %d lost", sent, answered, lost)
	}
	if got := r.ended()[0].problem; !strings.Contains(got, "queue is full") {
		t.Errorf("the reason is %q", got)
	}
}

// sound is a run in which nothing is off.
func sound() *summary {
	began := time.Now()
	w := newWatch(&cluster.Cluster{})
	w.splits = []split{{began, chat, shares{"h100-s5of20": 100}}}
	w.actions = []action{{began, chat, "h100", 0, 1, "growing: demand 3.0"}}
	w.replicas["0123456789"] = &replica{service: chat, alloc: "0123456789", pulled: true, info: hardware.Info{
		Variant: "amd", Environment: map[string]string{"HSA_CU_MASK": "0:0-74"},
		Grant: &gpu.Grant{Vendor: gpu.AMD, Group: "mi300x-0", Class: "mi300x", Slices: 5, Total: 20, GPUs: []gpu.ID{"0000:05:00.0"}},
	}}
	return &summary{calls: 1, watch: w, began: began, toZero: time.Second, served: 1, results: []result{{call: call{service: chat}, first: time.Second, end: 2 * time.Second, class: "h100"}}}
}

func TestVerdictNamesWhatIsOff(t *testing.T) {
	if got := sound().verdict(); got != nil {
		t.Fatalf("a sound run: %q", got)
	}
	busy := sound()
	busy.others, busy.toZero = 3, -1
	if got := busy.verdict(); got != nil {
		t.Errorf("requests of somebody else keep replicas up: %q", got)
	}
	for want, spoil := range map[string]func(s *summary){
		"lost":                      func(s *summary) { s.results[0].problem = "EOF" },
		"not sent":                  func(s *summary) { s.calls = 2 },
		"the gateway says it":       func(s *summary) { s.served = 2 },
		"not back at zero":          func(s *summary) { s.toZero = -1 },
		"never routed to it":        func(s *summary) { s.watch.splits = nil },
		"never scaled":              func(s *summary) { s.watch.actions[0].reason = "aliquot gateway: a request waits" },
		"sees no GPU":               func(s *summary) { s.watch.replicas["0123456789"].info.Problem = "sees no GPU" },
		"has no CU mask":            func(s *summary) { s.watch.replicas["0123456789"].info.Environment = nil },
		"image for nvidia":          func(s *summary) { s.watch.replicas["0123456789"].info.Variant = "nvidia" },
		"want 5 of one":             func(s *summary) { s.watch.replicas["0123456789"].info.Grant.Slices = 4 },
		"was pulled":                func(s *summary) { s.watch.replicas["0123456789"].pulled = false },
		"no replica could be asked": func(s *summary) { clear(s.watch.replicas) },
	} {
		s := sound()
		spoil(s)
		if got := strings.Join(s.verdict(), "\n"); !strings.Contains(got, want) {
			t.Errorf("want %q, got %q", want, got)
		}
	}
}

func TestActionsAreKeptOnce(t *testing.T) {
	w, three := newWatch(&cluster.Cluster{}), int64(3)
	events := []nomad.ScalingEvent{{Time: 2, Count: &three, PreviousCount: 1}, {Time: 1, Message: "not a change of count"}}
	w.keepActions(chat, "t4", events)
	w.keepActions(chat, "t4", events)
	if len(w.actions) != 1 || w.actions[0].short() != "chat/t4 1 -> 3" {
		t.Errorf("%+v", w.actions)
	}
}

func TestQuantile(t *testing.T) {
	values := []time.Duration{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	if got := []time.Duration{quantile(values, 0.5), quantile(values, 0.99), quantile(nil, 0.5)}; got[0] != 6 || got[1] != 10 || got[2] != 0 {
		t.Errorf("%v", got)
	}
}

// The causes of a cold start add up to all of it, whichever replica was ready first.
func TestAColdStartIsSplitByCause(t *testing.T) {
	asked := time.Unix(1000, 0)
	event := func(after time.Duration, parts ...string) *nomad.TaskEvent {
		e := &nomad.TaskEvent{Time: asked.Add(after).UnixNano(), Details: map[string]string{}}
		for i := 0; i < len(parts); i += 2 {
			e.Details["start_"+parts[i]+"_seconds"] = parts[i+1]
		}
		return e
	}
	stub := func(placed time.Duration, events ...*nomad.TaskEvent) *nomad.AllocationListStub {
		return &nomad.AllocationListStub{CreateTime: asked.Add(placed).UnixNano(), TaskStates: map[string]*nomad.TaskState{"server": {Events: events}}}
	}
	s := coldStart{service: chat, which: "first", asked: asked, answered: asked.Add(8 * time.Second)}
	s.take([]*nomad.AllocationListStub{
		stub(-time.Hour, event(-time.Hour, "load", "3")), // of an earlier start
		stub(time.Second, event(9*time.Second, "load", "6")),
		stub(time.Second, event(2*time.Second), event(7*time.Second, "image", "1.5", "container", "0.5", "load", "3")),
	})
	var out strings.Builder
	printStarts(&out, []coldStart{s, {service: code, which: "again", asked: asked, answered: asked.Add(time.Second)}})
	lines := strings.Split(out.String(), "\n")
	if got := strings.Join(strings.Fields(lines[2]), " "); got != "chat first 2.00 s 1.50 s 0.00 s 0.00 s 0.50 s 3.00 s 1.00 s 8.00 s" {
		t.Error(got)
	}
	if got := strings.Join(strings.Fields(lines[3]), " "); got != "code again - - - - - - - 1.00 s" {
		t.Error(got)
	}
	// The driver's word can come after the answer.
	s.answered = asked.Add(6 * time.Second)
	out.Reset()
	printStarts(&out, []coldStart{s})
	if got := strings.Join(strings.Fields(strings.Split(out.String(), "\n")[2]), " "); got != "chat first 2.00 s 1.50 s 0.00 s 0.00 s 0.50 s 2.00 s 0.00 s 6.00 s" {
		t.Error(got)
	}
}

// What is wider than the terminal goes on below its own column, and nothing is lost.
func TestScreenFoldsWhatIsTooWide(t *testing.T) {
	text := "GPU       SLICES  TASKS\nh100-0    [AA.]   A chat 5, B chat 5, C code 3\n\n" +
		"last scaling    2 s ago  chat/t4 2 -> 1: shrinking: load 4.3\nword    " + strings.Repeat("x", 50) + "\n"
	want := []string{
		"GPU       SLICES  TASKS", "h100-0    [AA.]   A chat 5, B", "                  chat 5, C code", "                  3", "",
		"last scaling    2 s ago  chat/t4", "                2 -> 1:", "                shrinking: load", "                4.3",
		"word    " + strings.Repeat("x", 24), "        " + strings.Repeat("x", 24), "        xx",
	}
	if got := screen(text, 32, 40); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := screen(text, 32, 4); len(got) != 3 {
		t.Errorf("%d lines in a terminal of 4", len(got))
	}
	for width := 1; width < 40; width++ {
		for _, line := range screen(text, width, 1000) {
			if len(line) > width {
				t.Fatalf("%q is wider than %d", line, width)
			}
		}
	}
}
