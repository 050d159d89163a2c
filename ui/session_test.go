package ui

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"aliquot.example/ui/wirefake"
)

// site is a page that reads a made-up cluster.
type site struct {
	*httptest.Server
	cluster *wirefake.Cluster
	server  *Server
}

func serve(t *testing.T, c *wirefake.Cluster, change ...func(*Options)) *site {
	t.Helper()
	t.Cleanup(c.Server.Close)
	n, s, err := c.Clients()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	o := Options{Nomad: n, Consul: s}
	for _, f := range change {
		f(&o)
	}
	server := New(o)
	web := httptest.NewServer(server.Handler(ctx))
	done := make(chan struct{})
	go func() { defer close(done); server.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		<-done
		web.Close()
		c.Server.CloseClientConnections()
	})
	return &site{web, c, server}
}

// do sends a request, and returns the answer with the first bytes of its body.
func (s *site) do(t *testing.T, method, path, body, session string, headers ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if session != "" {
		r.AddCookie(&http.Cookie{Name: cookie, Value: session})
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.Header.Get("Content-Type") == "text/event-stream" {
		line, _ := bufio.NewReader(answer.Body).ReadString('\n')
		return answer, line
	}
	text, _ := io.ReadAll(answer.Body)
	return answer, string(text)
}

func (s *site) signIn(t *testing.T, token string) (status int, session *http.Cookie, said string) {
	t.Helper()
	answer, said := s.do(t, "POST", "/v1/session", `{"token":"`+token+`"}`, "")
	for _, c := range answer.Cookies() {
		if c.Name == cookie {
			session = c
		}
	}
	return answer.StatusCode, session, said
}

const clusterStream = "/v1/stream?view=cluster"

func TestWithACLsATokenIsNeeded(t *testing.T) {
	c := wirefake.Start()
	c.Tokens = map[string]bool{"own": true, "reader": true}
	s := serve(t, c)
	if answer, said := s.do(t, "GET", clusterStream, "", ""); answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a session: %s %s", answer.Status, said)
	}
	if answer, _ := s.do(t, "GET", clusterStream, "", "guessed"); answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("with a guessed session: %s", answer.Status)
	}
	if status, session, said := s.signIn(t, "stranger"); status != http.StatusForbidden || session != nil || !strings.Contains(said, `node { policy = \"read\" }`) {
		t.Errorf("with a token that may nothing: %d %v %s", status, session, said)
	}
	if status, session, _ := s.signIn(t, ""); status != http.StatusBadRequest || session != nil {
		t.Errorf("without a token, for which Nomad's client would send the page's own: %d", status)
	}
	status, session, said := s.signIn(t, "reader")
	if status != http.StatusOK || session == nil {
		t.Fatalf("with a token: %d %s", status, said)
	}
	if !session.HttpOnly || session.SameSite != http.SameSiteStrictMode || strings.Contains(session.Value, "reader") {
		t.Errorf("the cookie is %s", session)
	}
	if answer, first := s.do(t, "GET", clusterStream, "", session.Value); answer.StatusCode != http.StatusOK || first != "event: view\n" {
		t.Errorf("with a session: %s %q", answer.Status, first)
	}
	if answer, _ := s.do(t, "DELETE", "/v1/session", "", session.Value); answer.StatusCode != http.StatusOK {
		t.Errorf("signing out: %s", answer.Status)
	}
	if answer, _ := s.do(t, "GET", clusterStream, "", session.Value); answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("after signing out: %s", answer.Status)
	}
}

func TestASessionEndsWithItsToken(t *testing.T) {
	c := wirefake.Start()
	c.Tokens = map[string]bool{"own": true, "reader": true}
	s := serve(t, c)
	now := time.Now()
	s.server.authorizer.now = func() time.Time { return now }
	_, session, _ := s.signIn(t, "reader")
	if session == nil {
		t.Fatal("no session")
	}
	c.Do(func() { delete(c.Tokens, "reader") })
	now = now.Add(recheck)
	if answer, _ := s.do(t, "GET", clusterStream, "", session.Value); answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("the token is revoked, and the answer is %s", answer.Status)
	}
}

func TestSessionsEnd(t *testing.T) {
	d := newAuthorizer(fakeGuard{})
	now := time.Now()
	d.now = func() time.Time { return now }
	id, err := d.enter(t.Context(), "x")
	if err != nil || !d.lets(t, id) {
		t.Fatal(err)
	}
	now = now.Add(idle + time.Second)
	if d.lets(t, id) {
		t.Error("a session outlives its idle time")
	}
	id, _ = d.enter(t.Context(), "x")
	for end := now.Add(maxSessionAge); now.Before(end); now = now.Add(idle / 2) {
		if !d.lets(t, id) {
			t.Fatal("a session in use ended early")
		}
	}
	now = now.Add(time.Second)
	if d.lets(t, id) {
		t.Error("a session outlives the longest time")
	}
	for range maxSessions + 10 {
		_, _ = d.enter(t.Context(), "x")
	}
	if n := len(d.sessions); n > maxSessions {
		t.Errorf("%d sessions are kept", n)
	}
}

