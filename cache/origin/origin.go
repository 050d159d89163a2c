// Package origin reads objects where they come from: the Hugging Face Hub, S3, registries, web
// servers and files. A source is written as a URL, whose scheme says which origin reads it.
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

// The kinds of errors that a caller tells apart. All others may pass by.
var (
	// ErrNotFound: the origin answers that it has no such thing.
	ErrNotFound = errors.New("not found at the origin")
	// ErrDenied: the origin does not give it to the bearer of this token.
	ErrDenied = errors.New("the origin denies access")
	// ErrChanged: it is not what it was when it was listed.
	ErrChanged = errors.New("it has changed at the origin")
)

// Nobody is the token of a client without its own token that may not use the node's either.
const Nobody = "\x00"

// Later is the error of an origin that asks the client to try again later.
type Later struct {
	After time.Duration
	What  string
}

func (l *Later) Error() string { return fmt.Sprintf("%s: ask again in %s", l.What, l.After) }

// Final reports whether asking again cannot help.
func Final(err error) bool {
	return errors.Is(err, ErrNotFound) || errors.Is(err, ErrDenied) || errors.Is(err, ErrChanged)
}

// Origin opens a part of an object.
type Origin interface {
	// Open reads length bytes from an offset. The token is the asker's, "" for none.
	Open(ctx context.Context, source, token string, o blob.Object, offset, length int64) (io.ReadCloser, error)
}

// Lister is an origin that knows what a model is made of.
type Lister interface {
	// List lists the files of a revision. Public is set where no token was needed.
	List(ctx context.Context, ref blob.Ref, token string) (*Listing, error)
}

// Listing is one revision of a model.
type Listing struct {
	Ref blob.Ref `json:"ref"`
	// Revision is what never changes: a commit, a digest.
	Revision string `json:"revision"`
	Public   bool   `json:"public"`
	Files    []File `json:"files"`
	// Manifest is that of a registry, nil elsewhere.
	Manifest *Manifest `json:"manifest,omitempty"`
}

// File is one file of a model.
type File struct {
	Path   string      `json:"path"`
	Object blob.Object `json:"object"`
	Source string      `json:"source"`
	// ETag and Modified are the origin's word, for its clients; of S3 alone.
	ETag     string    `json:"etag,omitempty"`
	Modified time.Time `json:"modified,omitzero"`
}

// Set is the origins by scheme.
type Set map[string]Origin

// Of returns the origin of a source or ref.
func (s Set) Of(scheme string) (Origin, error) {
	if o := s[scheme]; o != nil {
		return o, nil
	}
	return nil, fmt.Errorf("no origin reads %q: want one of %s", scheme,
		strings.Join(slices.Sorted(maps.Keys(s)), ", "))
}

// Open opens a part of an object at the origin of its source.
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
