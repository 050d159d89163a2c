package origin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"aliquot.example/cache/bulk"
	"aliquot.example/internal/blob"
)

// NewClient returns an HTTP client for origins. It does not request compression, because compressed
// bodies cannot be read by range.
func NewClient() *http.Client {
	return &http.Client{CheckRedirect: homeOnly, Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           bulk.Dial(&net.Dialer{Timeout: 10 * time.Second}),
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       time.Minute,
		DisableCompression:    true,
	}}
}

// homeOnly sends a token only to the original scheme, host and port. The target of a redirect has
// its authorization in the URL.
func homeOnly(r *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("too many redirects")
	}
	if r.URL.Host != via[0].URL.Host || r.URL.Scheme != via[0].URL.Scheme {
		r.Header.Del("Authorization")
	}
	return nil
}

// Web reads files from web servers.
type Web struct{ Client *http.Client }

// Open reads a range of a file.
func (w Web) Open(ctx context.Context, source, token string, o blob.Object, offset,
	length int64) (io.ReadCloser, error) {
	return openRange(ctx, w.Client, source, token, o, offset, length)
}

// openRange requests a range of a URL and checks the response.
func openRange(ctx context.Context, client *http.Client, at, token string, o blob.Object, offset,
	length int64) (io.ReadCloser, error) {
	r, err := newRequest(ctx, http.MethodGet, at, token)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
	res, err := client.Do(r)
	if err != nil {
		return nil, unwrapped(err)
	}
	body, err := part(res, o, offset, length)
	if err != nil {
		res.Body.Close()
		return nil, err
	}
	return body, nil
}

// part checks the response to a range request and returns a body with just that range.
func part(res *http.Response, o blob.Object, offset, length int64) (io.ReadCloser, error) {
	switch {
	case res.StatusCode == http.StatusPartialContent:
		start, total, ok := contentRange(res.Header.Get("Content-Range"))
		if !ok || start != offset || total >= 0 && total != o.Size {
			return nil, fmt.Errorf("%w: expected a range at %d of %d bytes, received %q", ErrChanged, offset, o.Size,
				res.Header.Get("Content-Range"))
		}
	case res.StatusCode == http.StatusOK && (res.ContentLength < 0 || res.ContentLength == o.Size):
		// The server does not support ranges: skip the bytes before the range.
		if _, err := io.CopyN(io.Discard, res.Body, offset); err != nil {
			return nil, fmt.Errorf("cannot skip %d bytes: %w", offset, err)
		}
	case res.StatusCode == http.StatusOK:
		return nil, fmt.Errorf("%w: expected %d bytes, found %d", ErrChanged, o.Size, res.ContentLength)
	case res.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return nil, fmt.Errorf("%w: the file is shorter than %d bytes", ErrChanged, o.Size)
	default:
		return nil, refusal(res)
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(res.Body, length), res.Body}, nil
}

func contentRange(text string) (start, total int64, ok bool) {
	rest, ok := strings.CutPrefix(text, "bytes ")
	span, size, ok2 := strings.Cut(rest, "/")
	from, _, ok3 := strings.Cut(span, "-")
	start, err := strconv.ParseInt(from, 10, 64)
	total = -1
	if size != "*" {
		var err2 error
		if total, err2 = strconv.ParseInt(size, 10, 64); err2 != nil {
			return 0, 0, false
		}
	}
	return start, total, ok && ok2 && ok3 && err == nil
}

func newRequest(ctx context.Context, method, at, token string) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, at, nil)
	if err != nil {
		return nil, fmt.Errorf("origin: %w", errors.New("the URL is invalid"))
	}
	r.Header.Set("User-Agent", "aliquot-cache")
	r.Header.Set("Accept-Encoding", "identity")
	if token != "" && token != Nobody {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r, nil
}

// unwrapped removes the URL from an error, because a signed URL is a secret.
func unwrapped(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return fmt.Errorf("origin: %w", e.Err)
	}
	return err
}

// defaultWait is how long to wait before a retry if the origin does not say.
const defaultWait = 5 * time.Second

// refusal returns the error for a response that is not the requested range.
func refusal(res *http.Response) error {
	where := res.Request.URL.Host
	switch code := res.StatusCode; {
	case code == http.StatusNotFound || code == http.StatusGone:
		return fmt.Errorf("%s: %w", where, ErrNotFound)
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return fmt.Errorf("%s: %w (%d)", where, ErrDenied, code)
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable:
		after := defaultWait
		if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && s >= 0 {
			after = min(time.Duration(s)*time.Second, 5*time.Minute)
		}
		return &Later{after, fmt.Sprintf("%s answers %d", where, code)}
	default:
		return fmt.Errorf("%s answers %s", where, res.Status)
	}
}

// List lists the single file at a URL. Its identity is its size, ETag and modification time,
// because a web server states no digest.
func (w Web) List(ctx context.Context, ref blob.Ref, token string) (*Listing, error) {
	at := ref.String()
	r, err := newRequest(ctx, http.MethodHead, at, token)
	if err != nil {
		return nil, err
	}
	res, err := w.Client.Do(r)
	if err != nil {
		return nil, unwrapped(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, refusal(res)
	}
	if res.ContentLength < 0 {
		return nil, fmt.Errorf("%s does not report the size of the file", res.Request.URL.Host)
	}
	o := Named(res.ContentLength, at, res.Header.Get("ETag"), res.Header.Get("Last-Modified"))
	return &Listing{Ref: ref, Revision: o.Digest(),
		Public: token == "", Files: []File{{Path: path.Base(ref.Name), Object: o, Source: at}}}, nil
}

// Named returns an object without a digest; its ID is derived from words that identify its content.
func Named(size int64, words ...string) blob.Object {
	h := sha256.New()
	for _, w := range append(words, strconv.FormatInt(size, 10)) {
		fmt.Fprintf(h, "%d:%s,", len(w), w)
	}
	return blob.Object{ID: "name-" + hex.EncodeToString(h.Sum(nil)), Size: size}
}
