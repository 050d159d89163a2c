// Package oci implements the pull part of the registry protocol for unmodified clients: docker
// pulls 127.0.0.1:<port>/<host>/<repository> and gets <repository> from <host>. Manifests and blobs
// come through the node's cache.
// https://github.com/opencontainers/distribution-spec/blob/main/spec.md
package oci

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"path"
	"strconv"
	"strings"

	"aliquot.example/cache/fetch"
	"aliquot.example/cache/models"
	"aliquot.example/cache/origin"
	"aliquot.example/cache/serve"
	"aliquot.example/internal/blob"
)

// Handler is the HTTP handler.
type Handler struct {
	Library *models.Library
	// Token returns the registry credentials for tasks of a Nomad namespace, "" for a client
	// without one.
	Token   func(namespace string) string
	Tickets *Tickets
	Log     *slog.Logger
}

// ask is a parsed request.
type ask struct {
	name string // repository, with its host
	kind string // "manifests" or "blobs"
	what string // a tag or digest
}

// read parses a path. In a host with a port, two underscores replace the colon, which an image's
// name cannot contain there.
func read(at string) (a ask, ok bool) {
	words := strings.Split(strings.TrimPrefix(at, "/v2/"), "/")
	n := len(words)
	if n < 4 || words[n-2] != "manifests" && words[n-2] != "blobs" {
		return a, false
	}
	if what := words[n-1]; !origin.IsDigest(what) && (words[n-2] == "blobs" || !origin.IsTag(what)) {
		return a, false
	}
	words[0] = strings.Replace(words[0], "__", ":", 1)
	return ask{strings.Join(words[:n-2], "/"), words[n-2], words[n-1]}, true
}

// Path returns the path of an image or repository below an endpoint.
func Path(name string) string {
	host, rest, _ := strings.Cut(name, "/")
	return strings.Replace(host, ":", "__", 1) + "/" + rest
}

// ServeHTTP serves a request.
func (f *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if path.Clean(r.URL.Path) == TokenPath {
		f.Tickets.serve(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		fail(w, r, http.StatusMethodNotAllowed, "UNSUPPORTED", "this cache is read-only")
		return
	}
	who, signed, err := f.Tickets.bearer(r)
	if err != nil || r.URL.Path == "/v2/" && !signed {
		f.challenge(w, r, "", "sign in first, with or without credentials")
		return
	}
	if r.URL.Path == "/v2/" {
		_, _ = w.Write([]byte("{}"))
		return
	}
	a, ok := read(r.URL.Path)
	if !ok {
		fail(w, r, http.StatusNotFound,
			"UNSUPPORTED", "this cache serves only manifests by tag or SHA-256 digest, and blobs by digest")
		return
	}
	token := who.token
	if token == "" && (who.name == "" || who.name == a.name) {
		token = f.Token(who.namespace)
	} else if token == "" {
		token = f.Token("")
	}
	if err := f.serve(w, r, a, token); err != nil {
		f.refuse(w, r, a, signed && who != (asker{}), err)
	}
}

func (f *Handler) serve(w http.ResponseWriter, r *http.Request, a ask, token string) error {
	o, kind := origin.File{}, "application/octet-stream"
	if a.kind == "manifests" {
		l, err := f.Library.List(r.Context(), blob.Ref{Scheme: "oci", Name: a.name, Revision: a.what}, token)
		if err != nil {
			return err
		}
		o, kind = l.Manifest.File, l.Manifest.MediaType
	} else {
		var err error
		if o, err = f.Library.Blob(r.Context(), a.name, a.what, token); err != nil {
			return err
		}
	}
	digest := path.Base(o.Source)
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Docker-Content-Digest", digest)
	h.Set("ETag", strconv.Quote(digest))
	h.Set("Accept-Ranges", "bytes")
	if r.Method == http.MethodHead {
		h.Set("Content-Length", strconv.FormatInt(o.Object.Size, 10))
		return nil
	}
	t := fetch.Target{Object: o.Object, Source: o.Source, Token: token}
	return serve.Sender{Cache: f.Library.Cache, Log: f.Log}.File(w, r, t, strconv.Quote(digest))
}

// challenge asks a client to sign in.
func (f *Handler) challenge(w http.ResponseWriter, r *http.Request, name, why string) {
	scope := ""
	if name != "" {
		scope = `,scope="repository:` + Path(name) + `:pull"`
	}
	host := strings.NewReplacer(`"`, "", `\`, "").Replace(r.Host)
	w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+host+TokenPath+`",service="aliquot-cache"`+scope)
	fail(w, r, http.StatusUnauthorized, "UNAUTHORIZED", why)
}

func (f *Handler) refuse(w http.ResponseWriter, r *http.Request, a ask, named bool, err error) {
	h := w.Header()
	for _, name := range []string{"ETag", "Docker-Content-Digest"} {
		h.Del(name)
	}
	switch {
	case errors.Is(err, serve.ErrRange):
		fail(w, r, http.StatusRequestedRangeNotSatisfiable, "SIZE_INVALID", err.Error())
	case errors.Is(err, origin.ErrDenied) && !named:
		f.challenge(w, r, a.name, err.Error())
	case errors.Is(err, origin.ErrDenied):
		fail(w, r, http.StatusForbidden, "DENIED", err.Error())
	case errors.Is(err, origin.ErrNotFound):
		code := map[string]string{"manifests": "MANIFEST_UNKNOWN", "blobs": "BLOB_UNKNOWN"}[a.kind]
		fail(w, r, http.StatusNotFound, code, err.Error())
	default:
		f.Log.Warn("asking a registry client to retry", "path", r.URL.Path, "error", err)
		serve.RetryAfter(h, err)
		fail(w, r, http.StatusServiceUnavailable, "UNAVAILABLE", err.Error())
	}
}

func fail(w http.ResponseWriter, r *http.Request, status int, code, message string) {
	type one struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_ = json.NewEncoder(w).Encode(map[string][]one{"errors": {{code, message}}})
	}
}
