package aliquot

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/nomad/drivers/docker"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	"github.com/zclconf/go-cty/cty"

	"aliquot.example/internal/reference"
)

// ours lists the attributes that a schema has beside those of the docker driver, with
// their types and the literals of their defaults.
func ours(t *testing.T, schema, ofDocker *hclspec.Spec) (kinds, defaults map[string]string) {
	t.Helper()
	kinds, defaults = map[string]string{}, map[string]string{}
	var walk func(path string, spec *hclspec.Spec)
	walk = func(path string, spec *hclspec.Spec) {
		if d := spec.GetDefault(); d != nil {
			defaults[path] = d.Default.GetLiteral().Value
			spec = d.Primary
		}
		if block := spec.GetBlockValue(); block != nil {
			for name, nested := range block.Nested.GetObject().Attributes {
				walk(path+"."+name, nested)
			}
			return
		}
		kinds[path] = map[string]string{"list(string)": "list of strings", "any": ""}[spec.GetAttr().Type]
		if kinds[path] == "" && spec.GetAttr().Type != "any" {
			kinds[path] = spec.GetAttr().Type
		}
	}
	for name, spec := range schema.GetObject().Attributes {
		if ofDocker.GetObject().Attributes[name] == nil {
			walk(name, spec)
		}
	}
	return kinds, defaults
}

// docs/configuration.md lists every option that the docker driver does not have,
// with its type and default.
func TestTheReferenceIsThatOfTheDriver(t *testing.T) {
	config, task := schemas(t)
	d := docker.NewDockerDriver(t.Context(), hclog.NewNullLogger())
	ofConfig, _ := d.ConfigSchema()
	ofTask, _ := d.TaskConfigSchema()
	for heading, c := range map[string]struct{ ours, docker *hclspec.Spec }{"Task driver": {config, ofConfig}, "A task's config": {task, ofTask}} {
		kinds, defaults := ours(t, c.ours, c.docker)
		for key, setting := range reference.Compare(t, heading, kinds) {
			if !reflect.DeepEqual(literal(t, setting.Default), literal(t, defaults[key])) {
				t.Errorf("%s: %s has the default %s, on the page %s", heading, key, defaults[key], setting.Default)
			}
		}
	}
}

func literal(t *testing.T, text string) cty.Value {
	t.Helper()
	if text == "" {
		return cty.NilVal
	}
	file, problems := hclparse.NewParser().ParseHCL([]byte("x = "+text+"\n"), "literal")
	if problems.HasErrors() {
		t.Fatal(problems)
	}
	attributes, _ := file.Body.JustAttributes()
	value, _ := attributes["x"].Expr.Value(nil)
	return value
}

// The keys of a variant, which no schema holds: those that the page lists are read,
// and the message about an unknown key names the same.
func TestTheReferenceListsTheKeysOfAVariant(t *testing.T) {
	page := reference.Section(t, "A variant")
	_, err := readVariant("v", map[string]any{"nothing": "x"})
	if err == nil {
		t.Fatal("an unknown key is accepted")
	}
	_, names, _ := strings.Cut(err.Error(), "use ")
	known := strings.Fields(strings.NewReplacer(",", " ", " or ", " ").Replace(names))
	listed := map[string]bool{}
	for key := range page {
		name, _, _ := strings.Cut(key, ".")
		listed[name] = true
	}
	slices.Sort(known)
	if got := slices.Sorted(maps.Keys(listed)); !slices.Equal(got, known) {
		t.Errorf("the page lists %v, the driver takes %v", got, known)
	}
	c, err := readConstraints(map[string]any{"attribute": "memory", "value": "1 GiB"})
	if err != nil || len(c) != 1 || c[0].Operator != page["constraint.operator"].Text() {
		t.Errorf("a constraint without operator is %+v, %v", c, err)
	}
}
