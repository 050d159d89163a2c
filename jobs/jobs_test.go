// Package jobs holds the job files that users run; it has tests only.
package jobs

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/reference"
)

// files returns the job files, by name.
func files(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("*.nomad.hcl")
	if err != nil || len(paths) < 10 {
		t.Fatalf("found %d job files, %v", len(paths), err)
	}
	found := map[string]string{}
	for _, path := range paths {
		found[path] = read(t, path)
	}
	return found
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// required are values for the variables that have no default.
var required = map[string]string{"image": "registry.example.com/app"}

// Every file is accepted by a real Nomad with only what it requires.
func TestNomadAcceptsEveryJob(t *testing.T) {
	client := startNomad(t)
	ids := map[string]string{}
	for name, text := range files(t) {
		var given strings.Builder
		for _, v := range variables(t, name, text) {
			if value, ok := required[v.name]; ok && v.attributes["default"] == nil {
				given.WriteString(v.name + " = \"" + value + "\"\n")
			}
		}
		job, err := client.Jobs().ParseHCLOpts(&api.JobsParseRequest{JobHCL: text, Variables: given.String(), Canonicalize: true})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		answer, _, err := client.Jobs().Validate(job, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if answer.Error != "" || len(answer.ValidationErrors) > 0 || answer.Warnings != "" {
			t.Errorf("%s: %s %q, warnings %q", name, answer.Error, answer.ValidationErrors, answer.Warnings)
		}
		pullsHaveTime(t, name, job)
		// A file run as it is must not replace another one's job; the scaled
		// services are alternatives to each other.
		if *job.ID == "app" {
			continue
		}
		if other := ids[*job.ID]; other != "" {
			t.Errorf("%s and %s are both job %q", name, other, *job.ID)
		}
		ids[*job.ID] = name
	}
}

// pullsHaveTime fails for a container whose image may not take longer than the docker
// driver's 5 minutes for the whole pull.
func pullsHaveTime(t *testing.T, name string, job *api.Job) {
	t.Helper()
	check := func(task, driver string, config map[string]any) {
		limit, _ := config["image_pull_timeout"].(string)
		if d, err := time.ParseDuration(limit); (driver == "aliquot" || driver == "docker") && (err != nil || d < 30*time.Minute) {
			t.Errorf("%s: image_pull_timeout of task %s is %q: want an hour", name, task, limit)
		}
	}
	for _, g := range job.TaskGroups {
		for _, task := range g.Tasks {
			check(task.Name, task.Driver, task.Config)
		}
		for _, s := range g.Services {
			if s.Connect != nil && s.Connect.SidecarTask != nil {
				check("sidecar of "+s.Name, s.Connect.SidecarTask.Driver, s.Connect.SidecarTask.Config)
			}
		}
	}
}

func TestJobsAreFormatted(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), nomadBinary(t), "fmt", "-check", ".").CombinedOutput()
	if err != nil {
		t.Errorf("nomad fmt jobs/ changes: %s", out)
	}
}

// What a file needs and does, how it is run and what each variable means stand at
// its top.
func TestEveryJobExplainsItself(t *testing.T) {
	for name, text := range files(t) {
		header, _, _ := strings.Cut(text, "\n\n")
		for _, want := range []string{"# Needs:  ", "# Does:   ", "# Run:    nomad job run "} {
			if strings.Count(header, "\n"+want) != 1 {
				t.Errorf("%s: the comment at the top has no line %q", name, want)
			}
		}
		if !strings.HasSuffix(header, " jobs/"+name) {
			t.Errorf("%s: the command at the top does not end in the file's name", name)
		}
		all := variables(t, name, text)
		for _, v := range all {
			if v.attributes["description"] == nil {
				t.Errorf("%s: variable %s has no description", name, v.name)
			}
			if !strings.Contains(text, "var."+v.name) {
				t.Errorf("%s: variable %s is not used", name, v.name)
			}
			if v.attributes["default"] == nil && !strings.Contains(header, " -var "+v.name+"=") {
				t.Errorf("%s: variable %s has no default and the command at the top does not set it", name, v.name)
			}
		}
		// nomad/jobs/ is a folder of Nomad's variables.
		for _, path := range regexp.MustCompile(`(?:^|[^a-z/])(jobs/[a-z0-9./-]+[a-z])`).FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat("../" + path[1]); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

type variable struct {
	name       string
	attributes map[string]*hclsyntax.Attribute
}

func variables(t *testing.T, name, text string) (found []variable) {
	t.Helper()
	file, problems := hclparse.NewParser().ParseHCL([]byte(text), name)
	if problems.HasErrors() {
		t.Fatal(hcl.Diagnostics(problems))
	}
	for _, block := range file.Body.(*hclsyntax.Body).Blocks {
		if block.Type == "variable" {
			found = append(found, variable{block.Labels[0], block.Body.Attributes})
		}
	}
	return found
}

// The dashboard draws metrics that docs/operations.md explains, which is held to the
// programs.
func TestTheDashboardDrawsWhatThereIs(t *testing.T) {
	text := read(t, "grafana-dashboard.json")
	if !json.Valid([]byte(text)) {
		t.Fatal("grafana-dashboard.json is not JSON")
	}
	known := reference.Documented(t, "aliquot_")
	names := regexp.MustCompile(`\baliquot_[a-z_]+`).FindAllString(text, -1)
	if len(names) < 10 {
		t.Errorf("the dashboard names only %v", names)
	}
	for _, name := range names {
		if !slices.Contains(known, name) && !slices.Contains(known, strings.TrimSuffix(name, "_bucket")) {
			t.Errorf("the dashboard draws %s, which does not exist", name)
		}
	}
}
