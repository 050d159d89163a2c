package ui

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	cookie = "aliquot_session"
	// A session ends after idle without use, and after maxSessionAge in any case.
	idle, maxSessionAge = 2 * time.Hour, 12 * time.Hour
	// recheck is the largest age of Nomad's answer about a token, or about its ACLs.
	recheck = 30 * time.Second
	// maxSessions limits memory. The least recently used session is removed first.
	maxSessions = 1000
	// maxSignIns limits simultaneous requests to Nomad for users who sign in, maxRechecks those for
	// users who are signed in. Strangers thus cannot block users.
	maxSignIns, maxRechecks = 4, 16
	// nomadTimeout is the timeout of one request to Nomad, including the wait for its turn.
	nomadTimeout = 5 * time.Second
	// failureTTL is the time for which a failure is returned without asking Nomad again.
	failureTTL = 2 * time.Second
)

// guard decides who may read the page.
type guard interface {
	// open reports whether Nomad has no ACLs, so that everyone may.
	open(ctx context.Context) (bool, error)
	// allows returns a deniedError if a token may not read what the page shows.
	allows(ctx context.Context, token string) error
}

// authorizer manages the sessions of users. It admits a user whose Nomad token may read what the page
// shows. It keeps the token only in memory and only during the session; the browser has a random ID.
type authorizer struct {
	guard             guard
	now               func() time.Time
	signIns, rechecks chan struct{}
	// asked merges simultaneous requests to Nomad about the same session, or about ACLs.
	asked singleflight.Group

	mu       sync.Mutex
	sessions map[string]*session
	acls     acls
}

// acls is Nomad's last answer to whether it has ACLs.
type acls struct {
	off           bool
	asked, failed time.Time
	err           error
}

type session struct {
	token                          string
	began, used, confirmed, failed time.Time
}

func newAuthorizer(g guard) *authorizer {
	return &authorizer{
		guard: g, now: time.Now, sessions: map[string]*session{},
		signIns: make(chan struct{}, maxSignIns), rechecks: make(chan struct{}, maxRechecks),
	}
}

var (
	errBusy = errors.New("too many tokens are being checked: try again")
	errAway = errors.New("cannot check the token: Nomad does not answer")
)

// ask runs question once one of the places is free.
func ask(ctx context.Context, places chan struct{}, question func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, nomadTimeout)
	defer cancel()
	select {
	case places <- struct{}{}:
	case <-ctx.Done():
		return errBusy
	}
	defer func() { <-places }()
	return question(ctx)
}

// askOnce is like ask, and merges simultaneous calls with the same key. The question continues if the
// first request ends, because others wait for it.
func (a *authorizer) askOnce(ctx context.Context, key string, question func(context.Context) error) error {
	_, err, _ := a.asked.Do(key, func() (any, error) {
		return nil, ask(context.WithoutCancel(ctx), a.rechecks, question)
	})
	return err
}

