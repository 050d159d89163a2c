// Package join joins the events that a language model's server streams for /v1/chat/completions and
// /v1/completions into one response: the object with which the server would have answered a request
// without streaming.
//
// Members keep the order of their first appearance, and strings and numbers keep the server's
// characters. merge.go merges the members of several events.
package join

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Answer is a response that is joined from events. The zero value is an answer without events.
type Answer struct {
	lines lines
	root  *value
	size  int
	done  bool   // the server has marked the stream as complete
	ended string // the error that the server sent instead of the rest
	code  int    // the HTTP status of that error
	err   error
	whole []byte
}

// MaxSize is the maximum size of an answer's events, in bytes.
const MaxSize = 16 << 20

// The errors of an answer that cannot be joined.
var (
	ErrEarly = errors.New("the stream ended before the answer was complete")
	ErrLarge = fmt.Errorf("the answer is longer than %d MiB", MaxSize>>20)
)

// Feed adds the next piece of the stream, of any length.
func (a *Answer) Feed(p []byte) {
	if a.size += len(p); a.size > MaxSize {
		a.err = ErrLarge
	}
	if a.err == nil {
		a.lines.feed(p, a.event)
	}
}

// Failed returns the error that the server sent instead of an answer, as a JSON object, and its
// HTTP status. It returns "" if there is none.
func (a *Answer) Failed() (object string, status int) { return a.ended, a.code }

// End marks the end of the stream.
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

// Err returns why the events cannot be joined, nil while they can.
func (a *Answer) Err() error { return a.err }

// Whole returns the answer as a JSON object. It returns nil before the end, and if there is no answer.
func (a *Answer) Whole() []byte { return a.whole }

// event adds the data of one event.
func (a *Answer) event(data []byte) {
	if a.err != nil || a.ended != "" {
		return
	}
	if string(data) == "[DONE]" {
		a.done = true
		return
	}
	if !json.Valid(data) {
		a.err = errors.New("an event of the stream is not JSON")
		return
	}
	v := parse(data)
	if v.kind != '{' {
		a.err = errors.New("an event of the stream is not a JSON object")
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

// failure reports whether an event is an error, in one of the two forms that servers use, and
// returns its HTTP status.
func (v *value) failure() (status int, failed bool) {
	failure := v.get("error")
	if object := v.get("object"); object != nil && string(object.text) == "error" {
		failure = v
	}
	if failure == nil || failure.null() {
		return 0, false
	}
	if code := failure.get("code"); code != nil {
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

// finished reports whether every choice has a reason for its end.
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

// chunk is the suffix in the name of an object that is a part of another.
const chunk = ".chunk"

// settle converts the collected members to the form of a whole answer.
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

// settleMessage converts a message to the form of a whole answer, as servers do: tool calls lose
// the index that identified their parts, and an empty text beside tool calls, or beside reasoning
// only, becomes null.
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
