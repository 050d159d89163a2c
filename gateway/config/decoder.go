package config

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"aliquot.example/internal/hclfile"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// decoder reads values and keeps the first error, with its position in the file.
type decoder struct {
	ctx *hcl.EvalContext
	err error
}

// fail records an error at a position: what is there, and what to do. Only the first one is kept.
func (d *decoder) fail(at hcl.Range, format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%s:%d: %s", at.Filename, at.Start.Line, fmt.Sprintf(format, args...))
	}
}

// parse decodes text into target.
func (d *decoder) parse(text []byte, name string, target any) {
	if err := hclfile.Decode(text, name, d.ctx, target); err != nil && d.err == nil {
		d.err = err
	}
}

// environment defines env.NAME for use in a configuration.
func environment() *hcl.EvalContext {
	vars := map[string]cty.Value{}
	for _, entry := range os.Environ() {
		if name, value, ok := strings.Cut(entry, "="); ok && hclsyntax.ValidIdentifier(name) {
			vars[name] = cty.StringVal(value)
		}
	}
	return &hcl.EvalContext{Variables: map[string]cty.Value{"env": cty.ObjectVal(vars)}}
}

func (d *decoder) text(a *hcl.Attribute, otherwise string) string {
	if a == nil {
		return otherwise
	}
	var s string
	if diags := gohcl.DecodeExpression(a.Expr, d.ctx, &s); diags.HasErrors() {
		d.fail(a.Range, "%s: %s", a.Name, diags[0].Detail)
	}
	return s
}

func (d *decoder) duration(a *hcl.Attribute, otherwise time.Duration) time.Duration {
	if a == nil {
		return otherwise
	}
	s := d.text(a, "")
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		d.fail(a.Range, "%s is %q: want a duration such as \"30s\"", a.Name, s)
	}
	return v
}

func (d *decoder) size(a *hcl.Attribute, otherwise int64) int64 {
	if a == nil {
		return otherwise
	}
	s := d.text(a, "")
	shift := 0
	number := s
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		if cut, ok := strings.CutSuffix(s, unit); ok {
			number, shift = strings.TrimSpace(cut), 10*(i+1)
		}
	}
	v, err := strconv.ParseInt(number, 10, 64)
	if err != nil || v <= 0 || v > 1<<50>>shift {
		d.fail(a.Range, "%s is %q: want a number of bytes such as \"64KiB\"", a.Name, s)
		return otherwise
	}
	return v << shift
}

// prefixes reads a list of networks and addresses.
func (d *decoder) prefixes(a *hcl.Attribute) []netip.Prefix {
	if a == nil {
		return nil
	}
	var texts []string
	if diags := gohcl.DecodeExpression(a.Expr, d.ctx, &texts); diags.HasErrors() {
		d.fail(a.Range, "%s: %s", a.Name, diags[0].Detail)
	}
	var out []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if ip, bare := netip.ParseAddr(text); bare == nil {
			p, err = netip.PrefixFrom(ip, ip.BitLen()), nil
		}
		if err != nil {
			d.fail(a.Range, "%s has %q: want an address or a network such as \"10.0.0.0/8\"", a.Name, text)
		}
		out = append(out, p)
	}
	return out
}

// oneOf reads a value that must be one of those allowed.
func (d *decoder) oneOf(a *hcl.Attribute, otherwise string, allowed ...string) string {
	s := d.text(a, otherwise)
	if !slices.Contains(allowed, s) && a != nil {
		d.fail(a.Range, "%s is %q: want one of %s", a.Name, s, strings.Join(allowed, ", "))
	}
	return s
}

func or[T any](v *T, otherwise T) T {
	if v == nil {
		return otherwise
	}
	return *v
}
