package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/cli"
	"github.com/hashicorp/hcl/v2/hclparse"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/pack"
	"aliquot.example/internal/steer"
)

// What -var gives is read by HCL as it was meant; a variable counts as it is given last.
func TestVariablesOfAJob(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vars.hcl")
	if err := os.WriteFile(path, []byte("from = \"file\"\na = 7\ntwice = 1\ntext = <<EOT\nlong\nEOT\nlong = <<EOT\n${\"two\"}\nlines\nEOT\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	later := filepath.Join(t.TempDir(), "later.hcl")
	if err := os.WriteFile(later, []byte("twice = 2 # a comment"), 0o644); err != nil {
		t.Fatal(err)
	}
	f := jobFile{files: list{path, later}, vars: list{"a=1", "model=org/name:7b", "a=2", "on=true", "sizes=[1, 2]", "text=say \"${x}\" %{y}", "empty="}}
	text, err := f.variables()
	if err != nil {
		t.Fatal(err)
	}
	file, problems := hclparse.NewParser().ParseHCL([]byte(text), "vars")
	if problems.HasErrors() {
		t.Fatalf("%v\n%s", problems, text)
	}
	attributes, _ := file.Body.JustAttributes()
	for name, want := range map[string]string{"model": "org/name:7b", "text": `say "${x}" %{y}`, "empty": "", "from": "file", "long": "two\nlines\n"} {
		v, problems := attributes[name].Expr.Value(nil)
		if problems.HasErrors() || v.AsString() != want {
			t.Errorf("%s is %#v, %v, want %q", name, v, problems, want)
		}
	}
	if v, _ := attributes["a"].Expr.Value(nil); v.AsBigFloat().String() != "2" {
		t.Errorf("a is %#v", v)
	}
	if v, _ := attributes["twice"].Expr.Value(nil); v.AsBigFloat().String() != "2" {
		t.Errorf("twice is %#v", v)
	}
	if v, _ := attributes["sizes"].Expr.Value(nil); v.LengthInt() != 2 {
		t.Errorf("sizes is %#v", v)
	}
	if err := os.WriteFile(later, []byte("a ="), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := f.variables(); err == nil || !strings.Contains(err.Error(), later) {
		t.Errorf("a file that is no HCL: %v", err)
	}
	for _, bad := range []string{"x", "=1", "a b=1", "x\n=1"} {
		if _, err := (jobFile{vars: list{bad}}).variables(); err == nil {
			t.Errorf("-var %q is taken", bad)
		}
	}
}

// The policy is the flag's, else the job's own, else fragmentation.
func TestPolicyOfAJob(t *testing.T) {
	for _, c := range []struct {
		flag, meta string
		want       pack.Policy
	}{{"", "", pack.Fragmentation}, {"", "spread", pack.Spread}, {"none", "spread", pack.None}} {
		got, err := jobFile{policy: c.flag}.policyOf(&nomad.Job{Meta: map[string]string{packMeta: c.meta}})
		if err != nil || got != c.want {
			t.Errorf("%+v: %s, %v", c, got, err)
		}
	}
	if _, err := (jobFile{}).policyOf(&nomad.Job{Meta: map[string]string{packMeta: "tetris"}}); err == nil || !strings.Contains(err.Error(), packMeta) {
		t.Errorf("a job with an unknown policy: %v", err)
	}
}

// What inspect prints can be pasted: it is HCL with the blocks that Apply adds.
func TestInspectPrintsBlocks(t *testing.T) {
	class := pack.Start().Classes()[0]
	added := pack.Steer(pack.Fragmentation, class)
	for where, text := range map[string]string{"group": steer.Group(added), "device": steer.Device(added)} {
		if _, problems := hclparse.NewParser().ParseHCL([]byte(text), where); problems.HasErrors() {
			t.Errorf("%s: %v\n%s", where, problems, text)
		}
	}
	id := "chat"
	s := steered{job: &nomad.Job{ID: &id}, policy: pack.Fragmentation, from: "a file", changes: []steer.Change{
		{Group: "server", Ask: class.Typical, Class: class, Added: added, Removed: 3}, {Group: "web", Notes: []string{"no class"}},
	}, joined: []steer.Joined{{Group: "server", Count: 4, Constraint: nomad.NewConstraint("a", "=", "b"), Note: "it counts 4 whole GPUs"}}}
	text := s.text()
	for _, part := range []string{"Note: it counts 4 whole GPUs.", "policy fragmentation", "from a file", class.Attribute(), "replaces 3 blocks of an earlier run", "Group web", "The policy adds nothing", "Note: no class."} {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in\n%s", part, text)
		}
	}
}

// What a request for an island means, or why it has none, is also said where nothing is
// printed but warnings.
func TestNotesOfIslandsAreSaid(t *testing.T) {
	ui := cli.NewMockUi()
	steered{joined: []steer.Joined{
		{Device: "clear", Constraint: nomad.NewConstraint("a", "=", "b")},
		{Device: "unclear", Constraint: nomad.NewConstraint("a", "=", "b"), Note: "it counts 4 whole GPUs"},
		{Device: "single", Note: "there is nothing to join"},
	}}.printNotes(ui)
	got := ui.ErrorWriter.String()
	if strings.Contains(got, "device clear") || !strings.Contains(got, "device unclear: it counts") || !strings.Contains(got, "device single: island not requested") {
		t.Errorf("warnings are\n%s", got)
	}
}

// A job in JSON needs no parser.
func TestAJobInJSON(t *testing.T) {
	for text, want := range map[string]string{`{"Job": {"ID": "a"}}`: "a", ` {"ID": "b"}`: "b"} {
		job, err := jobFile{}.parse(nil, text)
		if err != nil || *job.ID != want {
			t.Errorf("%s: %+v, %v", text, job, err)
		}
	}
	for text, want := range map[string]string{
		`{"Name": "c"}`: "no job with an ID",
		`{"ID": ""}`:    "no job with an ID",
		`{"ID": "a"`:    "is not valid JSON",
		`{"Job": {"ID": "a", "TaskGroups": [{"Tasks": [{"Resources": {"Devices": [null]}}]}]}}`: "the JSON.Job.TaskGroups[0].Tasks[0].Resources.Devices[0] is null",
		`{"ID": "a", "TaskGroups": [null]}`:                                                     "the JSON.TaskGroups[0] is null",
	} {
		if _, err := (jobFile{}).parse(nil, text); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q on one line", text, err, want)
		}
	}
}
