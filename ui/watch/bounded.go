package watch

import (
	"fmt"
	"io"
	"net/http"
)

const (
	// MaxNomadAnswer limits a response of Nomad, in bytes. A list of 10,000 allocations with ten events
	// each has 65 MB.
	MaxNomadAnswer = 256 << 20
	// MaxAnswer limits a response of Consul, a gateway or Prometheus, in bytes. An hour of a service
	// has about 1 MB.
	MaxAnswer = 16 << 20
)

// Bounded returns a transport that fails to read responses longer than most bytes, so that no server
// can fill this program's memory.
func Bounded(base http.RoundTripper, most int64) http.RoundTripper { return bounded{base, most} }

type bounded struct {
	base http.RoundTripper
	most int64
}

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := b.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	answer.Body = &boundedBody{answer.Body, b.most, b.most}
	return answer, nil
}

type boundedBody struct {
	io.ReadCloser
	left, most int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("the response is longer than %d MiB", b.most>>20)
	}
	return n, err
}
