package match

import (
	"compress/gzip"
	"compress/zlib"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"sync"
)

// MaxDecoded is the largest decoded size of a compressed body, in bytes.
const MaxDecoded = 64 << 20

// Model returns the model in a body, "" if there is none: the value of "model" in a JSON object,
// whatever its media type, or the field "model" of a form (multipart/form-data), which audio
// requests use. It reads the body once.
func Model(body io.Reader, h http.Header) string {
	body, known := Decoded(body, h)
	if !known {
		return ""
	}
	if kind, params, err := mime.ParseMediaType(h.Get("Content-Type")); err == nil && kind == "multipart/form-data" {
		return formModel(body, params["boundary"])
	}
	return jsonModel(body)
}

// Codings lists the supported values of Content-Encoding.
const Codings = "gzip, deflate, identity"

// Decoded decodes the Content-Encoding of a body, up to MaxDecoded bytes. It returns false for
// an unsupported coding. Invalid data gives an error when it is read.
func Decoded(body io.Reader, h http.Header) (io.Reader, bool) {
	switch strings.ToLower(strings.TrimSpace(strings.Join(h.Values("Content-Encoding"), ", "))) {
	case "", "identity":
		return body, true
	case "gzip", "x-gzip":
		return io.LimitReader(&lazyReader{open: func() (io.Reader, error) {
			return gzip.NewReader(body)
		}}, MaxDecoded), true
	case "deflate":
		return io.LimitReader(&lazyReader{open: func() (io.Reader, error) {
			return zlib.NewReader(body)
		}}, MaxDecoded), true
	}
	return nil, false
}

// lazyReader is a reader that is opened at its first Read.
type lazyReader struct {
	open func() (io.Reader, error)
	r    io.Reader
}

func (l *lazyReader) Read(p []byte) (n int, err error) {
	if l.r == nil {
		if l.r, err = l.open(); err != nil {
			l.r = errReader{err}
		}
	}
	return l.r.Read(p)
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func jsonModel(body io.Reader) string {
	var s scanner
	kept := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(kept)
	buf := kept[:]
	// Read the first bytes together, so that the byte order mark is not split.
	n, err := io.ReadAtLeast(body, buf, len(mark))
	for {
		s.feed(buf[:n])
		if err != nil || s.done {
			return s.model
		}
		n, err = body.Read(buf)
	}
}

// formModel reads a form up to its field "model". It skips files before it.
func formModel(body io.Reader, boundary string) string {
	if boundary == "" {
		return ""
	}
	form := multipart.NewReader(body, boundary)
	for {
		part, err := form.NextRawPart()
		if err != nil {
			return ""
		}
		if part.FormName() == "model" && part.FileName() == "" {
			text, err := io.ReadAll(io.LimitReader(part, maxModel+1))
			if err != nil || len(text) > maxModel {
				return ""
			}
			return string(text)
		}
	}
}
