package variant

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Constraint is a condition on an attribute of the granted hardware, with the operators of Nomad's
// constraints.
type Constraint struct {
	Attribute string
	Operator  string // see Operators
	Value     string
}

// Operators lists the valid values of Constraint.Operator. "is" and "==" mean "=", "not" means
// "!=", "set_contains" means "set_contains_all".
var Operators = []string{
	"=", "==", "is", "!=", "not", "<", "<=", ">", ">=",
	"version", "semver", "regexp", "set_contains", "set_contains_all", "set_contains_any", "is_set", "is_not_set",
}

func (c Constraint) String() string {
	if c.Value == "" {
		return c.Attribute + " " + c.Operator
	}
	return c.Attribute + " " + c.Operator + " " + c.Value
}

// Validate returns an error for a constraint that no hardware can meet or that has no meaning.
func (c Constraint) Validate() error {
	kind, known := attributeKinds[c.Attribute]
	switch {
	case !known:
		return fmt.Errorf("constraint attribute %q is unknown: use one of %s", c.Attribute,
			strings.Join(slices.Sorted(maps.Keys(attributeKinds)), ", "))
	case !slices.Contains(Operators, c.Operator):
		return fmt.Errorf("constraint on %s: operator %q is unknown: use one of %s", c.Attribute, c.Operator,
			strings.Join(Operators, " "))
	case c.Operator == "is_set" || c.Operator == "is_not_set":
		if c.Value != "" {
			return fmt.Errorf("constraint on %s: %s takes no value", c.Attribute, c.Operator)
		}
		return nil
	case c.Value == "":
		return fmt.Errorf("constraint on %s: value is missing", c.Attribute)
	}
	if err := c.validateValue(kind); err != nil {
		return fmt.Errorf("constraint %q: %w", c, err)
	}
	return nil
}

func (c Constraint) validateValue(kind Kind) error {
	var err error
	switch c.Operator {
	case "regexp":
		_, err = regexp.Compile(c.Value)
	case "version", "semver":
		if kind != Version {
			return fmt.Errorf("%s is %s, not a version", c.Attribute, kind)
		}
		_, err = parseRange(c.Value)
	case "set_contains", "set_contains_all", "set_contains_any":
		return nil
	case "<", "<=", ">", ">=":
		if kind == Text {
			return fmt.Errorf("%s is text and has no order: use = != regexp or set_contains_any", c.Attribute)
		}
		_, err = compare(c.sample(kind), c.Value)
	default:
		// A target may be text or a version; the hardware decides which.
		if kind == Number || kind == Memory {
			_, err = compare(c.sample(kind), c.Value)
		}
	}
	return err
}

// sample is a value of the kind, to validate the other side of the comparison.
func (c Constraint) sample(kind Kind) Value { return Value{Kind: kind, Text: "0"} }

// mismatch returns why the attributes do not meet the constraint, or "" if they do.
func (c Constraint) mismatch(attrs map[string]Value) string {
	got, set := attrs[c.Attribute]
	if ok, err := c.meets(got, set); err != nil {
		return fmt.Sprintf("wants %s, but %v", c, err)
	} else if ok {
		return ""
	}
	if !set {
		return fmt.Sprintf("wants %s, which this hardware does not have", c)
	}
	return fmt.Sprintf("wants %s, granted %s", c, got)
}

func (c Constraint) meets(got Value, set bool) (bool, error) {
	switch c.Operator {
	case "is_set":
		return set, nil
	case "is_not_set":
		return !set, nil
	case "!=", "not":
		if !set {
			return true, nil
		}
		equal, err := equals(got, c.Value)
		return !equal, err
	}
	if !set {
		return false, nil
	}
	return c.compares(got)
}

// compares reports whether a value that is set meets the constraint.
func (c Constraint) compares(got Value) (bool, error) {
	switch c.Operator {
	case "=", "==", "is":
		return equals(got, c.Value)
	case "regexp":
		re, err := regexp.Compile(c.Value)
		return err == nil && re.MatchString(got.Text), err
	case "version", "semver":
		r, err := parseRange(c.Value)
		if err != nil {
			return false, err
		}
		v, err := parseVersion(got.Text)
		return err == nil && r.contains(v), err
	case "set_contains", "set_contains_all":
		return contains(c.Value, got.Text) == len(strings.Split(c.Value, ",")), nil
	case "set_contains_any":
		return contains(c.Value, got.Text) > 0, nil
	}
	if got.Kind == Text {
		return false, fmt.Errorf("%s has no order", got.Text)
	}
	order, err := compare(got, c.Value)
	if err != nil {
		return false, err
	}
	return holds(c.Operator, order), nil
}

// equals compares values as text if one of them is not a version: a job may require the target
// "gfx942" and get a GPU whose target is "9.0".
func equals(got Value, want string) (bool, error) {
	if _, err := parseVersion(want); got.Kind == Text || got.Kind == Version && err != nil {
		return got.Text == want, nil
	}
	order, err := compare(got, want)
	return err == nil && order == 0, err
}

func holds(operator string, order int) bool {
	switch operator {
	case "<":
		return order < 0
	case "<=":
		return order <= 0
	case ">":
		return order > 0
	case ">=":
		return order >= 0
	default:
		return order == 0
	}
}

// contains returns how many members of the list want are in the list have. Both lists are separated
// by commas.
func contains(want, have string) int {
	members := map[string]bool{}
	for m := range strings.SplitSeq(have, ",") {
		members[strings.TrimSpace(m)] = true
	}
	n := 0
	for w := range strings.SplitSeq(want, ",") {
		if members[strings.TrimSpace(w)] {
			n++
		}
	}
	return n
}

// compare orders an attribute and a value of the same kind from a constraint.
func compare(got Value, want string) (int, error) {
	switch got.Kind {
	case Number:
		f, err := parseNumber(want)
		return cmp.Compare(got.Number, f), err
	case Memory:
		f, err := parseMemory(want)
		return cmp.Compare(got.Number, f), err
	case Version:
		v, err := parseVersion(got.Text)
		if err != nil {
			return 0, err
		}
		w, err := parseVersion(want)
		return v.compare(w), err
	default:
		return cmp.Compare(got.Text, want), nil
	}
}

// versionRange is a list of conditions that must all hold, as in ">= 12.1, < 13".
type versionRange []struct {
	operator string
	bound    version
}

func parseRange(s string) (versionRange, error) {
	var r versionRange
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		operator := part[:len(part)-len(strings.TrimLeft(part, "=!<>~"))]
		if !slices.Contains([]string{"", "=", "!=", "<", "<=", ">", ">=", "~>"}, operator) {
			return nil, fmt.Errorf("%q is not a version condition: use = != < <= > >= ~>", part)
		}
		bound, err := parseVersion(strings.TrimSpace(part[len(operator):]))
		if err != nil {
			return nil, err
		}
		r = append(r, struct {
			operator string
			bound    version
		}{operator, bound})
	}
	return r, nil
}

func (r versionRange) contains(v version) bool {
	for _, c := range r {
		order := v.compare(c.bound)
		switch c.operator {
		case "!=":
			if order == 0 {
				return false
			}
		case "~>":
			if order < 0 || !v.sharesAllButLast(c.bound) {
				return false
			}
		default:
			if !holds(c.operator, order) {
				return false
			}
		}
	}
	return true
}

// sharesAllButLast reports whether v equals the bound in all parts before the bound's last one: "~>
// 12.1" accepts 12.4 but not 13.0.
func (v version) sharesAllButLast(bound version) bool {
	for i := range len(bound.parts) - 1 {
		if v.at(i) != bound.at(i) {
			return false
		}
	}
	return true
}
