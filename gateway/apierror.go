package gateway

import (
	"encoding/json"
	"net/http"
	"strings"

	"aliquot.example/internal/prompt"
)

// apiError is an error in the format of OpenAI's and Anthropic's APIs.
type apiError struct {
	Type  string       `json:"type,omitempty"` // "error" in Anthropic's
	Error apiErrorBody `json:"error"`
}

type apiErrorBody struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    string  `json:"code,omitempty"`
}

// apiErrorOf returns the error for a request to a language model, false for other requests.
func apiErrorOf(r *http.Request, o outcome, text string) (apiError, bool) {
	api := prompt.Of(r.URL.Path)
	if api == prompt.Opaque && !strings.Contains(r.URL.Path, listsModels) && !strings.Contains(r.URL.Path,
		"/v1/audio/") && !strings.Contains(r.URL.Path, "/v1/images/") {
		return apiError{}, false
	}
	status := results[o].status
	e := apiError{Error: apiErrorBody{Message: text, Type: openAIType(o, status), Code: o.String()}}
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

func writeAPIError(w http.ResponseWriter, status int, e apiError) {
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
