package match

import (
	"bytes"
	"mime"
	"net/http"
)

// FormModel returns the position of the value of the field "model" in the text of a form. It
// returns false if there is none, or if the text ends before the value does.
func FormModel(text []byte, h http.Header) (from, to int, ok bool) {
	kind, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || kind != "multipart/form-data" || params["boundary"] == "" {
		return 0, 0, false
	}
	border := []byte("\r\n--" + params["boundary"])
	at := 0 // start of a part, after its boundary
	if first := border[2:]; bytes.HasPrefix(text, first) {
		at = len(first)
	} else if i := bytes.Index(text, border); i >= 0 {
		at = i + len(border)
	} else {
		return 0, 0, false
	}
	for {
		length := bytes.Index(text[at:], border)
		if length < 0 {
			return 0, 0, false
		}
		part := text[at : at+length]
		if head, value, whole := bytes.Cut(part, []byte("\r\n\r\n")); whole && names(head, "model") {
			return at + length - len(value), at + length, true
		}
		at += length + len(border)
	}
}

// names reports whether the head of a part is that of a field with this name, and not of a file.
func names(head []byte, name string) bool {
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		key, value, _ := bytes.Cut(line, []byte(":"))
		if !bytes.EqualFold(bytes.TrimSpace(key), []byte("Content-Disposition")) {
			continue
		}
		kind, params, err := mime.ParseMediaType(string(bytes.TrimSpace(value)))
		return err == nil && kind == "form-data" && params["name"] == name && params["filename"] == ""
	}
	return false
}
