// Package query parses the queries of scaling policies for aliquot-apm. Its errors have the column of
// the mistake.
package query

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"aliquot.example/internal/scale"
)

// Metric is the quantity for which a query asks.
type Metric string

// The metrics.
const (
	// Concurrency is the number of queued and active requests: the demand.
	Concurrency Metric = "concurrency"
	// Queued is the number of waiting requests.
	Queued Metric = "queued"
	// Active is the number of requests in progress, on one class if the query names one.
	Active Metric = "active"
	// Load is the demand in slots of the fastest class, by measured speeds.
	Load Metric = "load"
	// Tokens is the number of tokens of the queued and active requests to a language model. If the
	// query names a class, it is the number in progress on this class.
	Tokens Metric = "tokens"
	// Arriving is the number of tokens, of prompts and expected answers, of the requests that arrive
	// in each second.
	Arriving Metric = "arriving"
	// Attained is the share of the requests ended in each second that met the service's objective, 1
	// if none ended.
	Attained Metric = "attained"
	// Above is the share of the requests ended in each second that exceeded a limit, 0 if none ended.
	Above Metric = "above"
)

// The times that Above can limit.
const (
	TTFT = "ttft"
	TPOT = "tpot"
	E2E  = "e2e"
)

// OfAnswers reports whether a query needs gateways that read answers, as they do for language models.
func (q *Query) OfAnswers() bool {
	switch q.Metric {
	case Tokens, Arriving, Attained, Above:
		return true
	}
	return false
}

// Query is a parsed query:
//
//	query    = metric { argument } .
//	metric   = "concurrency" | "load" | "queued" | "active" | "tokens" | "arriving" | "attained" | "above" |
//	           "placed" | "blocked" | "free" | "nodes" .
//	argument = key "=" value .
//	key      = "service" | "class" | "classes" | "utilization" | "ttft" | "tpot" | "e2e" |
//	           "pool" | "node_class" | "datacenter" | "after" | "keep" | "standby" | "gpus" | "slices" .
//	value    = word | "'" { any character but "'" } "'" .
//
// Spaces separate metric and arguments. A word consists of letters, digits, '-', '_', '.' and ':'.
type Query struct {
	Metric  Metric
	Service string
	// Class of hardware; "" for all.
	Class string
	// Classes are all classes of the service, with the speeds of the text. Load needs them, and so
	// does the concurrency of one class: the demand is split over the classes, so that two classes do
	// not scale for the same requests.
	Classes []scale.Class
	// Utilization is the planned utilization for the split.
	Utilization float64
	// Of is the time that Limit limits: TTFT, TPOT or E2E. Both are only for Above.
	Of    string
	Limit time.Duration
	// Group is the group of nodes. It is only for Placed, Blocked, Free and Nodes, which have no
	// Service.
	Group Group
}

const classesForm = "classes='h100 slots=8 cost=3.5 max=4, l4 slots=2 cost=1 max=16'"

const metrics = "concurrency, load, queued, active, tokens, arriving, attained, above, placed, blocked, free or nodes"

const queryForm = `want for example "concurrency service=llm"`

// Parse parses a query. Its errors are *scale.SyntaxError with the column of the mistake.
func Parse(text string) (Query, error) {
	p := parser{text: text}
	q := Query{Utilization: scale.Default().Utilization, Group: Group{Keep: keep}}
	metric, at := p.word()
	switch q.Metric = Metric(metric); q.Metric {
	case Concurrency, Load, Queued, Active, Tokens, Arriving, Attained, Above, Placed, Blocked, Free, Nodes:
	case "":
		return q, fail(at, "a metric is missing: want "+metrics+"; "+queryForm)
	default:
		return q, fail(at, fmt.Sprintf("unknown metric %q: want %s", metric, metrics))
	}
	seen := map[string]bool{}
	for {
		if parted := p.spaces(); p.done() {
			break
		} else if !parted {
			return q, fail(p.column(), fmt.Sprintf("unexpected %q: want a space or the end", p.text[p.at:p.at+1]))
		}
		key, at := p.word()
		if key == "" || !p.take('=') {
			return q, fail(at, "want an argument here: key=value with key "+either(q.Metric.arguments()))
		}
		if seen[key] {
			return q, fail(at, fmt.Sprintf("%s is given twice", key))
		}
		seen[key] = true
		value, valueAt, err := p.value(key)
		if err != nil {
			return q, err
		}
		if err := q.set(key, at, value, valueAt); err != nil {
			return q, err
		}
	}
	return q, q.check(p.column())
}

func fail(column int, problem string) error {
	return &scale.SyntaxError{Column: column, Problem: problem}
}

