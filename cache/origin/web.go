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

// NewClient makes a client for origins. Bodies are read as they are: what is packed
// could not be read by range.
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

// homeOnly keeps a token with the host and port that it is for. What redirects lead to
// carries its own right in the URL.
func homeOnly(r *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("too many redirects")
	}
	if r.URL.Host != via[0].URL.Host || r.URL.Scheme != via[0].URL.Scheme {
		r.Header.Del("Authorization")
	}
	return nil
}

// Web reads files of web servers.
type Web struct{ Client *http.Client }

// Open reads a range.
func (w Web) Open(ctx context.Context, source, token string, o blob.Object, offset,
	length int64) (io.ReadCloser, error) {
	return openRange(ctx, w.Client, source, token, o, offset, length)
}

// openRange asks a URL for a range and checks that it is what is answered.
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

// part checks an answer to a request for a range.
func part(res *http.Response, o blob.Object, offset, length int64) (io.ReadCloser, error) {
	switch {
	case res.StatusCode == http.StatusPartialContent:
		start, total, ok := contentRange(res.Header.Get("Content-Range"))
		if !ok || start != offset || total >= 0 && total != o.Size {
			return nil, fmt.Errorf("%w: %d bytes at %d were expected and the answer is %q", ErrChanged, o.Size, offset,
				res.Header.Get("Content-Range"))
		}
	case res.StatusCode == http.StatusOK && (res.ContentLength < 0 || res.ContentLength == o.Size):
		// It knows no ranges: what comes before is read and thrown away.
		if _, err := io.CopyN(io.Discard, res.Body, offset); err != nil {
			return nil, fmt.Errorf("skipping %d bytes: %w", offset, err)
		}
	case res.StatusCode == http.StatusOK:
		return nil, fmt.Errorf("%w: %d bytes were expected and there are %d", ErrChanged, o.Size, res.ContentLength)
	case res.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return nil, fmt.Errorf("%w: it is shorter than %d bytes", ErrChanged, o.Size)
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
		return nil, fmt.Errorf("origin: %w", errors.New("the address cannot be read"))
	}
	r.Header.Set("User-Agent", "aliquot-cache")
	r.Header.Set("Accept-Encoding", "identity")
	if token != "" && token != Nobody {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r, nil
}

// unwrapped leaves the URL out of an error: a signed one holds a secret.
func unwrapped(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return fmt.Errorf("origin: %w", e.Err)
	}
	return err
}

// defaultWait is how long an origin is left alone that asks for patience and not for how
// much.
const defaultWait = 5 * time.Second

// refusal is the error of an answer that is not the requested part.
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

// List finds the one file that a URL names. What it is goes by its size, its ETag and
// when it was changed, as a web server publishes no digest.
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
		return nil, fmt.Errorf("%s does not say how large it is", res.Request.URL.Host)
	}
	o := Named(res.ContentLength, at, res.Header.Get("ETag"), res.Header.Get("Last-Modified"))
	return &Listing{Ref: ref, Revision: o.Digest(),
		Public: token == "", Files: []File{{Path: path.Base(ref.Name), Object: o, Source: at}}}, nil
}

// Named is an object whose origin publishes no digest: what the words say of it stands
// for its bytes.
func Named(size int64, words ...string) blob.Object {
	h := sha256.New()
	for _, w := range append(words, strconv.FormatInt(size, 10)) {
		fmt.Fprintf(h, "%d:%s,", len(w), w)
	}
	return blob.Object{ID: "name-" + hex.EncodeToString(h.Sum(nil)), Size: size}
}
