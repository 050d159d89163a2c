// Package hclfile reads HCL configuration files. Its errors are one line that names the
// file, the line and what is wrong.
package hclfile

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Read returns the text of a file and the name that errors use for it. For the path "", which
// stands for the defaults, it returns no text.
func Read(path string) (text []byte, name string, err error) {
	if path == "" {
		return nil, "defaults", nil
	}
	if text, err = os.ReadFile(path); err != nil {
		return nil, "", fmt.Errorf("configuration file: %w", err)
	}
	return text, path, nil
}

// Decode decodes a text into a struct with hcl tags. Expressions can use the variables and
// functions of ctx, which may be nil. Blocks of the types in unlabelled may omit their only label,
// which then is "".
func Decode(text []byte, name string, ctx *hcl.EvalContext, into any, unlabelled ...string) error {
	file, diags := hclsyntax.ParseConfig(text, name, hcl.InitialPos)
	if !diags.HasErrors() {
		label(file, unlabelled)
		diags = gohcl.DecodeBody(file.Body, ctx, into)
	}
	for _, d := range diags {
		if d.Severity != hcl.DiagError {
			continue
		}
		at := hcl.Range{Filename: name, Start: hcl.InitialPos}
		if d.Subject != nil {
			at = *d.Subject
		}
		return fmt.Errorf("%s:%d: %s: %s", at.Filename, at.Start.Line, d.Summary,
			strings.Join(strings.Fields(d.Detail), " "))
	}
	return nil
}

// label adds an empty label to blocks of the given types that have none.
func label(file *hcl.File, types []string) {
	body, ok := file.Body.(*hclsyntax.Body)
	if !ok {
		return
	}
	for _, b := range body.Blocks {
		if slices.Contains(types, b.Type) && len(b.Labels) == 0 {
			b.Labels, b.LabelRanges = []string{""}, []hcl.Range{b.TypeRange}
		}
	}
}
