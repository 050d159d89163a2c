package profiler

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// Kind is the kind of a fault.
type Kind string

// The kinds of faults.
const (
	Failed       Kind = "failed"  // an error, or no response
	Refused      Kind = "refused" // declined a request, for example because it is full
	Stalled      Kind = "stalled" // stopped sending
	Cut          Kind = "cut"     // ended a response early
	Inconsistent Kind = "lied"    // reported impossible counts
)

// did completes a sentence about the server.
func (k Kind) did() string {
	switch k {
	case Cut:
		return "ended a response early"
	case Inconsistent:
		return "reported impossible counts"
	case Failed, Refused, Stalled:
	}
	return string(k)
}

// Fault is a fault of a server.
type Fault struct {
	Kind   Kind   `json:"kind"`
	Detail string `json:"detail"`
	Times  int    `json:"times"`
	status int
}

func (f *Fault) Error() string { return string(f.Kind) + ": " + f.Detail }

// refusal returns the fault of an unsuccessful response.
func refusal(res *http.Response) *Fault {
	text, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
	f := &Fault{Kind: Failed, Detail: res.Status, status: res.StatusCode}
	if res.StatusCode == http.StatusTooManyRequests || res.StatusCode == http.StatusServiceUnavailable {
		f.Kind = Refused
	}
	if m := printable(message(text)); m != "" {
		f.Detail = fmt.Sprintf("%s: %s", res.Status, m)
	}
	return f
}

// message extracts the message of an error in OpenAI's format or a variant of it. Otherwise it
// returns the text itself.
func message(text []byte) string {
	var shape struct {
		Message string          `json:"message"`
		Error   json.RawMessage `json:"error"`
	}
	if json.Unmarshal(text, &shape) != nil {
		var only string
		if json.Unmarshal(text, &only) == nil {
			return only
		}
		return string(text)
	}
	switch {
	case shape.Message != "":
		return shape.Message
	case len(shape.Error) > 0:
		return message(shape.Error)
	}
	return string(text)
}

// faults counts the faults of a run by kind, and keeps the first of each kind.
type faults []*Fault

func (f *faults) add(err error) {
	one := (*Fault)(nil)
	if !errors.As(err, &one) {
		one = &Fault{Kind: Failed, Detail: err.Error()}
	}
	for _, known := range *f {
		if known.Kind == one.Kind {
			known.Times++
			return
		}
	}
	*f = append(*f, &Fault{Kind: one.Kind, Detail: one.Detail, Times: 1})
}

func (f faults) has(k Kind) bool {
	for _, one := range f {
		if one.Kind == k {
			return true
		}
	}
	return false
}
