package main

import (
	"errors"
	"slices"
	"testing"

	nomad "github.com/hashicorp/nomad/api"
)

func TestItemsOfAJob(t *testing.T) {
	id, namespace := "chat", "team"
	task := func(driver string, config map[string]any) *nomad.Task {
		return &nomad.Task{Name: "server", Driver: driver, Config: config}
	}
	job := &nomad.Job{ID: &id, Namespace: &namespace, TaskGroups: []*nomad.TaskGroup{
		{Tasks: []*nomad.Task{
			task("aliquot", map[string]any{"models": []any{"hf://a/b", "hf://a/c@v1"}, "image": "vllm/vllm-openai:v1", "compile_cache": true}),
			task("docker", map[string]any{"models": []any{"hf://a/d"}, "image": "x:1"}), {Driver: "aliquot"},
		}},
		{Tasks: []*nomad.Task{task("aliquot", map[string]any{"models": []any{"hf://a/b", 5}, "image": "always/pulled"}), task("aliquot", map[string]any{"models": "hf://a/e", "image": "${attr.x}:1"})}},
	}}
	want := []string{"hf://a/b@main", "hf://a/c@v1", "image://vllm/vllm-openai:v1", "compiled://team/chat"}
	if got, err := itemsOf(job, ""); err != nil || !slices.Equal(got, want) {
		t.Errorf("the items are %v, %v", got, err)
	}
	job.TaskGroups = nil
	if got, err := itemsOf(job, ""); err == nil {
		t.Errorf("of nothing %v", got)
	}
}

func TestImagesByHardware(t *testing.T) {
	images := map[string]any{"images": []any{map[string]any{"cuda": "app:cuda", "rocm": "app:rocm", "cpu": "app:cpu"}}}
	tags := map[string]any{"image": "app", "image_tag_by_hardware": true}
	variants := map[string]any{"image": "app:1", "variant": []any{
		map[string]any{"fp8": []any{map[string]any{"image": "app:1-fp8", "vendor": "nvidia"}}},
		map[string]any{"rocm": []any{map[string]any{"image": "app:1-rocm", "vendor": "amd"}}},
		map[string]any{"other": []any{map[string]any{}}},
	}}
	for _, c := range []struct {
		config map[string]any
		vendor string
		want   []string
	}{
		{images, "nvidia", []string{"app:cuda"}}, {images, "amd", []string{"app:rocm"}}, {images, "cpu", []string{"app:cpu"}}, {images, "intel", nil},
		{tags, "nvidia", []string{"app:nvidia"}}, {variants, "nvidia", []string{"app:1-fp8", "app:1"}}, {variants, "cpu", []string{"app:1"}},
	} {
		if got, err := imagesOf(c.config, c.vendor); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%v on %s: %v, %v; want %v", c.config, c.vendor, got, err, c.want)
		}
	}
	for _, config := range []map[string]any{images, tags, variants} {
		if got, err := imagesOf(config, ""); !errors.Is(err, errVendor) {
			t.Errorf("%v without a vendor: %v, %v", config, got, err)
		}
	}
}
