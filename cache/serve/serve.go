// Package serve is shared by the HTTP interfaces of a cache: it sends objects and ranges of them to
// clients.
package serve

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"aliquot.example/cache/fetch"
	"aliquot.example/cache/origin"
	"aliquot.example/cache/store"
)

// ErrRange is the error of a range outside of its object.
var ErrRange = errors.New("the requested range is outside the file")

// retryAfter is how long a client is asked to wait if the origin does not say.
const retryAfter = 5 * time.Second

// RetryAfter asks a client to wait for as long as the error of an origin says.
func RetryAfter(h http.Header, err error) {
	after := retryAfter
	var later *origin.Later
	if errors.As(err, &later) {
		after = later.After
	}
	h.Set("Retry-After", strconv.Itoa(int(max(after, time.Second)/time.Second)))
}

// Sender sends objects of a cache.
type Sender struct {
	Cache *fetch.Cache
	Log   *slog.Logger
}

// File responds to a GET with an object, or with the requested range of it. It sends the headers
// before the first byte has arrived, because clients of the Hub give up on headers that take 10 s.
// An error means that nothing was sent; later failures abort the connection.
func (s Sender) File(w http.ResponseWriter, r *http.Request, t fetch.Target, etag string) error {
	size := t.Object.Size
	from, to, partial, ok := span(r, etag, size)
	if !ok {
		w.Header().Set("Content-Range", "bytes */"+strconv.FormatInt(size, 10))
		return ErrRange
	}
	reader, err := s.Cache.Open(r.Context(), t, from, to)
	if errors.Is(err, store.ErrNoRoom) {
		s.Log.Warn("cannot keep a file in the cache; passing it through from its origin", "path", r.URL.Path,
			"error", err)
		return s.pass(w, r, t, from, to, partial)
	}
	if err != nil {
		return err
	}
	defer reader.Close()
	if whole := reader.File(); whole != nil && size > 0 {
		http.ServeContent(w, r, "", time.Time{}, whole) // uses sendfile
		return nil
	}
	head(w, from, to, size, partial)
	_, err = io.Copy(w, reader)
	s.broken(r, err)
	return nil
}

// head sends the headers of a range.
func head(w http.ResponseWriter, from, to, size int64, partial bool) {
	h := w.Header()
	h.Set("Content-Length", strconv.FormatInt(to-from, 10))
	status := http.StatusOK
	if partial {
		status = http.StatusPartialContent
		h.Set("Content-Range", "bytes "+strconv.FormatInt(from, 10)+"-"+strconv.FormatInt(to-1, 10)+"/"+
			strconv.FormatInt(size, 10))
	}
	w.WriteHeader(status)
	_ = http.NewResponseController(w).Flush()
}

// pass forwards from the origin what the store has no room for.
func (s Sender) pass(w http.ResponseWriter, r *http.Request, t fetch.Target, from, to int64, partial bool) error {
	body, err := s.Cache.OpenOrigin(r.Context(), t, from, to)
	if err != nil {
		return err
	}
	defer body.Close()
	head(w, from, to, t.Object.Size, partial)
	n, err := io.Copy(w, body)
	if err == nil && n < to-from {
		err = io.ErrUnexpectedEOF
	}
	s.broken(r, err)
	return nil
}

// broken aborts the connection on an error, so that the client does not take a part for the whole;
// it then requests the rest by range.
func (s Sender) broken(r *http.Request, err error) {
	if err == nil {
		return
	}
	if r.Context().Err() == nil {
		s.Log.Warn("cannot send the whole file; closing the connection", "path", r.URL.Path, "error", err)
	}
	panic(http.ErrAbortHandler)
}

// rangeSpec returns the single byte range of a request, such as "0-99", or "" for the whole object.
func rangeSpec(r *http.Request, etag string, size int64) string {
	if condition := r.Header.Get("If-Range"); condition != "" && condition != etag {
		return ""
	}
	spec, found := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
	// Some clients request the first byte of an empty file to learn its size.
	if !found || size == 0 || strings.Contains(spec, ",") {
		return ""
	}
	return strings.TrimSpace(spec)
}

// span returns the requested range, from its first byte to after its last. A request for several
// ranges gets the whole object, as HTTP permits.
func span(r *http.Request, etag string, size int64) (from, to int64, partial, ok bool) {
	first, last, found := strings.Cut(rangeSpec(r, etag, size), "-")
	if !found {
		return 0, size, false, true
	}
	begin, err := number(first)
	end, err2 := number(last)
	switch {
	case errors.Join(err, err2) != nil || first == "" && last == "":
		return 0, size, false, true
	case first == "":
		if end == 0 {
			return 0, 0, false, false
		}
		return max(0, size-end), size, true, true
	case last == "" || end >= size:
		end = size - 1
	}
	if begin >= size {
		return 0, 0, false, false
	}
	if end < begin {
		return 0, size, false, true
	}
	return begin, end + 1, true, true
}

func number(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err == nil && n < 0 {
		err = strconv.ErrRange
	}
	return n, err
}
