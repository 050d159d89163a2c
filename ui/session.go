package ui

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"
)

const (
	cookie = "aliquot_session"
	// idle ends a session that nobody uses, longest every one.
	idle, longest = 2 * time.Hour, 12 * time.Hour
	// recheck is how old an answer of Nomad may be about a token, and about whether
	// it has ACLs at all.
	recheck = 30 * time.Second
	// mostSessions bounds memory; the one that was unused for longest goes first.
	mostSessions = 1000
	// mostAsking bounds what a stranger can have Nomad be asked at once.
	mostAsking = 4
)

// guard says who may look.
type guard interface {
	// open reports whether Nomad has no ACLs, so that everybody may.
	open(ctx context.Context) (bool, error)
	// allows fails where a token may not read what the page shows.
	allows(ctx context.Context, token string) error
}

// doors lets in whom Nomad would tell the same. The token of a user is kept in memory
// alone, as long as the session; the browser holds a random number in its place.
type doors struct {
	guard  guard
	now    func() time.Time
	asking chan struct{}

	mu       sync.Mutex
	sessions map[string]*session
	free     bool // Nomad has no ACLs
	freeAt   time.Time
}

type session struct {
	token                  string
	began, used, confirmed time.Time
}

func newDoors(g guard) *doors {
	return &doors{guard: g, now: time.Now, asking: make(chan struct{}, mostAsking), sessions: map[string]*session{}}
}

var errBusy = errors.New("too many tokens are being checked: try again")

// ask has the guard asked by few at a time.
func (d *doors) ask(ctx context.Context, f func(context.Context) error) error {
	select {
	case d.asking <- struct{}{}:
	case <-time.After(5 * time.Second):
		return errBusy
	}
	defer func() { <-d.asking }()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return f(ctx)
}

// unlocked reports whether no token is needed. While Nomad cannot be asked, what it
// said last holds; where it never said, nobody is let in.
func (d *doors) unlocked(ctx context.Context) bool {
	d.mu.Lock()
	free, fresh := d.free, d.now().Sub(d.freeAt) < recheck
	d.mu.Unlock()
	if fresh {
		return free
	}
	err := d.ask(ctx, func(ctx context.Context) (err error) {
		free, err = d.guard.open(ctx)
		return err
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		d.free, d.freeAt = free, d.now()
	}
	return d.free
}

// enter opens a session for a token.
func (d *doors) enter(ctx context.Context, token string) (id string, err error) {
	if err := d.ask(ctx, func(ctx context.Context) error { return d.guard.allows(ctx, token) }); err != nil {
		return "", err
	}
	id = rand.Text()
	now := d.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sweep(now)
	d.sessions[id] = &session{token, now, now, now}
	return id, nil
}

// sweep drops sessions that have ended, and one that was unused for longest where there
// are too many; d.mu is held.
func (d *doors) sweep(now time.Time) {
	oldest := ""
	for id, s := range d.sessions {
		switch {
		case now.Sub(s.used) > idle || now.Sub(s.began) > longest:
			delete(d.sessions, id)
		case oldest == "" || s.used.Before(d.sessions[oldest].used):
			oldest = id
		}
	}
	if len(d.sessions) >= mostSessions {
		delete(d.sessions, oldest)
	}
}

func (d *doors) leave(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.sessions, id)
}

// knows reports whether a session may look now. A token that Nomad no longer takes
// ends it, as does Nomad's silence for longer than recheck.
func (d *doors) knows(ctx context.Context, id string) bool {
	now := d.now()
	d.mu.Lock()
	s := d.sessions[id]
	if s == nil || now.Sub(s.used) > idle || now.Sub(s.began) > longest {
		delete(d.sessions, id)
		d.mu.Unlock()
		return false
	}
	s.used = now
	token, fresh := s.token, now.Sub(s.confirmed) < recheck
	d.mu.Unlock()
	if fresh {
		return true
	}
	err := d.ask(ctx, func(ctx context.Context) error { return d.guard.allows(ctx, token) })
	if errors.As(err, new(deniedError)) {
		d.leave(id)
	}
	if err != nil {
		return false
	}
	d.mu.Lock()
	s.confirmed = d.now()
	d.mu.Unlock()
	return true
}

// open reports whether a request may see something.
func (d *doors) open(r *http.Request) bool {
	if d.unlocked(r.Context()) {
		return true
	}
	c, err := r.Cookie(cookie)
	return err == nil && d.knows(r.Context(), c.Value)
}

// problem is the answer to a request that is not granted.
type problem struct {
	Error string `json:"error"`
}

func (d *doors) behind(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !d.open(r) {
			answer(w, http.StatusUnauthorized, problem{"a Nomad token is needed"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// standing is what a browser is told of its session.
type standing struct {
	// Needed is set where Nomad has ACLs.
	Needed bool `json:"needed"`
	Open   bool `json:"open"`
	// NomadUI is where links to jobs and allocations lead; "" for none.
	NomadUI string `json:"nomad_ui,omitempty"`
}

func (s *Server) serveSession(w http.ResponseWriter, r *http.Request) {
	out := standing{Open: s.doors.open(r), Needed: !s.doors.unlocked(r.Context())}
	if out.Open {
		out.NomadUI = s.o.NomadUI
	}
	answer(w, http.StatusOK, out)
}

// signInWithin bounds how long the body of a sign-in may take to come.
const signInWithin = 10 * time.Second

func (s *Server) openSession(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(signInWithin)) // strangers may ask
	var given struct {
		Token string `json:"token"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 8<<10)).Decode(&given); err != nil || given.Token == "" {
		answer(w, http.StatusBadRequest, problem{"want a token"})
		return
	}
	id, err := s.doors.enter(r.Context(), given.Token)
	if errors.As(err, new(deniedError)) {
		answer(w, http.StatusForbidden, problem{err.Error()})
		return
	}
	if err != nil {
		s.o.Log.Warn("a token could not be checked", "error", err)
		answer(w, http.StatusServiceUnavailable, problem{"the token could not be checked: Nomad does not answer"})
		return
	}
	setCookie(w, r, id, int(longest.Seconds()))
	answer(w, http.StatusOK, standing{Needed: true, Open: true, NomadUI: s.o.NomadUI})
}

func (s *Server) closeSession(w http.ResponseWriter, r *http.Request) {
	if c, err := r.Cookie(cookie); err == nil {
		s.doors.leave(c.Value)
	}
	setCookie(w, r, "", -1)
	answer(w, http.StatusOK, standing{Needed: true})
}

func setCookie(w http.ResponseWriter, r *http.Request, value string, age int) {
	http.SetCookie(w, &http.Cookie{
		Name: cookie, Value: value, Path: "/", MaxAge: age, HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil,
	})
}
