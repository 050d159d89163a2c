package jobs

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	consul "github.com/hashicorp/consul/api"
	"github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/consultest"
	"aliquot.example/ui"
)

// The page has a real Nomad with ACLs decide who may look, and its own policy suffices
// for what it asks.
func TestPageAndRealACLs(t *testing.T) {
	client := startNomad(t)
	own, err := api.NewClient(&api.Config{Address: client.Address(), SecretID: nomadToken(t, client, "ui-nomad-policy.hcl")})
	if err != nil {
		t.Fatal(err)
	}
	site := startPage(t, ui.Options{Nomad: own})
	token := func(rules string) string {
		name := "page-user-" + strconv.Itoa(len(rules))
		if _, err := client.ACLPolicies().Upsert(&api.ACLPolicy{Name: name, Rules: rules}, nil); err != nil {
			t.Fatal(err)
		}
		made, _, err := client.ACLTokens().Create(&api.ACLToken{Name: name, Type: "client", Policies: []string{name}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return made.SecretID
	}
	for _, unknown := range []string{"11111111-2222-3333-4444-555555555555", "made up"} {
		if status, session, text := signIn(t, site, unknown); status != http.StatusForbidden || session != nil {
			t.Errorf("the token %q, which Nomad does not know: %d %s", unknown, status, text)
		}
	}
	if status, text := stream(t, site, nil); status != http.StatusUnauthorized {
		t.Errorf("without a session: %d %s", status, text)
	}
	jobsAlone := token("namespace \"default\" {\n capabilities = [\"read-job\"]\n}\n")
	if status, _, text := signIn(t, site, jobsAlone); status != http.StatusForbidden || !strings.Contains(text, "may not read nodes") {
		t.Errorf("a token without nodes: %d %s", status, text)
	}
	reader := token("namespace \"default\" {\n capabilities = [\"read-job\"]\n}\nnode {\n policy = \"read\"\n}\n")
	status, session, text := signIn(t, site, reader)
	if status != http.StatusOK || session == nil {
		t.Fatalf("a token that may read: %d %s", status, text)
	}
	if status, text := stream(t, site, session); status != http.StatusOK || text != "event: view\n" {
		t.Errorf("with a session: %d %q", status, text)
	}
	if _, err := client.Namespaces().Register(&api.Namespace{Name: "other"}, nil); err != nil {
		t.Fatal(err)
	}
	if status, _, text := signIn(t, site, reader); status != http.StatusForbidden || !strings.Contains(text, "other") {
		t.Errorf("a token that may not read every namespace that is shown: %d %s", status, text)
	}
	t.Run("its own token", func(t *testing.T) {
		for what, ask := range map[string]func() error{
			"nodes":       func() error { _, _, err := own.Nodes().List(nil); return err },
			"allocations": func() error { _, _, err := own.Allocations().List(&api.QueryOptions{Namespace: "*"}); return err },
			"policies":    func() error { _, _, err := own.Scaling().ListPolicies(&api.QueryOptions{Namespace: "*"}); return err },
		} {
			if err := ask(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		_, _, stop := own.Jobs().Deregister("app", false, nil)
		_, _, variables := own.Variables().Read("other", nil)
		for what, err := range map[string]error{"stopping jobs": stop, "variables": variables} {
			if err == nil || !strings.Contains(err.Error(), "Permission denied") {
				t.Errorf("%s: got %v, want a denial", what, err)
			}
		}
	})
}

// The page's policy for Consul lets it read what it shows, and write nothing.
func TestPagesConsulPolicy(t *testing.T) {
	const management = "3d1f2a10-0000-4000-8000-5a5a5a5a5a5b"
	server, err := consultest.Start(t.TempDir(), map[string]any{"token": management, "acl": map[string]any{
		"enabled": true, "default_policy": "deny", "tokens": map[string]any{"initial_management": management, "agent": management},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	policy, _, err := server.Client.ACL().PolicyCreate(&consul.ACLPolicy{Name: "ui", Rules: read(t, "ui-consul-policy.hcl")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	made, _, err := server.Client.ACL().TokenCreate(&consul.ACLToken{Policies: []*consul.ACLLink{{ID: policy.ID}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Instance("gateway", "aliquot-gateway", "g", consul.HealthPassing, nil); err != nil {
		t.Fatal(err)
	}
	as := &consul.QueryOptions{Token: made.SecretID}
	if found, _, err := server.Client.Health().Service("aliquot-gateway", "", true, as); err != nil || len(found) != 1 {
		t.Errorf("%d gateways, %v", len(found), err)
	}
	if _, _, err := server.Client.ConfigEntries().List(consul.ServiceSplitter, as); err != nil {
		t.Errorf("splitters: %v", err)
	}
	if _, _, err := server.Client.KV().List("aliquot/rates/", as); err != nil {
		t.Errorf("speeds: %v", err)
	}
	deniedByConsul(t, server.Client, made.SecretID, "aliquot/rates/app/x")
}

func startPage(t *testing.T, o ui.Options) *httptest.Server {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	page := ui.New(o)
	site := httptest.NewServer(page.Handler(ctx))
	done := make(chan struct{})
	go func() { defer close(done); page.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done; site.Close() })
	return site
}

func signIn(t *testing.T, site *httptest.Server, token string) (status int, session *http.Cookie, text string) {
	t.Helper()
	answer, err := http.Post(site.URL+"/v1/session", "application/json", strings.NewReader(`{"token":"`+token+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	said, _ := io.ReadAll(answer.Body)
	for _, c := range answer.Cookies() {
		session = c
	}
	return answer.StatusCode, session, string(said)
}

// stream returns the status and the first line of the view of the cluster.
func stream(t *testing.T, site *httptest.Server, session *http.Cookie) (status int, first string) {
	t.Helper()
	ask, err := http.NewRequestWithContext(t.Context(), http.MethodGet, site.URL+"/v1/stream?view=cluster", nil)
	if err != nil {
		t.Fatal(err)
	}
	if session != nil {
		ask.AddCookie(session)
	}
	answer, err := http.DefaultClient.Do(ask)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	first, _ = bufio.NewReader(answer.Body).ReadString('\n')
	return answer.StatusCode, first
}
