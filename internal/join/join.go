// Package join makes one answer of the events that a language model's server streams
// for /v1/chat/completions and /v1/completions: the object that the server would have
// answered with, had it not been asked to stream.
//
// Members keep the order in which they first came, and strings and numbers the
// characters in which the server wrote them. How members of several events become one
// is in merge.go.
package join

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Answer is an answer of which events come in. The zero value is an answer of which
// nothing came.
type Answer struct {
	lines lines
	root  *value
	size  int
	done  bool   // the server said that the stream is complete
	ended string // what the server said in place of the rest
	code  int    // the status that goes with it
	err   error
	whole []byte
}

// Most bounds an answer, in bytes of its events.
const Most = 16 << 20

// The errors of an answer that cannot be joined.
var (
	ErrEarly = errors.New("the stream ended before the answer was complete")
	ErrLarge = fmt.Errorf("the answer is longer than %d MiB", Most>>20)
)

// Feed takes the next piece of the stream, of any length.
func (a *Answer) Feed(p []byte) {
	if a.size += len(p); a.size > Most {
		a.err = ErrLarge
	}
	if a.err == nil {
		a.lines.feed(p, a.event)
	}
}

// Failed returns the error that the server told in place of an answer, as a JSON
// object, and the HTTP status that goes with it; "" when it told none.
func (a *Answer) Failed() (object string, status int) { return a.ended, a.code }

// End tells the answer that its stream has come to an end.
func (a *Answer) End() {
	if a.err == nil {
		a.lines.end(a.event)
	}
	switch {
	case a.err != nil, a.ended != "":
	case a.root == nil, !a.done && !a.root.finished():
		a.err = ErrEarly
	default:
		a.root.settle()
		a.whole = append(a.root.write(nil), '\n')
	}
	a.root = nil
}

// Err says why the events make no answer, nil while they may.
func (a *Answer) Err() error { return a.err }

// Whole returns the answer as a JSON object, nil before its end and where there is none.
func (a *Answer) Whole() []byte { return a.whole }

// event takes the data of one event.
func (a *Answer) event(data []byte) {
	if a.err != nil || a.ended != "" {
		return
	}
	if string(data) == "[DONE]" {
		a.done = true
		return
	}
	if !json.Valid(data) {
		a.err = errors.New("an event of the stream is no JSON")
		return
	}
	v := parse(data)
	if v.kind != '{' {
		a.err = errors.New("an event of the stream is no JSON object")
		return
	}
	if status, failed := v.failure(); failed {
		a.ended, a.code = string(data), status
		return
	}
	if a.root == nil {
		a.root = &value{kind: '{'}
	}
	a.root.add(v)
}

// failure reports whether an event tells an error, in either shape that servers use,
// and the HTTP status that it means.
func (v *value) failure() (status int, failed bool) {
	told := v.get("error")
	if object := v.get("object"); object != nil && string(object.text) == "error" {
		told = v
	}
	if told == nil || told.null() {
		return 0, false
	}
	if code := told.get("code"); code != nil {
		if n, ok := code.whole(); ok && n >= 400 && n <= 599 {
			return n, true
		}
	}
	return 500, true
}

// whole reads a whole number.
func (v *value) whole() (int, bool) {
	if v == nil || v.kind != '0' {
		return 0, false
	}
	n, err := strconv.ParseInt(string(v.text), 10, 64)
	return int(n), err == nil && n >= 0 && n <= math.MaxInt32
}

// finished reports whether every choice says why it ended.
func (v *value) finished() bool {
	choices := v.get("choices")
	if choices == nil || len(choices.items) == 0 {
		return false
	}
	for _, c := range choices.items {
		if reason := c.get("finish_reason"); reason == nil || reason.null() {
			return false
		}
	}
	return true
}

// chunk is what follows the name of an object that is a part of another.
const chunk = ".chunk"

// settle brings what was collected into the form of a whole answer.
func (v *value) settle() {
	if object := v.get("object"); object != nil {
		object.text = []byte(strings.TrimSuffix(string(object.text), chunk))
	}
	choices := v.get("choices")
	if choices == nil {
		return
	}
	choices.sort()
	for _, c := range choices.items {
		if m := c.get("message"); m != nil {
			m.settleMessage()
		}
	}
}

// settleMessage does what servers do to a message that is whole: calls of tools lose
// the index by which their parts were told apart, and beside them, or beside reasoning
// alone, a text that is empty is none.
func (v *value) settleMessage() {
	other := false
	if calls := v.get("tool_calls"); calls != nil && len(calls.items) > 0 {
		other = true
		calls.sort()
		for _, c := range calls.items {
			c.drop("index")
		}
	}
	for _, name := range []string{"function_call", "reasoning_content", "reasoning"} {
		m := v.get(name)
		other = other || m != nil && (len(m.keys) > 0 || len(m.text) > 0 && m.kind == '"')
	}
	switch content := v.get("content"); {
	case content == nil:
		v.set("content", &value{kind: 'n'})
	case other && content.kind == '"' && len(content.text) == 0:
		*content = value{kind: 'n'}
	}
	if v.get("role") == nil {
		v.set("role", &value{kind: '"', text: []byte("assistant")})
	}
}
