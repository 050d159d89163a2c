package account

import (
	"cmp"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// bytes are the units of Nomad's attributes that count bytes.
var bytes = map[string]float64{
	"B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
	"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}

// compare orders an attribute and the value of a constraint, such as "40 GiB". ok is false if they are
// not of the same kind. Nomad's own comparison would import its whole plugin framework.
func compare(a *api.Attribute, text string) (order int, ok bool) {
	number, unit, isNumber := quantity(text)
	switch {
	case a.StringVal != nil && !isNumber:
		return strings.Compare(*a.StringVal, text), true
	case !isNumber || a.IntVal == nil && a.FloatVal == nil:
		return 0, false
	}
	is := 0.0
	if a.IntVal != nil {
		is = float64(*a.IntVal)
	} else {
		is = *a.FloatVal
	}
	if a.Unit != unit {
		from, to := bytes[a.Unit], bytes[unit]
		if from == 0 || to == 0 {
			return 0, false
		}
		is, number = is*from, number*to
	}
	return cmp.Compare(is, number), true
}

// quantity reads a number with a unit or without.
func quantity(text string) (number float64, unit string, ok bool) {
	text = strings.TrimSpace(text)
	end := strings.IndexFunc(text, func(c rune) bool { return !strings.ContainsRune("+-.0123456789", c) })
	if end < 0 {
		end = len(text)
	}
	number, err := strconv.ParseFloat(text[:end], 64)
	return number, strings.TrimSpace(text[end:]), err == nil
}
