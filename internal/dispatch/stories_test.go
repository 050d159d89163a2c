package dispatch

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// Each file of testdata is a story of one behaviour: commands to a queue, and beneath
// each what the queue does. `go test ./internal/dispatch -run TestStories -rewrite` writes
// what it does now; read the difference.
//
//	policy [mode=tokens] [theta=N] [priorities=N] [max-queue=N] [await-class] [failures=N] [ahead=N]
//	rule NAME [require=CLASS] [prefer=CLASS]
//	tenant NAME|any [weight=N] [active=N] [queue=N]
//	replica NAME [class=C] [slots=N] [weight=N] [sleep=asleep|drowsy|waking|awake|away]
//	drop NAME
//	teach REPLICA=TIME ... [times=N]   requests that take so long on each replica
//	request                            a request a line: NAME [tenant= priority= rule= deadline= expire=]
//	end NAME=served|failed|unreachable|busy|neutral ...
//	wait TIME                          time passes
//	run N                              N times: what is served ends after 1 s, and the next starts
//	wake TIME                         who is woken, where waking takes TIME
//	replicas                           how the replicas are
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &story{now: epoch, rules: map[string]int{}, running: map[string]*Ticket{}}
		s.policy.Placements = []Placement{{}}
		s.policy.Tenants = map[string]Limits{}
		datadriven.RunTest(t, path, s.tell)
	})
}

// story is the state of one file.
type story struct {
	q       *Queue
	policy  Policy
	now     time.Time
	rules   map[string]int
	running map[string]*Ticket
}

// words are the arguments of one command by their names.
type words map[string]string

func wordsOf(args []datadriven.CmdArg) words {
	w := words{}
	for _, a := range args {
		w[a.Key] = strings.Join(a.Vals, ",")
	}
	return w
}

