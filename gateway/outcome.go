package gateway

import (
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// outcome is how a request ended. Every request has exactly one.
type outcome int

const (
	served      outcome = iota // the replica's whole answer was passed on
	listed                     // the gateway listed its models
	unmatched                  // no route matches
	malformed                  // the request itself is invalid
	unreadable                 // the model is unknown because the body's coding is not supported
	tooLarge                   // the body is larger than allowed
	queueFull                  // refused: too many requests wait
	tenantFull                 // refused: too many requests of the tenant wait
	tokenLimit                 // refused: the tenant used its tokens
	tooLate                    // refused: the deadline cannot be met
	noClass                    // refused: no replica of the required class
	expired                    // the request waited for the longest allowed time
	leftWaiting                // the client left while the request waited
	leftServing                // the client left while the request was served
	unreachable                // no connection to a replica
	broken                     // the replica ended the exchange early
	timedOut                   // the replica's answer did not begin in time
	overdue                    // the deadline passed while the request was served
	shortage                   // the gateway itself is out of file descriptors or ports
	bodyTimeout                // the client did not send its body in time
	bodiesFull                 // no space for the body
	shutDown                   // the gateway shut down first
	outcomes                   // number of outcomes
)

// result is an outcome's name in metrics, and its status and text for clients.
type result struct {
	name   string
	status int
	text   string
}

var results = [outcomes]result{
	served:      {"served", 0, ""},
	listed:      {"listed", http.StatusOK, ""},
	unmatched:   {"unmatched", http.StatusNotFound, "no service has a route for this request"},
	malformed:   {"malformed", http.StatusBadRequest, ""},
	unreadable:  {"unreadable", http.StatusUnsupportedMediaType, ""},
	tooLarge:    {"too_large", http.StatusRequestEntityTooLarge, "the request body is larger than the gateway allows"},
	queueFull:   {"queue_full", http.StatusServiceUnavailable, ""},
	tenantFull:  {"tenant_full", http.StatusTooManyRequests, ""},
	tokenLimit:  {"token_limit", http.StatusTooManyRequests, "the tenant has used its tokens per minute"},
	tooLate:     {"too_late", http.StatusServiceUnavailable, ""},
	noClass:     {"no_class", http.StatusServiceUnavailable, ""},
	expired:     {"expired", http.StatusServiceUnavailable, ""},
	leftWaiting: {"left_waiting", 499, ""},
	leftServing: {"left_serving", 499, ""},
	unreachable: {"unreachable", http.StatusBadGateway, "no replica could be reached"},
	broken:      {"broken", http.StatusBadGateway, "the replica ended the exchange before its answer was complete"},
	timedOut:    {"timed_out", http.StatusGatewayTimeout, "the replica's answer did not begin in time"},
	overdue:     {"overdue", http.StatusGatewayTimeout, "the deadline of the request passed while it was served"},
	shortage: {"shortage", http.StatusServiceUnavailable,
		"the gateway is out of file descriptors, ports or buffers"},
	bodyTimeout: {"body_timeout", http.StatusRequestTimeout, "the request body did not arrive in time"},
	bodiesFull:  {"bodies_full", http.StatusServiceUnavailable, "the gateway has no more space for request bodies"},
	shutDown:    {"shut_down", http.StatusServiceUnavailable, "the gateway is shutting down"},
}

func (o outcome) String() string { return results[o].name }

// outcomeHeader has the outcome in answers by the gateway itself.
const outcomeHeader = "X-Aliquot-Outcome"

// rateLimitPrefix is the prefix of headers that stay when the gateway refuses a request.
const rateLimitPrefix = "X-Ratelimit-"

// refuse answers a request that no replica answers.
func refuse(w http.ResponseWriter, r *http.Request, o outcome, text string, after time.Duration) {
	h := w.Header()
	maps.DeleteFunc(h, func(name string, _ []string) bool {
		// keep the gateway's own headers
		return !strings.HasPrefix(name, rateLimitPrefix) && name != "Connection" && name != "Accept-Encoding"
	})
	if o == malformed || o == tooLarge || o == bodyTimeout || o == bodiesFull {
		h.Set("Connection", "close") // the rest of the connection may not be a request
	}
	if text == "" {
		text = results[o].text
	}
	if after > 0 {
		h.Set("Retry-After", strconv.Itoa(int((after+time.Second-1)/time.Second)))
	}
	status := results[o].status
	if speaksGRPC(r.Header) {
		refuseGRPC(w, codeGRPC(o, r), text)
		return
	}
	if e, ok := apiErrorOf(r, o, text); ok {
		h.Set(outcomeHeader, o.String())
		writeAPIError(w, status, e)
		return
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set(outcomeHeader, o.String())
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}

// refuseGRPC refuses a request as the gRPC protocol requires: with status 200, and the error in a
// header block that is also the trailer.
func refuseGRPC(w http.ResponseWriter, code int, text string) {
	h := w.Header()
	h.Set("Content-Type", "application/grpc")
	h.Set("Grpc-Status", strconv.Itoa(code))
	h.Set("Grpc-Message", text)
	w.WriteHeader(http.StatusOK)
}

// codeGRPC returns the gRPC status of an outcome.
func codeGRPC(o outcome, r *http.Request) int {
	switch o {
	case unmatched:
		return 12 // UNIMPLEMENTED
	case malformed, unreadable, tooLarge:
		return 3 // INVALID_ARGUMENT
	case tenantFull, tokenLimit:
		return 8 // RESOURCE_EXHAUSTED
	case tooLate, timedOut, bodyTimeout, overdue:
		return 4 // DEADLINE_EXCEEDED
	case expired:
		if r.Header.Get("Grpc-Timeout") != "" {
			return 4
		}
	}
	return 14 // UNAVAILABLE
}

// speaksGRPC reports whether the content type is gRPC. gRPC-Web does not count: it is another
// protocol, over ordinary HTTP.
func speaksGRPC(h http.Header) bool {
	rest, ok := strings.CutPrefix(h.Get("Content-Type"), "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}