func (a *authorizer) lets(t *testing.T, id string) bool {
	t.Helper()
	open, err := a.knows(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return open
}

// fakeGuard lets in every token. Where silent is set, it answers when its context ends.
type fakeGuard struct {
	silent *atomic.Bool
	asked  *atomic.Int64
}

func (g fakeGuard) answer(ctx context.Context) error {
	if g.asked != nil {
		g.asked.Add(1)
	}
	if g.silent != nil && g.silent.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (g fakeGuard) open(ctx context.Context) (bool, error)     { return false, g.answer(ctx) }
func (g fakeGuard) allows(ctx context.Context, _ string) error { return g.answer(ctx) }
func (g fakeGuard) request(t *testing.T, session string) *http.Request {
	r := httptest.NewRequestWithContext(t.Context(), "GET", clusterStream, nil)
	r.AddCookie(&http.Cookie{Name: cookie, Value: session})
	return r
}

// A Nomad that does not answer for a while ends no session, and is not asked by every
// request of every browser.
func TestASessionOutlivesASilentNomad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := fakeGuard{new(atomic.Bool), new(atomic.Int64)}
		d := newAuthorizer(g)
		id, err := d.enter(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		if a := d.of(g.request(t, id)); !a.open || a.err != nil {
			t.Fatalf("%+v", a)
		}
		g.silent.Store(true)
		time.Sleep(recheck)
		before := g.asked.Load()
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if a := d.of(g.request(t, id)); a.open || a.err == nil || !a.needed {
					t.Errorf("while Nomad is silent: %+v", a)
				}
			})
		}
		all.Wait()
		if n := g.asked.Load() - before; n > 2 {
			t.Errorf("a hundred requests asked Nomad %d times", n)
		}
		g.silent.Store(false)
		time.Sleep(failureTTL)
		if a := d.of(g.request(t, id)); !a.open {
			t.Errorf("when Nomad is back: %+v", a)
		}
	})
}

// Strangers who try tokens at a Nomad that is slow do not take the places of users.
func TestStrangersDoNotSignUsersOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := fakeGuard{new(atomic.Bool), nil}
		d := newAuthorizer(g)
		id, _ := d.enter(t.Context(), "x")
		if a := d.of(g.request(t, id)); !a.open {
			t.Fatalf("%+v", a)
		}
		g.silent.Store(true)
		time.Sleep(recheck)
		for range 10 * maxSignIns {
			go func() { _, _ = d.enter(t.Context(), "guess") }()
		}
		synctest.Wait()
		g.silent.Store(false) // questions that were put before still have no answer
		began := time.Now()
		if a := d.of(g.request(t, id)); !a.open || time.Since(began) > 0 {
			t.Errorf("beside strangers: %+v after %s", a, time.Since(began))
		}
	})
}

func TestTheBrowserIsToldThatNomadIsAway(t *testing.T) {
	c := wirefake.Start()
	c.Tokens = map[string]bool{"own": true, "reader": true}
	s := serve(t, c)
	now := time.Now()
	s.server.authorizer.now = func() time.Time { return now }
	_, session, _ := s.signIn(t, "reader")
	c.Do(func() { c.NomadDown = true })
	now = now.Add(recheck)
	if answer, said := s.do(t, "GET", clusterStream, "", session.Value); answer.StatusCode != http.StatusServiceUnavailable || !strings.Contains(said, "Nomad does not answer") {
		t.Errorf("the stream answers %s %s", answer.Status, said)
	}
	if answer, said := s.do(t, "GET", "/v1/session", "", session.Value); answer.StatusCode != http.StatusOK || !strings.Contains(said, `"away":"cannot check the token: Nomad does not answer`) {
		t.Errorf("the session answers %s %s", answer.Status, said)
	}
	c.Do(func() { c.NomadDown = false })
	now = now.Add(failureTTL)
	if answer, _ := s.do(t, "GET", clusterStream, "", session.Value); answer.StatusCode != http.StatusOK {
		t.Errorf("when Nomad is back: %s", answer.Status)
	}
}

func TestHeadersAndOtherSites(t *testing.T) {
	s := serve(t, wirefake.Start())
	for _, path := range []string{"/", "/page.js", "/v1/session", "/v1/stream?view=none", "/nothing"} {
		answer, said := s.do(t, "GET", path, "", "")
		h := answer.Header
		if p := h.Get("Content-Security-Policy"); !strings.Contains(p, "frame-ancestors 'none'") || strings.Contains(p, "unsafe") || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", path, h)
		}
		if len(answer.Cookies()) > 0 {
			t.Errorf("%s sets a cookie", path)
		}
		if path == "/" && (strings.Contains(said, "<script>") || strings.Contains(said, "style=")) {
			t.Error("the page has something inline")
		}
	}
	answer, _ := s.do(t, "POST", "/v1/session", `{"token":"x"}`, "", "Sec-Fetch-Site", "cross-site")
	if answer.StatusCode != http.StatusForbidden {
		t.Errorf("a page of another site can sign in: %s", answer.Status)
	}
}

func TestHistoryIsBehindTheDoor(t *testing.T) {
	c := wirefake.Start()
	c.Tokens = map[string]bool{"own": true, "reader": true}
	p := wirefake.Prometheus(7)
	defer p.Close()
	s := serve(t, c, func(o *Options) { o.History, _ = Prometheus(p.URL) })
	const path = "/v1/history?service=chat&seconds=86400"
	if answer, said := s.do(t, "GET", path, "", ""); answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a session: %s %s", answer.Status, said)
	}
	_, session, _ := s.signIn(t, "reader")
	if answer, said := s.do(t, "GET", path, "", session.Value); answer.StatusCode != http.StatusOK || !strings.Contains(said, "[7,7,") {
		t.Errorf("with a session: %s %.200s", answer.Status, said)
	}
	for _, bad := range []string{"/v1/history?service=chat", "/v1/history?service=chat&seconds=1e9", "/v1/history?seconds=3600"} {
		if answer, _ := s.do(t, "GET", bad, "", session.Value); answer.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s", bad, answer.Status)
		}
	}
	p.Close()
	if answer, said := s.do(t, "GET", path, "", session.Value); answer.StatusCode != http.StatusBadGateway || !strings.Contains(said, "Prometheus does not answer") {
		t.Errorf("without Prometheus: %s %s", answer.Status, said)
	}
}
