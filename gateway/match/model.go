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

// longestDecoded bounds how much of a compressed body is decoded to find its model,
// in bytes.
const longestDecoded = 64 << 20

// Model returns the model that a body names, "" when it names none: the value of
// "model" of a JSON object, whatever its type is called, or the field "model" of a
// form (multipart/form-data), as audio is sent. Its cost is one pass over the body.
func Model(body io.Reader, h http.Header) string {
	body, known := decoded(body, h.Get("Content-Encoding"))
	if !known {
		return ""
	}
	if kind, params, err := mime.ParseMediaType(h.Get("Content-Type")); err == nil && kind == "multipart/form-data" {
		return formModel(body, params["boundary"])
	}
	return jsonModel(body)
}

// decoded undoes the codings that replicas commonly accept; false for others.
func decoded(body io.Reader, coding string) (io.Reader, bool) {
	switch strings.ToLower(strings.TrimSpace(coding)) {
	case "", "identity":
		return body, true
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(body)
		return io.LimitReader(orEmpty(z, err), longestDecoded), err == nil
	case "deflate":
		z, err := zlib.NewReader(body)
		return io.LimitReader(orEmpty(z, err), longestDecoded), err == nil
	}
	return nil, false
}

func orEmpty(r io.Reader, err error) io.Reader {
	if err != nil {
		return strings.NewReader("")
	}
	return r
}

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func jsonModel(body io.Reader) string {
	var s scanner
	kept := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(kept)
	buf := kept[:]
	// The first bytes together: a mark must not be cut.
	n, err := io.ReadAtLeast(body, buf, len(mark))
	for {
		s.feed(buf[:n])
		if err != nil || s.done {
			return s.model
		}
		n, err = body.Read(buf)
	}
}

// formModel reads a form up to its field "model"; files before it are passed over.
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
			text, err := io.ReadAll(io.LimitReader(part, longestModel+1))
			if err != nil || len(text) > longestModel {
				return ""
			}
			return string(text)
		}
	}
}
