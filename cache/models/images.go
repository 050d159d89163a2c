package models

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"aliquot.example/cache/fetch"
	"aliquot.example/cache/origin"
	"aliquot.example/internal/blob"
)

// fromRegistry asks a registry which manifest a ref names, which also checks the client's access.
// It reads the manifest like any other object, so the cluster reads it once.
func (l *Library) fromRegistry(ctx context.Context, o *origin.OCI, ref blob.Ref, token string) (*Listing, error) {
	m, err := o.Resolve(ctx, ref, token)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	got, err := l.load(ref, m.Digest())
	if err != nil {
		body, err := l.read(ctx, fetch.Target{Object: m.Object, Source: m.Source, Token: token})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", ref, err)
		}
		files, err := m.Read(ref.Name, body)
		if err != nil {
			return nil, err
		}
		got = &Listing{Listing: origin.Listing{Ref: ref, Revision: m.Digest(), Files: files, Manifest: m}}
		for _, f := range m.Blobs {
			if err := l.keepBlob(ref, f, o.Anonymous(token)); err != nil {
				return nil, err
			}
		}
	}
	got.Public = o.Anonymous(token)
	if got.Public {
		l.restrict(ref, false)
	}
	return got, nil
}

// read reads and verifies a small object.
func (l *Library) read(ctx context.Context, t fetch.Target) ([]byte, error) {
	r, err := l.Cache.Open(ctx, t, 0, t.Object.Size)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if err := r.Wait(); err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// keptBlob is a blob of a repository. Public is true if it was readable without credentials.
type keptBlob struct {
	origin.File
	Public bool `json:"public"`
}

// keepBlob records that a repository has a blob.
func (l *Library) keepBlob(ref blob.Ref, f origin.File, public bool) error {
	before, known := l.blob(ref, f.Path)
	now := keptBlob{f, public || before.Public}
	if known && now == before {
		return nil
	}
	text, err := json.Marshal(now)
	if err != nil {
		return err
	}
	return l.records.write(recordName(ref, "="+f.Path), text)
}

func (l *Library) blob(ref blob.Ref, digest string) (f keptBlob, ok bool) {
	text, err := l.records.read(recordName(ref, "="+digest))
	return f, err == nil && json.Unmarshal(text, &f) == nil
}

// Blob returns a blob of a repository if the registry grants this client access. If the registry
// does not answer, clients that had access before still have it.
func (l *Library) Blob(ctx context.Context, name, digest, token string) (origin.File, error) {
	o, ok := l.Origins["oci"].(*origin.OCI)
	if !ok {
		return origin.File{}, origin.ErrNotFound
	}
	ref := blob.Ref{Scheme: "oci", Name: name, Revision: digest}
	who := asker(ref, token)
	l.mu.Lock()
	at, passed := l.passed[who]
	l.mu.Unlock()
	f, known := l.blob(ref, digest)
	if known && passed && time.Since(at) < l.PassFor {
		return f.File, nil
	}
	ctx, cancel := context.WithTimeout(ctx, listWait)
	defer cancel()
	got, err := o.Blob(ctx, name, digest, token)
	switch {
	case err == nil:
		l.pass(who)
		if o.Anonymous(token) {
			l.restrict(ref, false)
		}
		return got, l.keepBlob(ref, got, o.Anonymous(token))
	case errors.Is(err, origin.ErrDenied):
		l.mu.Lock()
		delete(l.passed, who)
		l.mu.Unlock()
		l.refused(ref, token, err)
	case !origin.Final(err) && known && (passed || l.ownCredentials(ref, token) || f.Public && !l.restricted(ref)):
		l.Log.Warn("the registry does not answer; using what is known about a blob",
			"repository", name, "blob", digest, "error", err)
		return f.File, nil
	}
	return origin.File{}, fmt.Errorf("oci://%s: %w", name, err)
}

// platform replaces an index of manifests by the manifest for this machine, or by the only one.
func (l *Library) platform(ctx context.Context, got *Listing, token string) (*Listing, error) {
	if got.Manifest == nil || len(got.Manifest.Platforms) == 0 {
		if got.Manifest != nil && len(got.Files) == 0 {
			return nil, fmt.Errorf("%w: %s is an image without model files", ErrAsk, got.Ref)
		}
		return got, nil
	}
	all := got.Manifest.Platforms
	i := slices.IndexFunc(all, func(p origin.Platform) bool {
		return p.OS == "linux" && p.Architecture == runtime.GOARCH
	})
	if i < 0 && len(all) > 1 {
		return nil, fmt.Errorf("%w: %s has no manifest for linux/%s", ErrAsk, got.Ref, runtime.GOARCH)
	}
	child := got.Ref
	child.Revision = all[max(i, 0)].Digest
	one, err := l.List(ctx, child, token)
	if err != nil {
		return nil, err
	}
	if len(one.Manifest.Platforms) > 0 {
		return nil, fmt.Errorf("%w: %s is an index of indexes, which is not supported", ErrAsk, got.Ref)
	}
	copied := *one
	copied.Ref, copied.Stale = got.Ref, got.Stale
	return l.platform(ctx, &copied, token)
}
