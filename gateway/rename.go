package gateway

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"

	"aliquot.example/gateway/match"
	"aliquot.example/internal/prompt"
)

// rename returns the edits that replace the name of the model in the body with the name that the
// service's replicas use. It returns nil if there is nothing to replace, or if the name is not in
// the received part of the body.
func (x *exchange) rename(name string) []edit {
	if name == "" || x.body == nil || x.grpc || !plainCoding(x.in.Header) || x.in.Method != http.MethodPost {
		return nil
	}
	var out []edit
	err := x.body.Text(x.body.Size(), func(text []byte) {
		from, to, ok := prompt.Model(text)
		put, err := json.Marshal(name)
		if !ok {
			from, to, ok = match.FormModel(text, x.in.Header)
			put = []byte(name)
		}
		cut := to == len(text) && !x.body.Whole() // the rest of the name may be missing
		if ok && err == nil && !cut && !bytes.Equal(put, text[from:to]) {
			out = []edit{{int64(from), int64(to), put}}
		}
	})
	if err != nil {
		return nil
	}
	return out
}

// undoCoding decompresses a compressed body if the service may change bodies. A body that cannot be
// decoded, or for which there is no space, stays compressed.
func (x *exchange) undoCoding(v *service) {
	if !v.edits() || x.body == nil || x.grpc || plainCoding(x.in.Header) || !x.body.Whole() {
		return
	}
	text, known := match.Decoded(x.body.Kept(), x.in.Header)
	if !known {
		return
	}
	// A body of a few kilobytes must not take the space of thousands.
	most := min(match.MaxDecoded-1, max(1<<20, 16*x.body.Size()))
	plain := x.server.bodies.Body(io.LimitReader(text, most+1), -1)
	if err := plain.Take(); err != nil || !plain.Whole() || plain.Size() > most {
		plain.Free()
		return
	}
	x.body.Free()
	x.body = plain
	in := x.in.WithContext(x.in.Context()) // a copy: do not modify the server's request
	in.Header = in.Header.Clone()
	in.Header.Del("Content-Encoding")
	in.ContentLength = plain.Size()
	in.TransferEncoding = nil
	in.Header.Del("Content-Length") // in.ContentLength replaces it
	x.in = in
}
