// Package models lists the files of models, decides who may read them, and fetches whole models to
// the node for read-only mounts.
package models

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"aliquot.example/cache/fetch"
	"aliquot.example/cache/origin"
	"aliquot.example/internal/blob"
)

const (
	// fresh and accessTTL are the defaults of Fresh and PassFor.
	fresh     = time.Minute
	accessTTL = 5 * time.Minute
	// listWait is the default of ListWait: clients of the Hub give up after 10 s.
	listWait = 8 * time.Second
	// listTimeout bounds a listing. For a repository with a hundred thousand files, the Hub's listing
	// has a hundred pages.
	listTimeout = 5 * time.Minute
	// listRetry is when to ask again for a listing that is still running.
	listRetry = 5 * time.Second
)

// Library lists models. It is safe for concurrent use.
type Library struct {
	Cache   *fetch.Cache
	Origins origin.Set
	Log     *slog.Logger
	// Linger is how long a fetch continues after its last owner has gone; 0 for 2 minutes.
	Linger time.Duration
	// Fresh is how long the revision of a branch or tag is used without asking again, and PassFor
	// how long the origin's permission for a client is.
	Fresh, PassFor time.Duration
	// ListWait bounds how long a request waits for an origin to list a model. The listing continues
	// in the background.
	ListWait time.Duration

	records *records

	mu     sync.Mutex
	passed map[string]time.Time // by asker: when the origin last permitted it to read
	jobs   map[string]*Job
	asking map[string]*asking
}

// asking is a request to the origin for which several clients may wait.
type asking struct {
	done chan struct{}
	l    *Listing
	err  error
}

// New returns a library for a cache.
func New(c *fetch.Cache, origins origin.Set, log *slog.Logger) (*Library, error) {
	l := &Library{
		Cache: c, Origins: origins, Log: log, Fresh: fresh, PassFor: accessTTL, ListWait: listWait,
		passed: map[string]time.Time{}, jobs: map[string]*Job{}, asking: map[string]*asking{},
	}
	var err error
	l.records, err = openRecords(l.dir(), c.Store().WriteFile, log)
	return l, err
}

func (l *Library) dir() string { return filepath.Join(l.Cache.Store().Dir(), "listings") }

