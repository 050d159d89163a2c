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

// aclsOff is the accessor of the token that Nomad says everybody has while its ACLs are off.
const aclsOff = "acls-disabled"

// blind says why slices that look free may be held: Nomad leaves allocations of
// namespaces that a token may not read out of its answers without a word. It is ""
// where the token sees all.
func (c Cluster) blind(ctx context.Context) string {
	const fix = "slices shown as ? may be held; give NOMAD_TOKEN read-job in namespace \"*\""
	q := (&api.QueryOptions{}).WithContext(ctx)
	token, _, err := c.Nomad.ACLTokens().Self(q)
	var answer api.UnexpectedResponseError
	switch {
	case errors.As(err, &answer) && answer.StatusCode() == http.StatusBadRequest:
		return "" // ACLs are off, as other releases say it
	case err == nil && token.AccessorID == aclsOff:
		return ""
	case err != nil:
		return fmt.Sprintf("which namespaces the token may read is not known (%s): %s", reason(err), fix)
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

// readsAll reports whether the rules of a policy let jobs of every namespace be read.
// Rules that are not understood do not.
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
			return false // a namespace of its own rules, which are less
		}
		all = all || b.Labels[0] == "*"
	}
	return all
}

// words are the strings of an attribute: a string, or a list of them.
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
