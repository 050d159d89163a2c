// Package s3 implements the read part of S3 for unmodified clients, whose AWS_ENDPOINT_URL points
// to it. It serves the buckets of the S3 origins, and one with models of the Hugging Face Hub.
// Objects come through the node's cache.
package s3

import (
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"aliquot.example/cache/fetch"
	"aliquot.example/cache/models"
	"aliquot.example/cache/origin"
	"aliquot.example/cache/serve"
	"aliquot.example/internal/blob"
)

// HubBucket is the bucket for models of the Hub. Its keys are <owner>/<name>/<revision>/<path>.
const HubBucket = "huggingface"

// Handler is the HTTP handler.
type Handler struct {
	Library *models.Library
	// Origin are the servers whose buckets are served; nil for none.
	Origin *origin.S3Servers
	// Domain is the domain whose subdomains are buckets.
	Domain string
	// Keys are the keys that the endpoint accepts; nil to accept every client.
	Keys *Keys
	// Token returns the token with which the cache asks the origin of a model, given by scheme and
	// name, for tasks of a Nomad namespace; "" for a client without one.
	Token func(scheme, name, namespace string) string
	Log   *slog.Logger
}

// ask is a parsed request.
type ask struct {
	bucket, key string
	namespace   string
	query       url.Values
}

// read takes the bucket from the host name or the path.
func (f *Handler) read(r *http.Request) ask {
	a := ask{query: r.URL.Query()}
	path := strings.TrimPrefix(r.URL.Path, "/")
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if bucket, ok := strings.CutSuffix(host, "."+f.Domain); ok {
		a.bucket, a.key = bucket, path
		return a
	}
	a.bucket, a.key, _ = strings.Cut(path, "/")
	return a
}

// ServeHTTP serves a request.
func (f *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := f.serve(w, r); err != nil {
		f.refuse(w, r, err)
	}
}

func (f *Handler) serve(w http.ResponseWriter, r *http.Request) error {
	a := f.read(r)
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return &failure{http.StatusMethodNotAllowed, "MethodNotAllowed", "This cache is read-only."}
	}
	if f.Keys != nil {
		var err error
		if a.namespace, err = f.Keys.Verify(r, time.Now()); err != nil {
			return err
		}
	}
	switch {
	case a.bucket == "":
		return f.buckets(w)
	case a.key != "":
		return f.object(w, r, a)
	case r.Method == http.MethodHead:
		return f.bucket(r.Context(), a)
	case a.query.Has("location"):
		return answer(w, struct {
			XMLName xml.Name `xml:"http://s3.amazonaws.com/doc/2006-03-01/ LocationConstraint"`
		}{})
	case a.query.Has("versioning"):
		return answer(w, struct {
			XMLName xml.Name `xml:"http://s3.amazonaws.com/doc/2006-03-01/ VersioningConfiguration"`
		}{})
	}
	for name := range a.query {
		if !slices.Contains(listParameters, name) {
			return unknown(name)
		}
	}
	return f.list(w, r.Context(), a)
}

// bucket returns an error unless the bucket exists and this client may list it.
func (f *Handler) bucket(ctx context.Context, a ask) error {
	if a.bucket == HubBucket {
		return nil
	}
	if f.Origin == nil {
		return errNoBucket
	}
	server, err := f.Origin.Server(a.bucket)
	if err != nil {
		return err
	}
	return server.Bucket(ctx, f.Token("s3", a.bucket, a.namespace), a.bucket)
}

func (f *Handler) buckets(w http.ResponseWriter) error {
	type bucket struct {
		Name         string
		CreationDate string
	}
	return answer(w, struct {
		XMLName xml.Name `xml:"http://s3.amazonaws.com/doc/2006-03-01/ ListAllMyBucketsResult"`
		Owner   struct{ ID, DisplayName string }
		Buckets []bucket `xml:"Buckets>Bucket"`
	}{Buckets: []bucket{{HubBucket, stamp(time.Unix(0, 0))}}})
}

// found is an object with the ETag and modification time for clients.
type found struct {
	target   fetch.Target
	etag     string
	modified time.Time
}

// find finds an object.
func (f *Handler) find(ctx context.Context, a ask) (found, error) {
	if a.bucket == HubBucket {
		return f.hubObject(ctx, a)
	}
	if f.Origin == nil {
		return found{}, errNoBucket
	}
	token := f.Token("s3", a.bucket, a.namespace)
	l, err := f.Library.List(ctx, blob.Ref{Scheme: "s3", Name: a.bucket + "/" + a.key,
		Revision: origin.OneObject}, token)
	if err != nil {
		return found{}, err
	}
	o := l.Files[0]
	return found{fetch.Target{Object: o.Object, Source: o.Source, Token: token}, o.ETag, o.Modified}, nil
}