func digest(words ...string) string {
	h := sha256.New()
	for _, w := range words {
		fmt.Fprintf(h, "%d:%s,", len(w), w)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// asker identifies a token and a repository by a digest.
func asker(ref blob.Ref, token string) string { return digest(token, ref.Scheme, ref.Name) }

// Close closes the library's cache and returns when all jobs have ended.
func (l *Library) Close() {
	l.Cache.Close()
	l.mu.Lock()
	jobs := slices.Collect(maps.Values(l.jobs))
	l.mu.Unlock()
	for _, j := range jobs {
		<-j.Done()
	}
}

// List lists a model for a client with a token, if the origin permits it. It asks the origin again
// only when Fresh or PassFor has expired. If the origin does not answer, List returns the last
// known revision to clients that may read it.
func (l *Library) List(ctx context.Context, ref blob.Ref, token string) (*Listing, error) {
	if ref.Scheme == "oci" && !origin.IsTag(ref.Revision) && !origin.IsDigest(ref.Revision) {
		return nil, fmt.Errorf("%w: oci://%s: %.150q is neither a tag nor a SHA-256 digest", ErrAsk, ref.Name,
			ref.Revision)
	}
	if known := l.known(ref, token, l.Fresh, l.PassFor); known != nil {
		return known, nil
	}
	key := ref.String() + "\x00" + ref.Revision + "\x00" + asker(ref, token)
	l.mu.Lock()
	a := l.asking[key]
	if a == nil {
		a = &asking{done: make(chan struct{})}
		l.asking[key] = a
		go func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), listTimeout)
			defer cancel()
			a.l, a.err = l.ask(ctx, ref, token)
			l.mu.Lock()
			delete(l.asking, key)
			l.mu.Unlock()
			close(a.done)
		}()
	}
	l.mu.Unlock()
	timeout := time.NewTimer(l.ListWait)
	defer timeout.Stop()
	select {
	case <-a.done:
		return a.l, a.err
	case <-timeout.C:
		return l.lastKnown(ref, token,
			&origin.Later{After: listRetry, What: "the origin has not finished listing " + ref.String()})
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// lastKnown returns the last known listing when the origin does not answer, to clients that the
// origin permitted before.
func (l *Library) lastKnown(ref blob.Ref, token string, err error) (*Listing, error) {
	known := l.known(ref, token, 0, 0)
	if known == nil {
		return nil, err
	}
	l.Log.Warn("the origin does not answer; using the last known revision", "model", ref.String(),
		"revision", known.Revision, "error", err)
	known.Stale = true
	return known, nil
}

// ask asks the origin.
func (l *Library) ask(ctx context.Context, ref blob.Ref, token string) (*Listing, error) {
	got, err := l.fromOrigin(ctx, ref, token)
	if err == nil {
		err = inside(ref, got.Files)
	}
	if err == nil {
		l.learn(ref, token, got)
		got.index = cmp.Or(got.index, &index{})
		return got, nil
	}
	if origin.Final(err) {
		l.mu.Lock()
		delete(l.passed, asker(ref, token))
		l.mu.Unlock()
		l.refused(ref, token, err)
		return nil, err
	}
	return l.lastKnown(ref, token, err)
}

// inside returns an error for file names that lead out of the model's folder or are not clean,
// because two such names could be one file.
func inside(ref blob.Ref, files []origin.File) error {
	for _, f := range files {
		if f.Path != path.Clean(f.Path) || !filepath.IsLocal(f.Path) {
			return fmt.Errorf("%w: model %s: its file %.200q has a path outside the model", ErrAsk, ref, f.Path)
		}
	}
	return nil
}

// refused marks a repository as restricted if the origin refuses it to clients without credentials.
// For a private repository, the Hub answers that it does not exist.
func (l *Library) refused(ref blob.Ref, token string, err error) {
	o, ok := l.Origins[ref.Scheme].(interface{ Anonymous(token string) bool })
	if ok && o.Anonymous(token) && (ref.Scheme == "hf" || errors.Is(err, origin.ErrDenied)) {
		l.restrict(ref, true)
	}
}

func (l *Library) fromOrigin(ctx context.Context, ref blob.Ref, token string) (*Listing, error) {
	switch o := l.Origins[ref.Scheme].(type) {
	case *origin.Hub:
		return l.fromHub(ctx, o, ref, token)
	case *origin.OCI:
		return l.fromRegistry(ctx, o, ref, token)
	}
	got, err := l.Origins.List(ctx, ref, token)
	if err != nil {
		return nil, err
	}
	return &Listing{Listing: *got}, nil
}

func (l *Library) fromHub(ctx context.Context, hub *origin.Hub, ref blob.Ref, token string) (*Listing, error) {
	info, err := hub.Info(ctx, ref.Name, ref.Revision, token)
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", ref, err)
	}
	got, err := l.load(ref, info.Commit)
	if err != nil {
		if got, err = listed(ctx, hub, ref, info.Commit, token); err != nil {
			return nil, fmt.Errorf("model %s: %w", ref, err)
		}
	}
	// The repository may have become gated since the commit was listed.
	got.Info = info.Answer
	restricted := origin.Restricted(info.Answer)
	got.Public = !restricted && (got.Public || hub.Anonymous(token))
	l.restrict(ref, restricted)
	if restricted {
		got.Files = origin.Scope(ref.Name, got.Files)
		if err := hub.Access(ctx, got.Files, token); err != nil {
			return nil, fmt.Errorf("model %s: %w", ref, err)
		}
	}
	return got, nil
}

