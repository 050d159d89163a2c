package hub

import (
	"errors"
	"net/http"
	"path"
	"strconv"
	"strings"

	"aliquot.example/cache/fetch"
	"aliquot.example/cache/models"
	"aliquot.example/cache/serve"
)

// file serves a file of a revision.
func (f *Handler) file(w http.ResponseWriter, r *http.Request, a ask, l *models.Listing) {
	found, ok := l.File(a.path)
	if !ok {
		fail(w, r, http.StatusNotFound, "EntryNotFound", a.path+" does not exist on "+l.Revision)
		return
	}
	o := found.Object
	h := w.Header()
	etag := `"` + o.Checksum().Digest + `"`
	h.Set("ETag", etag)
	h.Set("X-Linked-ETag", etag)
	h.Set("X-Linked-Size", strconv.FormatInt(o.Size, 10))
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", `inline; filename="`+strings.NewReplacer(`"`, "", "\r", "", "\n",
		"").Replace(path.Base(a.path))+`"`)
	if r.Method == http.MethodHead {
		h.Set("Content-Length", strconv.FormatInt(o.Size, 10))
		return
	}
	err := f.send().File(w, r, fetch.Target{Object: o, Source: found.Source, Token: a.token}, etag)
	switch {
	case errors.Is(err, serve.ErrRange):
		fail(w, r, http.StatusRequestedRangeNotSatisfiable, "", err.Error())
	case err != nil:
		f.refuse(w, r, err)
	}
}

func (f *Handler) send() serve.Sender { return serve.Sender{Cache: f.Library.Cache, Log: f.Log} }
