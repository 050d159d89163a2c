package top

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/nomad/api"
)

// aclsOff is the accessor of the token that Nomad returns while its ACLs are off.
const aclsOff = "acls-disabled"

// blind returns why slices that look free may be held, "" if the token can read all namespaces.
// Nomad silently omits the allocations of namespaces that a token may not read.
func (c Cluster) blind(ctx context.Context) string {
	const fix = "slices shown as ? may be held; give NOMAD_TOKEN read-job in namespace \"*\""
	q := (&api.QueryOptions{}).WithContext(ctx)
	token, _, err := c.Nomad.ACLTokens().Self(q)
	var answer api.UnexpectedResponseError
	switch {
	case errors.As(err, &answer) && answer.StatusCode() == http.StatusBadRequest:
		return "" // ACLs are off, in other releases of Nomad
	case err == nil && token.AccessorID == aclsOff:
		return ""
	case err != nil:
		return fmt.Sprintf("cannot find out which namespaces the token may read (%s): %s", reason(err), fix)
	case token.Type == "management":
		return ""
	}
	for _, name := range token.Policies {
		policy, _, err := c.Nomad.ACLPolicies().Info(name, q)
		if err == nil && readsAll(policy.Rules) {
			return ""
		}
	}
	return "the token may not read the jobs of all namespaces: " + fix
}

// readsAll reports whether the rules of a policy allow reading the jobs of every namespace. It
// returns false for rules that it does not understand.
func readsAll(rules string) bool {
	file, diags := hclsyntax.ParseConfig([]byte(rules), "policy", hcl.InitialPos)
	if diags.HasErrors() {
		return false
	}
	body, ok := file.Body.(*hclsyntax.Body)
	if !ok {
		return false
	}
	all := false
	for _, b := range body.Blocks {
		if b.Type != "namespace" || len(b.Labels) != 1 {
			continue
		}
		reads := slices.ContainsFunc(words(b.Body, "policy"), func(p string) bool {
			return p == "read" || p == "write"
		}) ||
			slices.Contains(words(b.Body, "capabilities"), "read-job")
		if !reads {
			return false // this namespace's own rules allow less
		}
		all = all || b.Labels[0] == "*"
	}
	return all
}

// words returns the strings of an attribute, which is a string or a list of strings.
func words(body *hclsyntax.Body, name string) []string {
	attribute := body.Attributes[name]
	if attribute == nil {
		return nil
	}
	value, diags := attribute.Expr.Value(nil)
	if diags.HasErrors() || !value.IsWhollyKnown() || value.IsNull() {
		return nil
	}
	if value.Type().FriendlyName() == "string" {
		return []string{value.AsString()}
	}
	if !value.CanIterateElements() {
		return nil
	}
	var out []string
	for it := value.ElementIterator(); it.Next(); {
		if _, one := it.Element(); one.Type().FriendlyName() == "string" && !one.IsNull() {
			out = append(out, one.AsString())
		}
	}
	return out
}
