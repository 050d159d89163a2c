// Package origin reads objects from their origins: the Hugging Face Hub, S3, registries, web
// servers and files. A source is a URL whose scheme selects the origin.
package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"aliquot.example/internal/blob"
)

// The errors that callers distinguish. All other errors may be temporary.
var (
	// ErrNotFound means that the origin does not have it.
	ErrNotFound = errors.New("not found at the origin")
	// ErrDenied means that the origin does not grant access with this token.
	ErrDenied = errors.New("the origin denies access")
	// ErrChanged means that it has changed since it was listed.
	ErrChanged = errors.New("changed at the origin")
)

// Nobody is the token of a client that has none and may not use the node's own.
const Nobody = "\x00"

// Later is the error of an origin that asks to retry later.
type Later struct {
	After time.Duration
	What  string
}

func (l *Later) Error() string { return fmt.Sprintf("%s: try again in %s", l.What, l.After) }

// Final reports whether a retry cannot help.
func Final(err error) bool {
	return errors.Is(err, ErrNotFound) || errors.Is(err, ErrDenied) || errors.Is(err, ErrChanged)
}

// Origin reads parts of objects.
type Origin interface {
	// Open reads length bytes from an offset. The token is the client's, "" for none.
	Open(ctx context.Context, source, token string, o blob.Object, offset, length int64) (io.ReadCloser, error)
}

// Lister is an origin that can list the files of a model.
type Lister interface {
	// List lists the files of a revision. Public is true if no token was needed.
	List(ctx context.Context, ref blob.Ref, token string) (*Listing, error)
}

// Listing is one revision of a model.
type Listing struct {
	Ref blob.Ref `json:"ref"`
	// Revision never changes: it is a commit or a digest.
	Revision string `json:"revision"`
	Public   bool   `json:"public"`
	Files    []File `json:"files"`
	// Manifest is the manifest of a registry's model; nil for other origins.
	Manifest *Manifest `json:"manifest,omitempty"`
}

// File is one file of a model.
type File struct {
	Path   string      `json:"path"`
	Object blob.Object `json:"object"`
	Source string      `json:"source"`
	// ETag and Modified are what S3 states, for clients of S3; other origins leave them empty.
	ETag     string    `json:"etag,omitempty"`
	Modified time.Time `json:"modified,omitzero"`
}

// Set maps schemes to origins.
type Set map[string]Origin

// Of returns the origin of a scheme.
func (s Set) Of(scheme string) (Origin, error) {
	if o := s[scheme]; o != nil {
		return o, nil
	}
	return nil, fmt.Errorf("no origin reads %q: want one of %s", scheme,
		strings.Join(slices.Sorted(maps.Keys(s)), ", "))
}

// Open reads a part of an object from the origin of its source.
func (s Set) Open(ctx context.Context, source, token string, o blob.Object, offset,
	length int64) (io.ReadCloser, error) {
	scheme, _, _ := strings.Cut(source, "://")
	origin, err := s.Of(scheme)
	if err != nil {
		return nil, err
	}
	return origin.Open(ctx, source, token, o, offset, length)
}

// List lists a model at its origin.
func (s Set) List(ctx context.Context, ref blob.Ref, token string) (*Listing, error) {
	origin, err := s.Of(ref.Scheme)
	if err != nil {
		return nil, err
	}
	lister, ok := origin.(Lister)
	if !ok {
		return nil, fmt.Errorf("model %s: this origin cannot list models", ref)
	}
	return lister.List(ctx, ref, token)
}
