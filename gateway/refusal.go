package gateway

import (
	"encoding/json"
	"net/http"
	"strings"

	"aliquot/internal/prompt"
)

// refusal is an error in the shape that the clients of OpenAI's and Anthropic's APIs
// read; other clients of it ignore what they do not know.
type refusal struct {
	Type  string       `json:"type,omitempty"` // "error" in Anthropic's
	Error refusalError `json:"error"`
}

type refusalError struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    string  `json:"code,omitempty"`
}

// refusalOf returns the error for a request to a language model; false for others.
func refusalOf(r *http.Request, o outcome, text string) (refusal, bool) {
	api := prompt.Of(r.URL.Path)
	if api == prompt.Opaque && !strings.Contains(r.URL.Path, listsModels) && !strings.Contains(r.URL.Path, "/v1/audio/") && !strings.Contains(r.URL.Path, "/v1/images/") {
		return refusal{}, false
	}
	status := results[o].status
	e := refusal{Error: refusalError{Message: text, Type: openAIType(o, status), Code: o.String()}}
	switch o {
	case unmatched:
		e.Error.Code = "model_not_found"
	case tenantFull, tokenLimit:
		e.Error.Code = "rate_limit_exceeded"
	}
	if api == prompt.Messages {
		e.Type, e.Error.Type = "error", anthropicType(status)
	}
	return e, true
}

func writeRefusal(w http.ResponseWriter, status int, e refusal) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(e)
}

func openAIType(o outcome, status int) string {
	switch {
	case o == tokenLimit:
		return "tokens"
	case status == http.StatusTooManyRequests:
		return "requests"
	case status >= 500:
		return "server_error"
	}
	return "invalid_request_error"
}

func anthropicType(status int) string {
	switch status {
	case http.StatusNotFound:
		return "not_found_error"
	case http.StatusRequestEntityTooLarge:
		return "request_too_large"
	case http.StatusTooManyRequests:
		return "rate_limit_error"
	case http.StatusServiceUnavailable:
		return "overloaded_error"
	}
	if status >= 500 {
		return "api_error"
	}
	return "invalid_request_error"
}
