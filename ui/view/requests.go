package view

import (
	"slices"
	"strings"
	"time"

	"aliquot.example/internal/api"
)

// RequestsView is the name of the view of requests. Its data is read only while a browser shows it.
const RequestsView = "requests"

// Requests is the view of slow and failed requests.
type Requests struct {
	Sources []Source `json:"sources"`
	// Known is false until the gateways have been asked.
	Known    bool         `json:"known"`
	Services []string     `json:"services"` // services with requests in the lists
	Slow     []RequestRow `json:"slow"`
	Failed   []RequestRow `json:"failed"`
}

// RequestRow is one request.
type RequestRow struct {
	At       time.Time `json:"at"`
	Service  string    `json:"service"`
	Tenant   string    `json:"tenant"`
	Priority string    `json:"priority,omitempty"`
	Class    string    `json:"class"`
	Alloc    string    `json:"alloc,omitempty"`
	Replica  string    `json:"replica"`
	Node     string    `json:"node,omitempty"`
	Outcome  string    `json:"outcome"`
	Status   int       `json:"status"`
	Attempts int       `json:"attempts"`
	// Text says how the request ended, "" if it was served.
	Text   string  `json:"text,omitempty"`
	Total  float64 `json:"total"` // in seconds, like all parts
	Parts  []Span  `json:"parts"`
	Prompt int64   `json:"prompt,omitempty"`
	Output int64   `json:"output,omitempty"`
}

// Span is a part of a request's time.
type Span struct {
	// Name is received, waited, retried, upstream or answer.
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// maxRows is the largest length of each list.
const maxRows = 100

// RequestsOf returns the view of the requests of a service, or of all services for "".
func RequestsOf(f Facts, service string) Requests {
	nodes := map[string]string{}
	for _, a := range f.Allocs {
		nodes[a.ID] = a.Node
	}
	out := Requests{Sources: f.Sources, Known: !f.Requests.Now.IsZero(), Services: []string{}}
	for _, q := range slices.Concat(f.Requests.Slow, f.Requests.Failed) {
		if !slices.Contains(out.Services, q.Service) {
			out.Services = append(out.Services, q.Service)
		}
	}
	slices.Sort(out.Services)
	rows := func(list []api.Request) []RequestRow {
		rows := []RequestRow{}
		for _, q := range list {
			if len(rows) < maxRows && (service == "" || q.Service == service) {
				rows = append(rows, requestRow(q, nodes))
			}
		}
		return rows
	}
	out.Slow, out.Failed = rows(f.Requests.Slow), rows(f.Requests.Failed)
	return out
}

func requestRow(q api.Request, nodes map[string]string) RequestRow {
	alloc := allocOf(q.Replica)
	row := RequestRow{
		At: q.Began, Service: q.Service, Tenant: q.Tenant, Priority: q.Priority, Class: q.Class, Alloc: alloc,
		Replica: q.Replica, Node: nodes[alloc],
		Outcome: strings.ReplaceAll(q.Outcome, "_", " "), Status: q.Status, Attempts: q.Attempts,
		Text: endings[q.Outcome], Total: q.Total / 1000, Prompt: q.Prompt, Output: q.Output,
	}
	if q.Outcome == "served" && q.Status >= 500 {
		row.Text = "The replica answered with an error."
	}
	for _, p := range []Span{{"received", q.Received}, {"waited", q.Waited}, {"retried", q.Retried},
		{"upstream", q.Upstream}, {"answer", q.Answer}} {
		p.Seconds /= 1000
		row.Parts = append(row.Parts, p)
	}
	return row
}

// endings describe the outcomes of requests, by the gateway's name of the outcome.
var endings = map[string]string{
	"malformed":    "The request is not valid HTTP, or its route does not accept it.",
	"unreadable":   "The gateway cannot find the model in the body, because it does not support its content coding.",
	"too_large":    "The body is larger than the gateway allows.",
	"queue_full":   "The queue of the service is full.",
	"tenant_full":  "The tenant has reached its limit of waiting requests.",
	"token_limit":  "The tenant has used its tokens per minute.",
	"too_late":     "The request could not meet its deadline.",
	"no_class":     "No replica has the hardware class that the request requires.",
	"expired":      "No slot became free within the longest wait.",
	"left_waiting": "The client left while the request waited.",
	"left_serving": "The client left while the request was served.",
	"unreachable":  "The gateway could not connect to a replica.",
	"broken":       "The replica ended its answer early.",
	"timed_out":    "The replica's answer did not begin in time.",
	"overdue":      "The request's deadline passed while it was served.",
	"shortage":     "The gateway is out of file descriptors, ports or buffers.",
	"body_timeout": "The client did not send the whole body in time.",
	"bodies_full":  "The gateway has reached its limit of memory for request bodies.",
	"shut_down":    "The gateway shut down before the request ended.",
}
