package query

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"aliquot.example/internal/scale"
)

func TestParse(t *testing.T) {
	q, err := Parse("concurrency service=llm class=l4\n classes='h100 slots=8 cost=3.5 max=4, l4 slots=2 max=16' utilization=0.8")
	if err != nil || q.Metric != Concurrency || q.Service != "llm" || q.Class != "l4" || len(q.Classes) != 2 || q.Own() != 1 || q.Utilization != 0.8 {
		t.Fatalf("got %+v, %v", q, err)
	}
	for _, text := range []string{"concurrency service=llm", "queued service=a.b-c_9", " active  service=llm class=h100 ", "active service='llm'", "tokens service=llm", "tokens service=llm class=h100", "arriving service=llm", "attained service=llm", "above service=llm tpot=100ms", "load service=llm classes='h100 slots=8 max=4, t4 slots=2 max=8 speed=0.1'", "load service=llm class=t4 classes='h100 slots=8 max=4, t4 slots=2 max=8 speed=0.1'"} {
		if _, err := Parse(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestParseAboutNodes(t *testing.T) {
	q, err := Parse("nodes class=h100 pool=gpu node_class=big datacenter=eu-1 after='l4 max=4, a100' keep=90s standby=2x10 gpus=8 slices=20")
	want := Group{
		Pool: "gpu", NodeClass: "big", Datacenter: "eu-1", After: []Earlier{{"l4", 4}, {"a100", 0}}, Keep: 90 * time.Second,
		Standby: Standby{Replicas: 2, Slices: 10}, GPUs: 8, Slices: 20,
	}
	if err != nil || q.Metric != Nodes || q.Class != "h100" || !reflect.DeepEqual(q.Group, want) {
		t.Fatalf("got %+v, %v", q, err)
	}
	q, err = Parse("nodes class=h100 standby=1x4of1")
	if want := (Group{Keep: 5 * time.Minute, Standby: Standby{1, 4, 1}}); err != nil || !reflect.DeepEqual(q.Group, want) {
		t.Fatalf("got %+v, %v", q, err)
	}
	for _, text := range []string{"placed class=h100", "blocked class=h100 after=l4", "free class=h100 pool=gpu"} {
		if q, err := Parse(text); err != nil || !q.OfSlices() {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestParseNamesTheColumnOfTheMistake(t *testing.T) {
	for _, c := range []struct {
		text    string
		column  int
		problem string
	}{
		{"", 1, "metric is missing"},
		{"rate service=llm", 1, `unknown metric "rate"`},
		{"concurrency", 12, "service is missing"},
		{"concurrency service", 13, "want an argument here"},
		{"concurrency service=", 21, "no value"},
		{"concurrency service= llm", 22, "no value"},
		{"concurrency service=llm,class=a", 24, `unexpected ",": want a space`},
		{"concurrency service=l/m", 22, `unexpected "/": want a space`},
		{"concurrency service=/m", 21, "a value cannot start with"},
		{"concurrency service='l m'", 22, "want letters"},
		{"concurrency service=llm service=b", 25, "twice"},
		{"concurrency service='llm", 21, "no end"},
		{"concurrency service=llm size=3", 25, "unknown argument"},
		{"concurrency service=llm class=l4", 33, "class without classes"},
		{"concurrency service=llm class=l4 classes='h100 slots=8 max=4'", 62, "one of those"},
		{"concurrency service=llm class=l4 classes='h100 slots=x max=4'", 54, "whole number"},
		{"above service=llm", 18, "only above takes a limit"},
		{"attained service=llm ttft=2s", 29, "only above takes a limit"},
		{"above service=llm ttft=2", 24, "from 1ms to 1h"},
		{"above service=llm ttft=2s e2e=3s", 27, "both ttft and e2e"},
		{"attained service=llm class=h100", 32, "whole service"},
		{"queued service=llm class=l4", 28, "queued takes no class"},
		{"tokens service=llm classes='a slots=1 max=1'", 45, "tokens takes no classes"},
		{"active service=llm classes='a slots=1 max=1'", 45, "active takes no classes"},
		{"concurrency service=llm utilization=2", 37, "0.01 to 1"},
		{"load service=llm", 17, "load without classes"},
		{"load service=llm class=l4", 26, "load without classes"},
		{"load service=llm class=l4 classes='h100 slots=8 max=4'", 55, "one of those"},
		{"load service=llm classes='h100 slots=8 max=4 speed=0'", 52, "from 0.01"},
		{"concurrency service=llm class=a classes='a slots=8 max=4, b slots=1 max=1 speed=0.5'", 85, "ask for load"},
		{"nodes", 6, "class is missing"},
		{"nodes class=h100 service=llm", 18, `unknown argument "service" of nodes`},
		{"free class=h100 standby=2x10", 17, `unknown argument "standby" of free`},
		{"queued service=llm pool=gpu", 20, `unknown argument "pool" of queued`},
		{"nodes class=h100 standby=2", 26, "the number of replicas and the slices of each"},
		{"nodes class=h100 standby=0x10", 26, "the number of replicas and the slices of each"},
		{"nodes class=h100 standby=2x10of", 26, "the number of replicas and the slices of each"},
		{"nodes class=h100 standby=2x10of101", 26, "the number of replicas and the slices of each"},
		{"nodes class=h100 gpus=0 slices=20", 23, "whole number from 1"},
		{"nodes class=h100 gpus=8", 24, "both or neither"},
		{"nodes class=h100 keep=-1s", 23, "from 0s"},
		{"nodes class=h100 after='l4 most=4'", 25, "classes separated by commas"},
		{"nodes class=h100 after='l4 max=0'", 25, "whole number from 1"},
		{"nodes class=h100 after='l4,'", 25, "classes separated by commas"},
		{"nodes class=h100 after=h100", 28, "query itself"},
	} {
		_, err := Parse(c.text)
		var at *scale.SyntaxError
		if !errors.As(err, &at) || at.Column != c.column || !strings.Contains(at.Problem, c.problem) {
			t.Errorf("%q: got %v, want column %d, %q", c.text, err, c.column, c.problem)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("concurrency service=llm class=l4 classes='h100 slots=8 cost=3.5 max=4, l4 slots=2 max=16'")
	f.Add("load service=llm classes='h100 slots=8 max=4 speed=3, l4 slots=2 max=16'")
	f.Add("active service=llm")
	f.Add("queued service='")
	f.Add("nodes class=h100 after='l4 max=4' standby=2x10of20 gpus=8 slices=20")
	f.Fuzz(func(t *testing.T, text string) {
		q, err := Parse(text)
		if err != nil {
			var at *scale.SyntaxError
			if !errors.As(err, &at) || at.Column < 1 || at.Column > len(text)+1 {
				t.Fatalf("%q: error without a column of it: %v", text, err)
			}
			return
		}
		if q.OfSlices() != (q.Service == "") || q.OfSlices() && q.Class == "" || q.Class != "" && (q.Metric == Concurrency || q.Metric == Load) && q.Own() < 0 || q.Metric == Load && q.Classes == nil {
			t.Fatalf("%q: accepted as %+v", text, q)
		}
	})
}
