// Package local serves programs of the node on a Unix socket, with the API in internal/cacheapi.
package local

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"aliquot.example/cache/models"
	"aliquot.example/cache/origin"
	"aliquot.example/cache/store"
	"aliquot.example/internal/cacheapi"
)

// maxRequest bounds what is read of a request, in bytes; maxWait what one waits.
const (
	maxRequest = 1 << 20
	maxWait    = 60 * time.Second
)

// Token returns the token with which the cache asks the origin of a model, given by scheme and
// name, for a task of a Nomad namespace that sends the token given, or "".
type Token func(scheme, name, namespace, given string) string

// Handler serves the API.
func Handler(l *models.Library, token Token, status func() cacheapi.Status) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/fetch", func(w http.ResponseWriter, r *http.Request) { fetch(w, r, l, token) })
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, status())
	})
	mux.HandleFunc("DELETE /v1/pins/{owner}", func(w http.ResponseWriter, r *http.Request) {
		if err := l.Unpin(r.PathValue("owner")); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

func fetch(w http.ResponseWriter, r *http.Request, l *models.Library, token Token) {
	var ask cacheapi.Fetch
	decoder := json.NewDecoder(io.LimitReader(r.Body, maxRequest))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&ask); err != nil {
		http.Error(w, "cannot read the request: "+err.Error(), http.StatusBadRequest)
		return
	}
	scheme, name, _ := strings.Cut(ask.Model, "://")
	ask.Token = token(scheme, name, ask.Namespace, ask.Token)
	job, err := l.Fetch(r.Context(), ask)
	if err != nil {
		http.Error(w, err.Error(), code(err))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), min(time.Duration(ask.Wait*float64(time.Second)), maxWait))
	defer cancel()
	wait(ctx, job)
	if job.RefusedAnother(ask.Token) {
		if job, err = l.Fetch(r.Context(), ask); err != nil {
			http.Error(w, err.Error(), code(err))
			return
		}
		wait(ctx, job)
	}
	if r.Context().Err() != nil {
		return // the asker has gone, and may have ended its pins since
	}
	m, err := job.Held(ask.Owner)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	answer(w, http.StatusOK, m)
}

func wait(ctx context.Context, job *models.Job) {
	select {
	case <-job.Done():
	case <-ctx.Done():
	}
}

// code is the status of an error.
func code(err error) int {
	var later *origin.Later
	switch {
	case errors.Is(err, models.ErrAsk):
		return http.StatusBadRequest
	case errors.Is(err, origin.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, origin.ErrDenied):
		return http.StatusForbidden
	case errors.Is(err, store.ErrNoRoom):
		return http.StatusInsufficientStorage
	case errors.As(err, &later), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable
	}
	return http.StatusBadGateway
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