func (q *Query) set(key string, at int, value string, valueAt int) error {
	if known := q.Metric.arguments(); !slices.Contains(known, key) {
		return fail(at, fmt.Sprintf("unknown argument %q of %s: want %s", key, q.Metric, either(known)))
	}
	if q.OfSlices() {
		return q.setGroup(key, value, valueAt)
	}
	switch key {
	case "service":
		return named(&q.Service, key, value, valueAt)
	case "class":
		return named(&q.Class, key, value, valueAt)
	case "classes":
		classes, err := scale.ParseClasses(value)
		if syntax, ok := err.(*scale.SyntaxError); ok {
			return fail(valueAt+syntax.Column-1, syntax.Problem)
		}
		q.Classes = classes
		return err
	case "utilization":
		f, err := strconv.ParseFloat(value, 64)
		if err != nil || !(f >= 0.01 && f <= 1) {
			return fail(valueAt, fmt.Sprintf("utilization is %q: want a number from 0.01 to 1", value))
		}
		q.Utilization = f
		return nil
	}
	return q.setLimit(key, at, value, valueAt)
}

// named sets a name.
func named(to *string, key, value string, at int) error {
	if !scale.IsName(value) {
		return fail(at, fmt.Sprintf("%s is %q: want letters, digits, '-', '_' and '.'", key, value))
	}
	*to = value
	return nil
}

func (q *Query) setLimit(key string, at int, value string, valueAt int) (err error) {
	if q.Of != "" {
		return fail(at, fmt.Sprintf("both %s and %s are given: want one limit", q.Of, key))
	}
	q.Of = key
	if q.Limit, err = time.ParseDuration(value); err != nil || q.Limit < time.Millisecond || q.Limit > time.Hour {
		return fail(valueAt, fmt.Sprintf("%s is %q: want a duration from 1ms to 1h", key, value))
	}
	return nil
}

// check checks the combination of arguments.
func (q *Query) check(end int) error {
	switch {
	case q.OfSlices():
		return q.checkGroup(end)
	case q.Service == "":
		return fail(end, "service is missing: "+queryForm)
	case q.Metric == Queued && (q.Class != "" || q.Classes != nil):
		return fail(end,
			"queued takes no class, because waiting requests have none yet: ask for concurrency with class and classes")
	case (q.Metric == Above) != (q.Of != ""):
		return fail(end, "only above takes a limit, and it needs one: want for example \"above service=llm ttft=2s\"")
	case q.OfAnswers() && q.Metric != Tokens && (q.Class != "" || q.Classes != nil):
		return fail(end, fmt.Sprintf("%s covers the whole service: leave out class and classes", q.Metric))
	case (q.Metric == Active || q.Metric == Tokens) && q.Classes != nil:
		return fail(end, fmt.Sprintf("%s takes no classes, because it counts requests where they are served: leave "+
			"out classes", q.Metric))
	}
	return q.checkClasses(end)
}

// checkClasses checks the classes of a query.
func (q *Query) checkClasses(end int) error {
	switch {
	case q.Metric == Load && q.Classes == nil:
		return fail(end, "load without classes: list all classes of the service, such as "+classesForm)
	case q.Metric == Concurrency && q.Class != "" && q.Classes == nil:
		return fail(end, "class without classes: list all classes of the service, such as "+classesForm)
	case q.Metric == Concurrency && slices.ContainsFunc(q.Classes, func(c scale.Class) bool { return c.Speed != 1 }):
		return fail(end,
			"classes have speeds but concurrency counts all slots equally: ask for load, or leave out speed")
	case q.Classes != nil && q.Own() < 0 && !(q.Metric == Load && q.Class == ""):
		return fail(end, fmt.Sprintf("class is %q: want one of those in classes", q.Class))
	}
	return nil
}

// Own returns the index of Class in Classes, -1 if it is not among them.
func (q *Query) Own() int {
	for i, c := range q.Classes {
		if c.Name == q.Class {
			return i
		}
	}
	return -1
}

type parser struct {
	text string
	at   int
}

func (p *parser) column() int { return p.at + 1 }
func (p *parser) done() bool  { return p.at == len(p.text) }

func (p *parser) spaces() bool {
	from := p.at
	for !p.done() && strings.IndexByte(" \t\n", p.text[p.at]) >= 0 {
		p.at++
	}
	return p.at > from
}

func (p *parser) take(b byte) bool {
	if p.done() || p.text[p.at] != b {
		return false
	}
	p.at++
	return true
}

// word reads a word, and returns it with its column.
func (p *parser) word() (string, int) {
	p.spaces()
	from := p.at
	for !p.done() && (p.text[p.at] == ':' || scale.IsName(p.text[p.at:p.at+1])) {
		p.at++
	}
	return p.text[from:p.at], from + 1
}

func (p *parser) value(key string) (value string, column int, err error) {
	if p.take('\'') {
		from := p.at
		length := strings.IndexByte(p.text[from:], '\'')
		if length < 0 {
			return "", 0, fail(from, "this quotation has no end: want another '")
		}
		p.at += length + 1
		return p.text[from : from+length], from + 1, nil
	}
	if p.at < len(p.text) && p.spaces() || p.done() {
		return "", 0, fail(p.column(), key+" has no value")
	}
	value, column = p.word()
	if value == "" {
		return "", 0, fail(column, fmt.Sprintf("a value cannot start with %q: want a word, or quote it with '",
			p.text[p.at:p.at+1]))
	}
	return value, column, nil
}