// object serves GET and HEAD of an object.
func (f *Handler) object(w http.ResponseWriter, r *http.Request, a ask) error {
	for name := range a.query {
		if slices.Contains(subresources, name) {
			return unknown(name)
		}
	}
	o, err := f.find(r.Context(), a)
	if err != nil {
		return err
	}
	h := w.Header()
	etag := strconv.Quote(o.etag)
	h.Set("ETag", etag)
	h.Set("Last-Modified", o.modified.UTC().Format(http.TimeFormat))
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Type", "application/octet-stream")
	if want := r.Header.Get("If-Match"); want != "" && want != "*" && strings.Trim(want, `"`) != o.etag {
		return &failure{http.StatusPreconditionFailed, "PreconditionFailed", "The object has another ETag."}
	}
	if strings.Trim(r.Header.Get("If-None-Match"), `"`) == o.etag {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if r.Method == http.MethodHead {
		h.Set("Content-Length", strconv.FormatInt(o.target.Object.Size, 10))
		return nil
	}
	for name, header := range overrides {
		if value := a.query.Get(name); value != "" {
			h.Set(header, value)
		}
	}
	return serve.Sender{Cache: f.Library.Cache, Log: f.Log}.File(w, r, o.target, etag)
}

// overrides are the response headers that a request may set.
var overrides = map[string]string{
	"response-content-type": "Content-Type", "response-content-disposition": "Content-Disposition",
	"response-content-encoding": "Content-Encoding", "response-cache-control": "Cache-Control",
}

// subresources are parameters that request something other than the bytes of an object.
var subresources = []string{
	"acl", "attributes", "legal-hold", "retention", "tagging", "torrent", "uploadId", "uploads", "partNumber",
	"versionId",
}

// failure is an error as S3 reports it.
type failure struct {
	status        int
	code, message string
}

func (f *failure) Error() string { return f.message }

// unknown returns the error for an unsupported parameter.
func unknown(name string) error {
	return &failure{http.StatusNotImplemented, "NotImplemented", "This cache does not support the parameter " +
		strconv.Quote(name) + "."}
}

var errNoBucket = &failure{http.StatusNotFound, "NoSuchBucket",
	"There is no such bucket; the cache's configuration has no s3 block."}

// refuse sends an error. If the origin does not answer or is busy, the answer is 503 SlowDown,
// which S3 clients retry.
func (f *Handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	var reply *failure
	switch {
	case errors.As(err, &reply):
	case errors.Is(err, serve.ErrRange):
		reply = &failure{http.StatusRequestedRangeNotSatisfiable, "InvalidRange", err.Error()}
	case errors.Is(err, origin.ErrNotFound):
		reply = &failure{http.StatusNotFound, "NoSuchKey", err.Error()}
	case errors.Is(err, origin.ErrDenied):
		reply = &failure{http.StatusForbidden, "AccessDenied", err.Error()}
	default:
		f.Log.Warn("asking an S3 client to retry", "path", r.URL.Path, "error", err)
		serve.RetryAfter(w.Header(), err)
		reply = &failure{http.StatusServiceUnavailable, "SlowDown", err.Error()}
	}
	h := w.Header()
	h.Del("ETag")
	h.Set("Content-Type", "application/xml")
	w.WriteHeader(reply.status)
	if r.Method == http.MethodHead {
		return
	}
	_, _ = w.Write([]byte(xml.Header))
	_ = xml.NewEncoder(w).Encode(struct {
		XMLName  xml.Name `xml:"Error"`
		Code     string
		Message  string
		Resource string
	}{Code: reply.code, Message: reply.message, Resource: r.URL.Path})
}

func answer(w http.ResponseWriter, body any) error {
	text, err := xml.Marshal(body)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("Content-Length", strconv.Itoa(len(xml.Header)+len(text)))
	_, _ = w.Write([]byte(xml.Header))
	_, _ = w.Write(text)
	return nil
}

// stamp formats a time as S3 does.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// hubKey splits a key of HubBucket into a model and a path. A revision with a slash has no key.
func hubKey(key string) (ref blob.Ref, path string, ok bool) {
	words := strings.SplitN(key, "/", 4)
	if len(words) < 4 {
		return ref, "", false
	}
	ref, err := blob.ParseRef("hf://" + words[0] + "/" + words[1] + "@" + words[2])
	return ref, words[3], err == nil
}

// hubObject finds a file of a model of the Hub. Its ETag looks like that of a multipart upload:
// clients would take 32 hex digits for an MD5, and some warn about 64.
func (f *Handler) hubObject(ctx context.Context, a ask) (found, error) {
	ref, path, ok := hubKey(a.key)
	if !ok {
		return found{}, origin.ErrNotFound
	}
	token := f.Token("hf", ref.Name, a.namespace)
	l, err := f.Library.List(ctx, ref, token)
	if err != nil {
		return found{}, err
	}
	o, ok := l.File(path)
	if !ok {
		return found{}, origin.ErrNotFound
	}
	return found{fetch.Target{Object: o.Object, Source: o.Source, Token: token}, hubETag(o), time.Unix(0, 0)}, nil
}

func hubETag(o origin.File) string { return cmp.Or(o.Object.Checksum().Digest, "0") + "-1" }
