package gateway

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"

	"aliquot/internal/prompt"
)

// renaming is a body with another model's name in it.
type renaming struct {
	from, to int64 // of the name, with its quotes
	name     []byte
}

// rename finds where the name of the model stands that the service's replicas know
// by another one; nil when nothing is to be changed: the whole body must be here, and
// be a JSON object that names a model.
func (x *exchange) rename() *renaming {
	name := x.service.config.Model
	if name == "" || !x.body.Whole() || !plainCoding(x.in.Header) || x.in.Method != http.MethodPost {
		return nil
	}
	quoted, err := json.Marshal(name)
	if err != nil {
		return nil
	}
	var r *renaming
	err = x.body.Text(x.body.Size(), func(text []byte) {
		if from, to, ok := prompt.Model(text); ok && !bytes.Equal(quoted, text[from:to]) {
			r = &renaming{int64(from), int64(to), quoted}
		}
	})
	if err != nil {
		return nil
	}
	return r
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
	io.Closer
}

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
