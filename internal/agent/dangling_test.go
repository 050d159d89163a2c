package agent

import (
	"encoding/json"
	"strings"
	"testing"
)

// One rule for both forms in which the configuration is read: the agent's files, and
// what its API answers.
func TestCollectsFromFilesAndFromTheAPI(t *testing.T) {
	for _, c := range []struct {
		files, api string
		on, known  bool
	}{
		{`plugin "docker" {}`, `null`, true, true},
		{`plugin "docker" { config { allow_privileged = true } }`, `{"allow_privileged":true}`, true, true},
		{`plugin "docker" { config { gc { image = false } } }`, `{"gc":[{"image":false}]}`, true, true},
		{`plugin "docker" { config { gc { dangling_containers { enabled = false } } } }`, `{"gc":[{"dangling_containers":[{"enabled":false}]}]}`, false, true},
		{`plugin "docker" { config { gc { dangling_containers { enabled = "false" } } } }`, `{"gc":[{"dangling_containers":[{"enabled":"false"}]}]}`, false, true},
		{`plugin "docker" { config { gc { dangling_containers { dry_run = true } } } }`, `{"gc":[{"dangling_containers":[{"dry_run":true}]}]}`, false, true},
		{`plugin "docker" { config { gc { dangling_containers { enabled = "no" } } } }`, `{"gc":[{"dangling_containers":[{"enabled":"no"}]}]}`, false, false},
	} {
		config := Config{Options: map[string]string{}}
		if err := config.Merge(strings.NewReplacer("{ ", "{\n", " }", "\n}").Replace(c.files)); err != nil {
			t.Fatal(err)
		}
		var api any
		if err := json.Unmarshal([]byte(c.api), &api); err != nil {
			t.Fatal(err)
		}
		for form, docker := range map[string]any{"files": config.Docker, "API": api} {
			on, known := Collects(docker)
			if known != c.known || known && on != c.on {
				t.Errorf("%s by %s: on %v, known %v", c.files, form, on, known)
			}
		}
	}
}

func TestDescend(t *testing.T) {
	block := map[string]any{"a": []any{map[string]any{"b": 1}, map[string]any{"b": 2}}, "c": []map[string]any{{"b": 3}}, "d": []any{}}
	for keys, want := range map[string]any{"a b": 2, "c b": 3, "d b": nil, "a x": nil, "a b c": nil} {
		if got, ok := Descend(block, strings.Fields(keys)...); got != want || ok != (want != nil) {
			t.Errorf("%s: %v, %v", keys, got, ok)
		}
	}
}
