package gateway

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
)

// join reads a stream to its end and returns it as a single answer. The replica's slot is free by
// then. An error event of the replica becomes the answer, because nothing was sent to the client
// yet.
func (x *exchange) join(res *http.Response) (*http.Response, error) {
	buf := x.server.buffers.Get()
	defer x.server.buffers.Put(buf)
	defer res.Body.Close()
	for {
		_, err := res.Body.Read(buf)
		if failure := x.joined.Err(); failure != nil {
			return nil, fmt.Errorf("cannot join the events of the stream into one answer: %w", failure)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	out := &http.Response{StatusCode: res.StatusCode, Header: maps.Clone(res.Header)}
	body := x.joined.Whole()
	if object, status := x.joined.Failed(); status != 0 {
		out.StatusCode, body = status, []byte(object)
	}
	for _, name := range []string{"Cache-Control", "X-Accel-Buffering"} { // only for streams
		delete(out.Header, name)
	}
	out.Header["Content-Type"] = []string{"application/json"}
	out.Header["Content-Length"] = []string{strconv.Itoa(len(body))}
	out.ContentLength = int64(len(body))
	out.Body = io.NopCloser(bytes.NewReader(body))
	return out, nil
}
