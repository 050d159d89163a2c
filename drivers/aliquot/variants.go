package aliquot

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/variant"
)

// spec reads and checks the images of a job, in all their forms.
func (c TaskConfig) spec() (variant.Spec, error) {
	s := variant.Spec{Image: c.Image, Images: c.Images, TagByHardware: c.ImageTagByHardware}
	// Nomad also passes the keys that a job does not set.
	maps.DeleteFunc(s.Images, func(_, image string) bool { return image == "" })
	var err error
	if s.Variants, err = readVariants(c.Variant); err != nil {
		return s, err
	}
	return s, s.Validate()
}

// attachmentTimeout returns the job's timeout or, without one, the driver's.
func (c TaskConfig) attachmentTimeout(ofDriver time.Duration) (time.Duration, error) {
	if c.AttachmentTimeout == "" {
		return ofDriver, nil
	}
	return positive("attachment_timeout", c.AttachmentTimeout)
}

func positive(key, value string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%s is %q: want a duration above zero such as \"30s\"", key, value)
	}
	return d, nil
}

// apply returns the configuration with the image, command and arguments of a choice.
func (c TaskConfig) apply(choice variant.Choice) TaskConfig {
	c.Image = choice.Image
	if choice.Args != nil {
		c.Args = choice.Args
	}
	if choice.Command != "" {
		c.Command = choice.Command
	}
	if choice.Entrypoint != nil {
		c.Entrypoint = choice.Entrypoint
	}
	return c
}

// readVariants reads repeated variant "name" { ... } blocks, which Nomad passes as a list of maps from
// name to a list of one body.
func readVariants(raw any) ([]variant.Variant, error) {
	var out []variant.Variant
	for _, item := range list(raw) {
		block, ok := item.(map[string]any)
		if !ok || len(block) != 1 {
			return nil, errors.New(`variant needs one name and a body: write variant "name" { ... }`)
		}
		for name, bodies := range block {
			for _, body := range list(bodies) {
				v, err := readVariant(name, body)
				if err != nil {
					return nil, fmt.Errorf("variant %q: %w", name, err)
				}
				out = append(out, v)
			}
		}
	}
	return out, nil
}

func readVariant(name string, raw any) (variant.Variant, error) {
	v := variant.Variant{Name: name}
	body, ok := raw.(map[string]any)
	if !ok {
		return v, errors.New(`its body is not a block: write variant "name" { ... }`)
	}
	for _, key := range slices.Sorted(maps.Keys(body)) {
		var err error
		switch value := body[key]; key {
		case "image":
			v.Image, err = scalar(value)
		case "vendor":
			var s string
			s, err = scalar(value)
			v.Vendor = gpu.Vendor(s)
		case "command":
			v.Command, err = scalar(value)
		case "args":
			v.Args, err = scalars(value)
		case "entrypoint":
			v.Entrypoint, err = scalars(value)
		case "env":
			v.Env, err = mapping(value)
		case "constraint":
			v.Constraints, err = readConstraints(value)
		default:
			return v, fmt.Errorf("%q is unknown: use image, vendor, constraint, env, command, args or entrypoint", key)
		}
		if err != nil {
			return v, fmt.Errorf("%s %w", key, err)
		}
	}
	return v, nil
}

func readConstraints(raw any) ([]variant.Constraint, error) {
	var out []variant.Constraint
	for _, item := range list(raw) {
		fields, err := mapping(item)
		if err != nil {
			return nil, err
		}
		c := variant.Constraint{Operator: "="}
		for _, key := range slices.Sorted(maps.Keys(fields)) {
			switch value := fields[key]; {
			case key == "attribute":
				c.Attribute = value
			case key == "operator":
				c.Operator = value
			case key == "value":
				c.Value = value
			case strings.HasPrefix(key, "is_") && slices.Contains(variant.Operators, key):
				// As in Nomad, is_set = "x" names the attribute itself.
				c.Attribute, c.Operator = value, key
			case slices.Contains([]string{"version", "semver", "regexp", "set_contains", "set_contains_all",
				"set_contains_any"}, key):
				c.Operator, c.Value = key, value
			default:
				return nil,
					fmt.Errorf("has unknown key %q: use attribute, operator and value, or version, semver, regexp, "+
						"set_contains…", key)
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// list returns raw as a list. A single item is a list of one, as in HCL and JSON job files.
func list(raw any) []any {
	switch v := raw.(type) {
	case nil:
		return nil
	case []any:
		return v
	default:
		return []any{v}
	}
}

func scalar(raw any) (string, error) {
	switch v := raw.(type) {
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), nil
	case float32:
		return strconv.FormatFloat(float64(v), 'f', -1, 32), nil
	case int64, uint64, int, int8, int16, int32, uint8, uint16, uint32:
		return fmt.Sprint(v), nil
	default:
		return "", fmt.Errorf("is %s: want text", kindOf(raw))
	}
}

func scalars(raw any) ([]string, error) {
	items, ok := raw.([]any)
	if !ok {
		return nil, fmt.Errorf("is %s: want a list of text", kindOf(raw))
	}
	out := make([]string, len(items))
	for i, item := range items {
		var err error
		if out[i], err = scalar(item); err != nil {
			return nil, fmt.Errorf("item %d %w", i, err)
		}
	}
	return out, nil
}

// mapping reads a block or map of text; several of them are merged.
func mapping(raw any) (map[string]string, error) {
	out := map[string]string{}
	for _, item := range list(raw) {
		m, ok := item.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("is %s: want a block", kindOf(item))
		}
		for k, v := range m {
			s, err := scalar(v)
			if err != nil {
				return nil, fmt.Errorf("%s %w", k, err)
			}
			out[k] = s
		}
	}
	return out, nil
}

func kindOf(raw any) string {
	switch raw.(type) {
	case nil:
		return "empty"
	case []any:
		return "a list"
	case map[string]any:
		return "a block"
	default:
		return "not text"
	}
}