// listed lists a commit at the Hub.
func listed(ctx context.Context, hub *origin.Hub, ref blob.Ref, sha, token string) (*Listing, error) {
	tree, err := hub.Tree(ctx, ref.Name, sha, token)
	if err != nil {
		return nil, err
	}
	files, err := origin.Files(ref.Name, sha, tree)
	if err != nil {
		return nil, err
	}
	return &Listing{Listing: origin.Listing{Ref: ref, Revision: sha, Files: files}, Tree: tree}, nil
}

// learn records a listing, and that its client may read it.
func (l *Library) learn(ref blob.Ref, token string, got *Listing) {
	l.pass(asker(ref, token))
	if err := l.save(ref, got); err != nil {
		l.Log.Warn("cannot save a listing", "model", ref.String(), "error", err)
	}
}

const (
	// passes is how long a permission lasts while the origin does not answer.
	passes = 24 * time.Hour
	// maxPassed bounds the permissions that are remembered.
	maxPassed = 100_000
)

// pass records that the origin permitted a client to read.
func (l *Library) pass(who string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.passed[who] = now
	for who, at := range l.passed {
		if now.Sub(at) > passes {
			delete(l.passed, who)
		}
	}
	if len(l.passed) <= maxPassed {
		return
	}
	longest := slices.SortedFunc(maps.Keys(l.passed), func(a, b string) int { return l.passed[a].Compare(l.passed[b]) })
	for _, who := range longest[:maxPassed/10] {
		delete(l.passed, who)
	}
}

// known returns a listing without asking the origin, or nil. A branch must have been read at most
// maxAge ago, and the client permitted at most maxPass ago; 0 for any time.
func (l *Library) known(ref blob.Ref, token string, maxAge, maxPass time.Duration) *Listing {
	l.mu.Lock()
	at, passed := l.passed[asker(ref, token)]
	l.mu.Unlock()
	b := l.loadBranch(ref)
	now := time.Now()
	passed = passed && (maxPass == 0 || now.Sub(at) < maxPass) || l.ownCredentials(ref, token)
	switch {
	case b.Revision == "":
		return nil
	case !passed && (maxPass != 0 || !b.Public):
		return nil
	case !immutable(ref) && b.stale(maxAge, now):
		return nil
	}
	got, err := b.Listing, error(nil)
	if got == nil {
		got, err = l.load(ref, b.Revision)
	}
	if err != nil || !passed && l.restrictedNow(ref, got) {
		return nil
	}
	return got
}

// restrictedNow reports whether the origin restricts who may read the repository of a listing.
func (l *Library) restrictedNow(ref blob.Ref, got *Listing) bool {
	return l.restricted(ref) || ref.Scheme == "hf" && origin.Restricted(got.Info)
}

// immutable reports whether a ref names a revision that never changes.
func immutable(ref blob.Ref) bool {
	return ref.Scheme == "hf" && origin.IsCommit(ref.Revision) || ref.Scheme == "oci" && origin.IsDigest(ref.Revision)
}

// stale reports whether a branch was read longer than maxAge ago; with 0, none is stale.
func (b *branch) stale(maxAge time.Duration, now time.Time) bool {
	return maxAge != 0 && (now.Sub(b.At) >= maxAge || b.At.After(now)) // a clock may have been ahead
}

// ownCredentials reports whether the configuration, and not the origin, decides that this client may read,
// because requests use the node's own credentials.
func (l *Library) ownCredentials(ref blob.Ref, token string) bool {
	o, ok := l.Origins[ref.Scheme].(interface{ Own(name, token string) bool })
	return ok && o.Own(ref.Name, token)
}

func (l *Library) load(ref blob.Ref, revision string) (*Listing, error) {
	got, err := parsed[*Listing](l.records, recordName(ref, "@"+revision))
	if err != nil {
		return nil, err
	}
	if got == nil {
		return nil, fmt.Errorf("the record of %s at %s is empty", ref, revision)
	}
	return got.of(ref), nil
}
