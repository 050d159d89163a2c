package replay

import (
	"fmt"
	"os"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// strategyName is the label of the strategy block.
const strategyName = "aliquot-strategy"

// readPolicy returns a strategy's settings from "key=value,…" or from a file, and whether the
// policy's query is for load. The text form cannot set "classes", because its value contains
// commas.
func readPolicy(policy string) (settings map[string]string, load bool, err error) {
	if _, err := os.Stat(policy); err == nil || !strings.Contains(policy, "=") {
		return policyFile(policy)
	}
	settings = map[string]string{}
	for _, part := range strings.Split(policy, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || key == "" || settings[key] != "" {
			return nil, false, fmt.Errorf("-policy has %q: want each setting once, as key=value with commas between",
				part)
		}
		settings[key] = value
	}
	return settings, false, nil
}

// policyFile reads the first block strategy "aliquot-strategy", at any depth. In a file without
// blocks, the top level is the settings.
func policyFile(path string) (settings map[string]string, load bool, err error) {
	file, problems := hclparse.NewParser().ParseHCLFile(path)
	if problems.HasErrors() {
		return nil, false, oneLine(problems)
	}
	body, ok := file.Body.(*hclsyntax.Body)
	if !ok {
		return nil, false, fmt.Errorf("%s is not HCL", path)
	}
	found, check := findStrategy(body)
	if found == nil {
		if len(body.Blocks) > 0 {
			return nil, false, fmt.Errorf("%s has no block strategy %q", path, strategyName)
		}
		found, check = body, body
	}
	settings, err = fixedSettings(path, found)
	if query := check.Attributes["query"]; query != nil && check != found {
		// The service's name is often a variable, but the metric is fixed.
		text := strings.Trim(string(query.Expr.Range().SliceBytes(file.Bytes)), "\" \n")
		load = firstWord(text) == "load"
	}
	return settings, load, err
}

func fixedSettings(path string, found *hclsyntax.Body) (map[string]string, error) {
	settings := map[string]string{}
	for name, attribute := range found.Attributes {
		value, problems := attribute.Expr.Value(nil)
		if problems.HasErrors() {
			return nil,
				fmt.Errorf("%s:%d: %s is not a fixed value: the job's variables are not known here, "+
					"set it with a flag or in a separate file",
					path, attribute.SrcRange.Start.Line, name)
		}
		text, err := convert.Convert(value, cty.String)
		if err != nil || text.IsNull() {
			return nil, fmt.Errorf("%s:%d: %s: want a string or a number", path, attribute.SrcRange.Start.Line, name)
		}
		settings[name] = text.AsString()
	}
	return settings, nil
}

// findStrategy returns the strategy block and the block around it.
func findStrategy(body *hclsyntax.Body) (found, in *hclsyntax.Body) {
	for _, block := range body.Blocks {
		if block.Type == "strategy" && len(block.Labels) == 1 && block.Labels[0] == strategyName {
			return block.Body, body
		}
		if found, in = findStrategy(block.Body); found != nil {
			return found, in
		}
	}
	return nil, nil
}

func oneLine(problems hcl.Diagnostics) error {
	p := problems[0]
	if p.Subject == nil {
		return fmt.Errorf("%s: %s", p.Summary, p.Detail)
	}
	return fmt.Errorf("%s:%d,%d: %s: %s", p.Subject.Filename, p.Subject.Start.Line, p.Subject.Start.Column, p.Summary,
		strings.ReplaceAll(p.Detail, "\n", " "))
}
