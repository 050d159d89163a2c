package profiler

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// Kind is what a server did wrong.
type Kind string

// The kinds of faults.
const (
	Failed  Kind = "failed"  // it answered with an error, or not at all
	Refused Kind = "refused" // it turned a request away, as one does that is full
	Stalled Kind = "stalled" // it fell silent
	Cut     Kind = "cut"     // it ended an answer before its end
	Lied    Kind = "lied"    // what it says of an answer cannot be
)

// Fault is something that a server did wrong.
type Fault struct {
	Kind   Kind   `json:"kind"`
	Detail string `json:"detail"`
	Times  int    `json:"times"`
	status int
}

func (f *Fault) Error() string { return string(f.Kind) + ": " + f.Detail }

// refusal is the fault of an answer that is no success.
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

// message is the message of an error in OpenAI's shape, or in that of those that differ;
// else the text itself.
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

// faults counts those of a run by kind, and keeps the first of each.
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