// aclsDisabled reports whether no token is needed. While Nomad does not answer, its last answer counts.
// If it has never answered, aclsDisabled returns an error and nobody is admitted.
func (a *authorizer) aclsDisabled(ctx context.Context) (bool, error) {
	a.mu.Lock()
	known, now := a.acls, a.now()
	a.mu.Unlock()
	if now.Sub(known.asked) < recheck || now.Sub(known.failed) < failureTTL {
		return known.off, known.err
	}
	err := a.askOnce(ctx, "acls", func(ctx context.Context) error {
		off, err := a.guard.open(ctx)
		a.mu.Lock()
		defer a.mu.Unlock()
		if err == nil {
			a.acls = acls{off: off, asked: a.now()}
			return nil
		}
		a.acls.failed = a.now()
		if a.acls.asked.IsZero() {
			a.acls.err = errAway
		}
		return nil
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil && a.acls.asked.IsZero() {
		return false, err // all places are taken
	}
	return a.acls.off, a.acls.err
}

// enter opens a session for a token.
func (a *authorizer) enter(ctx context.Context, token string) (id string, err error) {
	if err := ask(ctx, a.signIns, func(ctx context.Context) error { return a.guard.allows(ctx, token) }); err != nil {
		return "", err
	}
	id = rand.Text()
	now := a.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sweep(now)
	a.sessions[id] = &session{token: token, began: now, used: now, confirmed: now}
	return id, nil
}

// sweep removes ended sessions, and the least recently used one if there are too many. The caller
// holds a.mu.
func (a *authorizer) sweep(now time.Time) {
	oldest := ""
	for id, s := range a.sessions {
		switch {
		case now.Sub(s.used) > idle || now.Sub(s.began) > maxSessionAge:
			delete(a.sessions, id)
		case oldest == "" || s.used.Before(a.sessions[oldest].used):
			oldest = id
		}
	}
	if len(a.sessions) >= maxSessions {
		delete(a.sessions, oldest)
	}
}

func (a *authorizer) leave(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.sessions, id)
}

// knows reports whether a session exists and its token is still allowed. A denied token ends the
// session. If Nomad does not answer, knows returns an error; the session stays, but shows nothing.
func (a *authorizer) knows(ctx context.Context, id string) (bool, error) {
	now := a.now()
	a.mu.Lock()
	s := a.sessions[id]
	if s == nil || now.Sub(s.used) > idle || now.Sub(s.began) > maxSessionAge {
		delete(a.sessions, id)
		a.mu.Unlock()
		return false, nil
	}
	s.used = now
	token, fresh, failed := s.token, now.Sub(s.confirmed) < recheck, now.Sub(s.failed) < failureTTL
	a.mu.Unlock()
	switch {
	case fresh:
		return true, nil
	case failed:
		return false, errAway
	}
	err := a.askOnce(ctx, "session "+id, func(ctx context.Context) error { return a.guard.allows(ctx, token) })
	switch {
	case errors.As(err, new(deniedError)):
		a.leave(id)
		return false, nil
	case errors.Is(err, errBusy):
		return false, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		s.failed = a.now()
		return false, errAway
	}
	s.confirmed = a.now()
	return true, nil
}

// access says whether a request may read the page.
type access struct {
	// open reports whether it may.
	open bool
	// needed reports whether a token is needed.
	needed bool
	// err is set if access could not be determined.
	err error
}

func (a *authorizer) of(r *http.Request) access {
	off, err := a.aclsDisabled(r.Context())
	if off || err != nil {
		return access{open: off, needed: !off, err: err}
	}
	c, err := r.Cookie(cookie)
	if err != nil {
		return access{needed: true}
	}
	open, err := a.knows(r.Context(), c.Value)
	return access{open: open, needed: true, err: err}
}

// problem is the response to a refused or failed request.
type problem struct {
	Error string `json:"error"`
}

func (a *authorizer) authorize(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch a := a.of(r); {
		case a.err != nil:
			answer(w, http.StatusServiceUnavailable, problem{a.err.Error()})
			return
		case !a.open:
			answer(w, http.StatusUnauthorized, problem{"a Nomad token is needed"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// standing is the state of a browser's session.
type standing struct {
	// Needed reports whether a token is needed.
	Needed bool `json:"needed"`
	Open   bool `json:"open"`
	// Away is the reason if access could not be determined. The browser then asks again.
	Away string `json:"away,omitempty"`
	// NomadUI is the base address of links to jobs and allocations, "" for no links.
	NomadUI string `json:"nomad_ui,omitempty"`
	// History reports whether more than the last hour is available.
	History bool `json:"history,omitempty"`
}

func (s *Server) serveSession(w http.ResponseWriter, r *http.Request) {
	a := s.authorizer.of(r)
	out := standing{Open: a.open, Needed: a.needed}
	if a.err != nil {
		out.Away = a.err.Error()
	}
	if out.Open {
		out.NomadUI, out.History = s.o.NomadUI, s.o.History != nil
	}
	answer(w, http.StatusOK, out)
}

// signInTimeout is the longest time for the body of a sign-in to arrive.
const signInTimeout = 10 * time.Second

func (s *Server) openSession(w http.ResponseWriter, r *http.Request) {
	// Anyone can send this request, so do not wait long for its body.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(signInTimeout))
	var given struct {
		Token string `json:"token"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 8<<10)).Decode(&given); err != nil || given.Token == "" {
		answer(w, http.StatusBadRequest, problem{"want a token"})
		return
	}
	id, err := s.authorizer.enter(r.Context(), given.Token)
	if errors.As(err, new(deniedError)) {
		answer(w, http.StatusForbidden, problem{err.Error()})
		return
	}
	if errors.Is(err, errBusy) {
		answer(w, http.StatusServiceUnavailable, problem{err.Error()})
		return
	}
	if err != nil {
		s.o.Log.Warn("cannot check a user's token", "error", err)
		answer(w, http.StatusServiceUnavailable, problem{errAway.Error()})
		return
	}
	setCookie(w, r, id, int(maxSessionAge.Seconds()))
	answer(w, http.StatusOK, standing{Needed: true, Open: true, NomadUI: s.o.NomadUI, History: s.o.History != nil})
}

func (s *Server) closeSession(w http.ResponseWriter, r *http.Request) {
	if c, err := r.Cookie(cookie); err == nil {
		s.authorizer.leave(c.Value)
	}
	setCookie(w, r, "", -1)
	answer(w, http.StatusOK, standing{Needed: true})
}

func setCookie(w http.ResponseWriter, r *http.Request, value string, age int) {
	http.SetCookie(w, &http.Cookie{
		Name: cookie, Value: value, Path: "/", MaxAge: age, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil,
	})
}
