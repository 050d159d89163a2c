package main

import (
	"slices"
	"testing"

	nomad "github.com/hashicorp/nomad/api"
)

func TestModelsOfAJob(t *testing.T) {
	task := func(driver string, models any) *nomad.Task {
		return &nomad.Task{Driver: driver, Config: map[string]any{"models": models}}
	}
	job := &nomad.Job{TaskGroups: []*nomad.TaskGroup{
		{Tasks: []*nomad.Task{task("aliquot", []any{"hf://a/b", "hf://a/c"}), task("docker", []any{"hf://a/d"}), {Driver: "aliquot"}}},
		{Tasks: []*nomad.Task{task("aliquot", []any{"hf://a/c", 5}), task("aliquot", "hf://a/e")}},
	}}
	if got := modelsOf(job); !slices.Equal(got, []string{"hf://a/b", "hf://a/c"}) {
		t.Errorf("the models are %v", got)
	}
}