func (w words) number(t *testing.T, key string) float64 {
	t.Helper()
	if w[key] == "" {
		return 0
	}
	n, err := strconv.ParseFloat(w[key], 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (w words) length(t *testing.T, key string, or time.Duration) time.Duration {
	t.Helper()
	if w[key] == "" {
		return or
	}
	d, err := time.ParseDuration(w[key])
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (s *story) tell(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	args := d.CmdArgs
	name := ""
	if len(args) > 0 {
		name = args[0].Key
	}
	w := wordsOf(args)
	if s.q == nil && !slices.Contains([]string{"policy", "rule", "tenant"}, d.Cmd) {
		s.q = New(s.policy)
	}
	switch d.Cmd {
	case "policy", "rule", "tenant":
		s.set(t, d.Cmd, name, w)
		return ""
	case "replica":
		s.q.Put(Replica{ID: name, Class: w["class"], Slots: int(w.number(t, "slots")), Weight: w.number(t, "weight"),
			Sleep: sleeps[w["sleep"]]})
		return s.serve()
	case "drop":
		s.q.Drop(name)
		return s.serve()
	case "teach":
		return s.teach(t, args, int(w.number(t, "times")))
	case "request":
		return s.request(t, d.Input)
	case "end":
		return s.end(t, args)
	case "wait":
		s.now = s.now.Add(words{"for": name}.length(t, "for", 0))
		return s.serve()
	case "run":
		return s.run(int(words{"n": name}.number(t, "n")))
	case "wake":
		return s.toWake(words{"takes": name}.length(t, "takes", 0))
	case "replicas":
		return s.replicas()
	}
	d.Fatalf(t, "unknown command %s", d.Cmd)
	return ""
}

func (s *story) set(t *testing.T, cmd, name string, w words) {
	switch cmd {
	case "policy":
		if w["mode"] == "tokens" {
			s.policy.Mode = Tokens
		}
		_, s.policy.AwaitClass = w["await-class"]
		s.policy.Theta, s.policy.Priorities = w.number(t, "theta"), int(w.number(t, "priorities"))
		s.policy.SendAhead = int(w.number(t, "ahead"))
		s.policy.MaxQueue, s.policy.Eject.Failures = int(w.number(t, "max-queue")), int(w.number(t, "failures"))
	case "rule":
		var p Placement
		if w["require"] != "" {
			p.Require = strings.Split(w["require"], ",")
		}
		if w["prefer"] != "" {
			p.Prefer = strings.Split(w["prefer"], ",")
		}
		s.rules[name] = len(s.policy.Placements)
		s.policy.Placements = append(s.policy.Placements, p)
	case "tenant":
		if name == "any" {
			name = ""
		}
		s.policy.Tenants[name] = Limits{Weight: w.number(t, "weight"), MaxActive: int(w.number(t, "active")),
			MaxQueue: int(w.number(t, "queue"))}
	}
}

// serve starts what can start, and says when to look again.
func (s *story) serve() string {
	var b strings.Builder
	for k := s.q.Next(s.now); k != nil; k = s.q.Next(s.now) {
		r, _ := k.Replica()
		fmt.Fprintf(&b, "%v starts on %s\n", k.Value, r.ID)
		s.running[fmt.Sprint(k.Value)] = k
	}
	for k := s.q.Evicted(); k != nil; k = s.q.Evicted() {
		fmt.Fprintf(&b, "%v makes room\n", k.Value)
	}
	if wake := s.q.LookAgain(); !wake.IsZero() {
		fmt.Fprintf(&b, "looks again in %s\n", wake.Sub(s.now).Round(time.Millisecond))
	}
	return b.String()
}

func (s *story) teach(t *testing.T, args []datadriven.CmdArg, times int) string {
	seconds := map[string]float64{}
	for _, a := range args {
		if a.Key != "times" {
			seconds[a.Key] = words{"takes": a.Vals[0]}.length(t, "takes", 0).Seconds()
		}
	}
	teach(s.q, seconds, max(times, 100))
	return ""
}

func (s *story) request(t *testing.T, lines string) string {
	var b strings.Builder
	var waiting []*Ticket
	for line := range strings.Lines(lines) {
		name, args, err := datadriven.ParseLine(line)
		if err != nil {
			t.Fatal(err)
		}
		w := wordsOf(args)
		k := &Ticket{Value: name, Request: Request{Tenant: w["tenant"], Priority: int(w.number(t, "priority")),
			Placement: s.rules[w["rule"]], Expire: s.now.Add(w.length(t, "expire", time.Hour))}}
		if w["deadline"] != "" {
			k.Deadline = s.now.Add(w.length(t, "deadline", 0))
		}
		why, after := s.q.Submit(k, s.now)
		switch {
		case why == Accepted:
			waiting = append(waiting, k)
		case after > 0:
			fmt.Fprintf(&b, "%s is refused: %s; try again in %s\n", name, refusals[why], after.Round(time.Millisecond))
		default:
			fmt.Fprintf(&b, "%s is refused: %s\n", name, refusals[why])
		}
	}
	b.WriteString(s.serve())
	for _, k := range waiting {
		if k.waiting {
			fmt.Fprintf(&b, "%v waits\n", k.Value)
		}
	}
	return b.String()
}

var refusals = map[Refusal]string{QueueFull: "the queue is full", TenantFull: "its tenant's queue is full",
	TooLate: "it would be too late", NoSuchClass: "no replica has its class"}

var sleeps = map[string]Sleep{"asleep": Asleep, "drowsy": Draining, "waking": Waking, "away": Away}

var verdicts = map[string]Verdict{"served": Served, "neutral": Neutral, "failed": Failed,
	"unreachable": Unreachable, "busy": Busy}

func (s *story) end(t *testing.T, args []datadriven.CmdArg) string {
	for _, a := range args {
		k := s.running[a.Key]
		o, ok := verdicts[a.Vals[0]]
		if k == nil || !ok {
			t.Fatalf("%s=%s ends no request", a.Key, a.Vals[0])
		}
		delete(s.running, a.Key)
		s.q.Finish(k, o, 0, s.now)
	}
	return s.serve()
}

// run serves requests one after the other, where there is one slot, and says in which order.
func (s *story) run(n int) string {
	var order []string
	for range n {
		s.now = s.now.Add(time.Second)
		for name, k := range s.running {
			s.q.Finish(k, Served, 0, s.now)
			delete(s.running, name)
		}
		if k := s.q.Next(s.now); k != nil {
			name := fmt.Sprint(k.Value)
			order, s.running[name] = append(order, name), k
		}
	}
	return strings.Join(order, " ") + "\n"
}

func (s *story) toWake(takes time.Duration) string {
	if id, ok := s.q.ToWake(takes); ok {
		return id + " is woken\n"
	}
	return "nobody is woken\n"
}

func (s *story) replicas() string {
	var b strings.Builder
	states := s.q.Replicas()
	slices.SortFunc(states, func(a, b State) int { return strings.Compare(a.ID, b.ID) })
	for _, r := range states {
		fmt.Fprintf(&b, "%s: %d of %d slots busy", r.ID, r.Active, r.Slots)
		switch {
		case r.Ejected:
			b.WriteString(", ejected")
		case r.Probation:
			b.WriteString(", on probation")
		case r.Leaving:
			b.WriteString(", leaving")
		}
		b.WriteString("\n")
	}
	return b.String()
}
