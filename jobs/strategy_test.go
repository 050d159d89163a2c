package jobs

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/reference"
	"aliquot.example/internal/scale"
)

// scaled returns the job files with a variable strategy, by name.
func scaled(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for name, text := range files(t) {
		if strings.Contains(text, `variable "strategy"`) {
			found[name] = text
		}
	}
	if len(found) < 5 {
		t.Fatalf("found only %d files with policies", len(found))
	}
	return found
}

// policySettings are those that the variable strategy may hold; the hardware has
// variables of its own.
func policySettings(t *testing.T) (names []string) {
	t.Helper()
	for name := range reference.Section(t, "A policy's strategy") {
		if !slices.Contains([]string{"slots", "max", "class", "classes"}, name) {
			names = append(names, name)
		}
	}
	if len(names) < 10 {
		t.Fatalf("found only the settings %v", names)
	}
	return names
}

// The variable strategy reaches the policy whole: a setting that a file forgot would
// be ignored without a word.
func TestEveryStrategySettingIsPassedOn(t *testing.T) {
	settings := policySettings(t)
	for name, text := range scaled(t) {
		for _, setting := range settings {
			if !regexp.MustCompile(`\b` + setting + ` += lookup\(var\.strategy, "` + setting + `", ""\)`).MatchString(text) {
				t.Errorf("%s: the setting %s does not reach the policy", name, setting)
			}
		}
	}
}

// parse is what nomad job run does with a file and its variables.
func parse(client *api.Client, text, variables string) (*api.Job, error) {
	if strings.Contains(text, `variable "image" {`) {
		variables += "\nimage = \"x\""
	}
	return client.Jobs().ParseHCLOpts(&api.JobsParseRequest{JobHCL: text, Variables: variables, Canonicalize: true})
}

// A key of the variable that the strategy does not have is refused with those that it
// has.
func TestMisspeltStrategySettingsAreRefused(t *testing.T) {
	client, settings := startNomad(t), policySettings(t)
	for name, text := range scaled(t) {
		var whole strings.Builder
		for _, setting := range settings {
			fmt.Fprintf(&whole, "%s = \"1\"\n", setting)
		}
		if _, err := parse(client, text, "strategy = {\n"+whole.String()+"}"); err != nil {
			t.Errorf("%s: all settings: %v", name, err)
		}
		_, err := parse(client, text, `strategy = { standby = "1", stand_by = "1" }`)
		if err == nil {
			t.Errorf("%s: a misspelt setting is accepted", name)
			continue
		}
		for _, setting := range settings {
			if !strings.Contains(err.Error(), setting) {
				t.Errorf("%s: the refusal does not name %s: %v", name, setting, err)
			}
		}
	}
}

// The two classes of a policy are written once: the query counts in what the strategy
// plans in.
func TestTwoClassesAskForTheLoadOfTheirClasses(t *testing.T) {
	client := startNomad(t)
	text := files(t)["scaling-two-classes.nomad.hcl"]
	for given, want := range map[string]string{
		"":                                "h100 slots=8 cost=8 max=4 speed=1, t4 slots=2 cost=1 max=8 speed=1",
		`speeds = { h100 = 1, t4 = 0.1 }`: "h100 slots=8 cost=8 max=4 speed=1, t4 slots=2 cost=1 max=8 speed=0.1",
	} {
		job, err := parse(client, text, given+"\nquery_window = \"20m\"")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := scale.ParseClasses(want); err != nil {
			t.Fatal(err)
		}
		for _, group := range job.TaskGroups {
			whole := fmt.Sprint(group.Scaling.Policy)
			for _, part := range []string{"query:load service=app classes='" + want + "'", "classes:" + want, "class:" + *group.Name, "query_window:20m"} {
				if !strings.Contains(whole, part) {
					t.Errorf("group %s has no %q: %s", *group.Name, part, whole)
				}
			}
		}
	}
	if _, err := parse(client, text, `speeds = { tt4 = 0.1 }`); err == nil {
		t.Error("a speed of a class that there is not is accepted")
	}
}
