package ui

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	nomad "github.com/hashicorp/nomad/api"
)

// nomadGuard asks Nomad. Its client has the page's own token.
type nomadGuard struct{ client *nomad.Client }

// aclsOff is in Nomad's response while ACLs are off. The status alone is not enough: a proxy, or a
// listener that requires TLS, answers 400 too.
const aclsOff = "ACL support disabled"

// deniedError says why Nomad refuses a token, for the user.
type deniedError string

func (e deniedError) Error() string { return string(e) }

func (g nomadGuard) open(ctx context.Context) (bool, error) {
	// Do not ask about the token itself: while ACLs are off, Nomad does not know workload identities.
	_, _, err := g.client.ACLPolicies().List((&nomad.QueryOptions{}).WithContext(ctx))
	var refusal nomad.UnexpectedResponseError
	switch {
	case err == nil:
		return false, nil
	case errors.As(err, &refusal) && refusal.StatusCode() == http.StatusBadRequest &&
		strings.Contains(refusal.Body(), aclsOff):
		return true, nil
	case errors.As(err, &refusal) && refusal.StatusCode() < http.StatusInternalServerError:
		return false, nil // ACLs are on, and Nomad does not know the page's own token
	}
	return false, err
}

// allows reads from Nomad with the user's token what the page shows: the nodes, and the allocations
// of every namespace that the page's own token may read.
func (g nomadGuard) allows(ctx context.Context, token string) error {
	namespaces, _, err := g.client.Namespaces().List((&nomad.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("cannot list namespaces: %w", err)
	}
	as := func(namespace string) *nomad.QueryOptions {
		return (&nomad.QueryOptions{Namespace: namespace, AuthToken: token, PerPage: 1}).WithContext(ctx)
	}
	if _, _, err := g.client.Nodes().List(as("")); err != nil {
		return denied(err, "the token may not read nodes: it needs node { policy = \"read\" }")
	}
	for _, n := range namespaces {
		if _, _, err := g.client.Allocations().List(as(n.Name)); err != nil {
			return denied(err,
				fmt.Sprintf("the token may not read the jobs of namespace %q, which this page shows: "+
					"it needs namespace %q { capabilities = [\"read-job\"] }", n.Name, n.Name))
		}
	}
	return nil
}

func denied(err error, text string) error {
	var refusal nomad.UnexpectedResponseError
	if errors.As(err, &refusal) && (refusal.StatusCode() == http.StatusForbidden ||
		refusal.StatusCode() == http.StatusUnauthorized) {
		return deniedError(text)
	}
	return err
}
