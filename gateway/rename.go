package gateway

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"

	"aliquot/gateway/match"
	"aliquot/gateway/wire"
	"aliquot/internal/prompt"
)

// renaming is a body with another model's name in it.
type renaming struct {
	from, to int64 // of the name, in JSON with its quotes
	name     []byte
}

// rename finds where the name of the model stands that the service's replicas know
// by another one; nil when nothing is to be changed, or the name is not in what was
// taken in of the body.
func (x *exchange) rename() *renaming {
	name := x.service.config.Model
	if name == "" || x.grpc || !plainCoding(x.in.Header) || x.in.Method != http.MethodPost {
		return nil
	}
	var r *renaming
	err := x.body.Text(x.body.Size(), func(text []byte) {
		from, to, ok := prompt.Model(text)
		put, err := json.Marshal(name)
		if !ok {
			from, to, ok = match.FormModel(text, x.in.Header)
			put = []byte(name)
		}
		cut := to == len(text) && !x.body.Whole() // the rest of the name may follow
		if ok && err == nil && !cut && !bytes.Equal(put, text[from:to]) {
			r = &renaming{int64(from), int64(to), put}
		}
	})
	if err != nil {
		return nil
	}
	return r
}

// undoCoding has a compressed body that names a model go on as it was before, where the
// service's replicas may know the model by another name. A body that cannot be
// decoded, or for which there is no room, goes on as it came.
func (x *exchange) undoCoding() {
	if x.service.config.Model == "" || x.body == nil || x.grpc || plainCoding(x.in.Header) || !x.body.Whole() {
		return
	}
	text, known := match.Decoded(x.body.Kept(), x.in.Header)
	if !known {
		return
	}
	plain := x.server.bodies.Body(text, -1)
	if err := plain.Take(); err != nil || !plain.Whole() {
		plain.Free()
		return
	}
	x.body.Free()
	x.body = plain
	in := x.in.WithContext(x.in.Context()) // the server's own stays as it is
	in.Header = in.Header.Clone()
	in.Header.Del("Content-Encoding")
	in.ContentLength = plain.Size()
	in.TransferEncoding = nil
	in.Header.Del("Content-Length") // in.ContentLength says it
	x.in = in
}

// grows is by how many bytes the body becomes longer.
func (r *renaming) grows() int64 { return int64(len(r.name)) - (r.to - r.from) }

// open gives the request's body for a replica; nil when that is not possible again.
func (x *exchange) open() io.ReadCloser {
	body := x.body.Open()
	r := x.renamed
	if body == nil || r == nil {
		return body
	}
	// The readers after the first begin where the one before has ended.
	return &renamedBody{io.MultiReader(io.LimitReader(body, r.from), bytes.NewReader(r.name), &skipping{body, r.to - r.from}), body}
}

type renamedBody struct {
	io.Reader
	body io.ReadCloser
}

// Whole reports whether reading never waits for the client.
func (r *renamedBody) Whole() bool {
	w, ok := r.body.(wire.Whole)
	return ok && w.Whole()
}

func (r *renamedBody) Close() error { return r.body.Close() }

// skipping leaves out the first bytes of what it reads.
type skipping struct {
	io.Reader
	left int64
}

func (s *skipping) Read(p []byte) (int, error) {
	if s.left > 0 {
		n, err := io.CopyN(io.Discard, s.Reader, s.left)
		if s.left -= n; err != nil {
			return 0, err
		}
	}
	return s.Reader.Read(p)
}
