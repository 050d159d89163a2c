package hub

import (
	"errors"
	"io"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"aliquot/cache/fetch"
	"aliquot/cache/models"
	"aliquot/cache/origin"
)

// file serves a file of a revision. The headers go out before the first byte is here:
// clients give up on headers that take 10 s.
func (f *Face) file(w http.ResponseWriter, r *http.Request, a ask, l *models.Listing) {
	i := slices.IndexFunc(l.Files, func(file origin.File) bool { return file.Path == a.path })
	if i < 0 {
		fail(w, r, http.StatusNotFound, "EntryNotFound", a.path+" does not exist on "+l.Revision)
		return
	}
	o := l.Files[i].Object
	h := w.Header()
	etag := `"` + o.Digest() + `"`
	h.Set("ETag", etag)
	h.Set("X-Linked-ETag", etag)
	h.Set("X-Linked-Size", strconv.FormatInt(o.Size, 10))
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", `inline; filename="`+strings.NewReplacer(`"`, "", "\r", "", "\n", "").Replace(path.Base(a.path))+`"`)
	if r.Method == http.MethodHead {
		h.Set("Content-Length", strconv.FormatInt(o.Size, 10))
		return
	}
	from, to, partial, ok := span(r, etag, o.Size)
	if !ok {
		h.Set("Content-Range", "bytes */"+strconv.FormatInt(o.Size, 10))
		fail(w, r, http.StatusRequestedRangeNotSatisfiable, "", "the file has no such range")
		return
	}
	reader, err := f.Library.Cache.Open(r.Context(), fetch.Target{Object: o, Source: l.Files[i].Source, Token: a.token}, from, to)
	if full(err) {
		f.Log.Warn("a file passes through the cache and is not kept", "path", a.path, "error", err)
		f.pass(w, r, fetch.Target{Object: o, Source: l.Files[i].Source, Token: a.token}, from, to, partial)
		return
	}
	if err != nil {
		f.refuse(w, r, err)
		return
	}
	defer reader.Close()
	if whole := reader.File(); whole != nil && o.Size > 0 {
		http.ServeContent(w, r, "", time.Time{}, whole) // by sendfile
		return
	}
	head(w, from, to, o.Size, partial)
	_, err = io.Copy(w, reader)
	f.broken(r, err)
}

// head sends the headers of a range.
func head(w http.ResponseWriter, from, to, size int64, partial bool) {
	h := w.Header()
	h.Set("Content-Length", strconv.FormatInt(to-from, 10))
	status := http.StatusOK
	if partial {
		status = http.StatusPartialContent
		h.Set("Content-Range", "bytes "+strconv.FormatInt(from, 10)+"-"+strconv.FormatInt(to-1, 10)+"/"+strconv.FormatInt(size, 10))
	}
	w.WriteHeader(status)
	_ = http.NewResponseController(w).Flush()
}

// pass reads from the origin what the store has no room for.
func (f *Face) pass(w http.ResponseWriter, r *http.Request, t fetch.Target, from, to int64, partial bool) {
	body, err := f.Library.Cache.Pass(r.Context(), t, from, to)
	if err != nil {
		f.refuse(w, r, err)
		return
	}
	defer body.Close()
	head(w, from, to, t.Object.Size, partial)
	n, err := io.Copy(w, body)
	if err == nil && n < to-from {
		err = io.ErrUnexpectedEOF
	}
	f.broken(r, err)
}

// broken breaks the connection off, so that a client does not take a part for the
// whole; it asks for the rest by range.
func (f *Face) broken(r *http.Request, err error) {
	if err == nil {
		return
	}
	if r.Context().Err() == nil {
		f.Log.Warn("an answer was broken off", "path", r.URL.Path, "error", err)
	}
	panic(http.ErrAbortHandler)
}

// span reads a request's range, from its first byte to before its last. Several ranges
// are answered with the whole, as HTTP allows.
func span(r *http.Request, etag string, size int64) (from, to int64, partial, ok bool) {
	text := r.Header.Get("Range")
	if size == 0 {
		text = "" // clients ask an empty file for its first byte, to learn its size
	}
	if condition := r.Header.Get("If-Range"); condition != "" && condition != etag {
		text = ""
	}
	spec, found := strings.CutPrefix(text, "bytes=")
	if !found || strings.Contains(spec, ",") {
		return 0, size, false, true
	}
	first, last, found := strings.Cut(strings.TrimSpace(spec), "-")
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
