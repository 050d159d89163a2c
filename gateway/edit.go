package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"

	"aliquot.example/gateway/wire"
	"aliquot.example/internal/prompt"
)

// edits are the changes to a JSON body on its way to a replica.
type edits struct {
	list  []edit // in the order of the body
	joins bool   // the replica is asked for a stream, whose events the gateway joins to one answer
}

// edit replaces a part of a body with a text.
type edit struct {
	from, to int64
	text     []byte
}

// errUnsalted refuses a request whose cache would be shared with other tenants.
var errUnsalted = errors.New(
	"the service separates the caches of tenants: want a JSON object without Content-Encoding that fits in body_buffer")

// edits reports whether the service may change bodies.
func (v *service) edits() bool {
	c := &v.config
	return c.Model != "" || c.Engine.Salt || c.Engine.Join
}

// editsOf returns the changes of a service to the request's body. The whole body must have arrived
// and be a JSON object. Any other body is passed on unchanged, unless it could then use the caches
// of other tenants.
func (x *exchange) editsOf(v *service, tenant string) (edits, error) {
	c := &v.config
	if !v.edits() {
		return edits{}, nil
	}
	name := x.rename(c.Model)
	api := prompt.Of(x.in.URL.Path)
	salts := c.Engine.Salt && api.Generates()
	joins := c.Engine.Join && (api == prompt.Chat || api == prompt.Completions)
	if !salts && !joins {
		return edits{list: name}, nil
	}
	var e editor
	if !e.readBody(x) {
		if salts {
			return edits{}, errUnsalted
		}
		return edits{list: name}, nil
	}
	e.out.list = name
	if salts {
		e.put("cache_salt", quote(saltOf(v.saltKey, tenant, e.salt)))
	}
	if joins && e.joinable() {
		e.stream()
		e.out.joins = true
	}
	return e.finish(), nil
}

// editor finds the relevant members of a body and collects changes.
type editor struct {
	open   int64 // position after the opening brace
	empty  bool  // the object has no members
	found  map[string][]edit
	salt   []byte // the client's own salt
	asks   bool   // the client asks for a stream
	never  bool   // the client asks for something that a stream cannot give in the same way
	insert []byte // text to insert after the opening brace
	out    edits
}

// readBody reads the body of a request; false where the whole of it is not here in plain
// text, or it is no JSON object.
func (e *editor) readBody(x *exchange) (read bool) {
	if x.in.Method != http.MethodPost || x.body == nil || !x.body.Whole() || !plainCoding(x.in.Header) {
		return false
	}
	err := x.body.Text(x.body.Size(), func(text []byte) { read = e.read(text) })
	return read && err == nil
}

// read finds the members. It returns false if the body is not a JSON object.
func (e *editor) read(text []byte) bool {
	e.found, e.empty = map[string][]edit{}, true
	open, ok := prompt.Members(text, func(key []byte, from, to int) {
		e.empty = false
		name := unquote(key)
		value := text[from:to]
		switch name {
		case "cache_salt":
			e.salt = slices.Clone(value)
		case "stream":
			// Engines also treat 1 and "true" as true. Such a client expects events.
			e.asks = string(value) == "true"
			e.never = e.never || !slices.Contains([]string{"true", "false", "null"}, string(value))
		case "logprobs", "top_logprobs": // many times the size of the text
			e.never = e.never || !slices.Contains([]string{"0", "false", "null"}, string(value))
			return
		case "stream_options", "best_of", "use_beam_search", "echo", "prompt_logprobs", "audio", "modalities",
			"kv_transfer_params":
			e.never = e.never || string(value) != "null" && string(value) != "false"
		default:
			return
		}
		e.found[name] = append(e.found[name], edit{from: int64(from), to: int64(to)})
	})
	e.open = int64(open)
	return ok
}

// unquote returns the value of a JSON key, given without its quotes.
func unquote(key []byte) string {
	if bytes.IndexByte(key, '\\') < 0 {
		return string(key)
	}
	var name string
	json.Unmarshal(slices.Concat([]byte{'"'}, key, []byte{'"'}), &name)
	return name
}

func quote(text string) []byte {
	quoted, _ := json.Marshal(text)
	return quoted
}

// joinable reports whether a stream gives the same answer to the request.
func (e *editor) joinable() bool { return !e.asks && !e.never }

// put sets the value of a member, at each occurrence.
func (e *editor) put(name string, value []byte) {
	for _, at := range e.found[name] {
		at.text = value
		e.out.list = append(e.out.list, at)
	}
	if len(e.found[name]) == 0 {
		e.insert = append(append(append(append(e.insert, '"'), name...), '"', ':'), append(value, ',')...)
	}
}

func (e *editor) stream() {
	e.put("stream", []byte("true"))
	e.put("stream_options", []byte(`{"include_usage":true}`))
}

func (e *editor) finish() edits {
	if len(e.insert) > 0 {
		if e.empty {
			e.insert = e.insert[:len(e.insert)-1]
		}
		e.out.list = append(e.out.list, edit{e.open, e.open, e.insert})
	}
	slices.SortFunc(e.out.list, func(a, b edit) int { return int(a.from - b.from) })
	return e.out
}

// grows returns the number of bytes by which the edits lengthen the body.
func (e *edits) grows() (n int64) {
	for _, one := range e.list {
		n += int64(len(one.text)) - (one.to - one.from)
	}
	return n
}

// edited returns a body with the edits applied.
func edited(body io.ReadCloser, list []edit) io.ReadCloser {
	// Each reader starts where the previous one has ended.
	var parts []io.Reader
	at := int64(0)
	for _, e := range list {
		parts = append(parts, io.LimitReader(body, e.from-at), bytes.NewReader(e.text),
			&skipReader{body, e.to - e.from})
		at = e.to
	}
	return &editedBody{io.MultiReader(append(parts, body)...), body}
}

type editedBody struct {
	io.Reader
	body io.ReadCloser
}

// Whole reports whether reading never waits for the client.
func (e *editedBody) Whole() bool {
	w, ok := e.body.(wire.Whole)
	return ok && w.Whole()
}

func (e *editedBody) Close() error { return e.body.Close() }

// skipReader skips a number of bytes, and then returns io.EOF.
type skipReader struct {
	from io.Reader
	left int64
}

func (s *skipReader) Read([]byte) (int, error) {
	n, err := io.CopyN(io.Discard, s.from, s.left)
	if s.left -= n; err == nil {
		err = io.EOF
	}
	return 0, err
}
