package scale

import (
	"fmt"
	"strconv"
	"strings"
)

// SyntaxError is a syntax error in a text. Column counts bytes from 1.
type SyntaxError struct {
	Column  int
	Problem string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("column %d: %s", e.Column, e.Problem) }

const classForm = `want "<name> slots=<n> cost=<x> max=<n> speed=<x>" with commas between classes; ` +
	`slots=measured for engines that batch`

// firstSlots is the number of slots that a class with slots=measured has until the gateways measure
// it. It is low on purpose: too many replicas start rather than too few.
const firstSlots = 16

// ParseClasses parses a comma-separated list of hardware classes. Each class is a name and settings
// in any order:
//
//	h100 slots=8 cost=3.5 max=4, l4 slots=2 cost=1 max=16
//
// slots and max are required. slots=measured uses the value that the gateways measure. cost and
// speed default to 1. Input speeds may be relative to any of the classes; returned speeds are
// relative to the fastest. A syntax error is a *SyntaxError.
func ParseClasses(text string) ([]Class, error) {
	var classes []Class
	seen := map[string]bool{}
	offered := 0
	for column := 1; ; {
		part, rest, more := strings.Cut(text, ",")
		class, err := parseClass(part, column)
		if err != nil {
			return nil, err
		}
		if seen[class.Name] {
			return nil, &SyntaxError{column + len(part) - len(strings.TrimLeft(part, " \t\n")),
				fmt.Sprintf("class %q is listed twice", class.Name)}
		}
		seen[class.Name] = true
		classes = append(classes, class)
		if offered += class.Slots * class.Max; offered > MaxSlots {
			return nil, &SyntaxError{column,
				fmt.Sprintf("the classes offer %d slots up to here: want slots x max to sum to at most %d",
					offered, MaxSlots)}
		}
		if !more {
			return toFastest(classes), nil
		}
		column, text = column+len(part)+1, rest
	}
}

// toFastest divides all speeds by the speed of the fastest class.
func toFastest(classes []Class) []Class {
	speeds := make([]float64, len(classes))
	for i, class := range classes {
		speeds[i] = class.Speed
	}
	unit := fastest(classes, speeds)
	for i := range classes {
		classes[i].Speed /= unit
	}
	return classes
}

func parseClass(part string, column int) (Class, error) {
	class := Class{Slots: -1, Cost: 1, Max: -1, Speed: 1}
	set := map[string]bool{}
	for at := 0; at < len(part); {
		if isSpace(part[at]) {
			at++
			continue
		}
		end := at
		for end < len(part) && !isSpace(part[end]) {
			end++
		}
		if err := class.read(part[at:end], column+at, set); err != nil {
			return class, err
		}
		at = end
	}
	last := column + len(part)
	switch {
	case class.Name == "":
		return class, &SyntaxError{last, "a class is missing here: " + classForm}
	case class.Slots < 0:
		return class, &SyntaxError{last, fmt.Sprintf("class %q has no slots: %s", class.Name, classForm)}
	case class.Max < 0:
		return class, &SyntaxError{last, fmt.Sprintf("class %q has no max: %s", class.Name, classForm)}
	}
	return class, nil
}

func isSpace(b byte) bool { return b == ' ' || b == '\t' || b == '\n' }

func (c *Class) read(word string, column int, set map[string]bool) error {
	key, value, ok := strings.Cut(word, "=")
	switch {
	case !ok:
		return c.name(word, column)
	case c.Name == "":
		return &SyntaxError{column, fmt.Sprintf("%q comes before the name of its class", word)}
	case set[key]:
		return &SyntaxError{column, fmt.Sprintf("%s is set twice for this class: set it once", key)}
	}
	set[key] = true
	return c.set(key, value, column+len(key)+1)
}

// name sets the name of the class.
func (c *Class) name(word string, column int) error {
	if c.Name != "" {
		return &SyntaxError{column,
			fmt.Sprintf("%q is not a setting: to start a new class, put a comma after class %q", word, c.Name)}
	}
	if !IsName(word) {
		return &SyntaxError{column,
			fmt.Sprintf("invalid class name %q: want letters, digits, '-', '_' and '.'", word)}
	}
	c.Name = word
	return nil
}

// set sets a key to a value. column is the column of the value.
func (c *Class) set(key, value string, column int) error {
	whole := func(low int) (int, error) {
		n, err := strconv.Atoi(value)
		if err != nil || n < low || n > maxCount {
			return 0, &SyntaxError{column, fmt.Sprintf("%s is %q: want a whole number from %d to %d", key, value,
				low, maxCount)}
		}
		return n, nil
	}
	within := func(low, high float64, want string) (float64, error) {
		x, err := strconv.ParseFloat(value, 64)
		if err != nil || !(x >= low && x <= high) {
			return 0, &SyntaxError{column, fmt.Sprintf("%s is %q: want %s", key, value, want)}
		}
		return x, nil
	}
	var err error
	switch key {
	case "slots":
		if c.Measured = value == "measured"; c.Measured {
			c.Slots = firstSlots
			return nil
		}
		c.Slots, err = whole(1)
	case "max":
		c.Max, err = whole(0)
	case "cost":
		c.Cost, err = within(0, 1e9, "a number from 0 to 1e9")
	case "speed":
		c.Speed, err = within(slowest, 1/slowest, fmt.Sprintf("a number from %g to %g", slowest, 1/slowest))
	default:
		return &SyntaxError{column - len(key) - 1,
			fmt.Sprintf("unknown setting %q: want slots, cost, max or speed", key)}
	}
	return err
}

// maxCount bounds slots and replicas, so that exact planning for their product stays feasible.
const maxCount = 10000

// IsName reports whether s is a valid name of a class or a service.
func IsName(s string) bool {
	for i := range len(s) {
		b := s[i]
		if !(b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '-' || b == '_' || b == '.') {
			return false
		}
	}
	return s != ""
}
