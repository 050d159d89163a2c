package gateway

import (
	"fmt"
	"net/http"
	"strings"

	"aliquot.example/gateway/match"
)

// listsModels is the path of OpenAI's API at which clients ask what is served.
const listsModels = "/v1/models"

// modelEntry is one model in the list, as OpenAI's clients read it.
type modelEntry struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
	// Root is the model that an alias stands for, as vLLM names it.
	Root string `json:"root,omitempty"`
}

// listModels answers which models the caller may use, or that one of them exists.
// It is asked before any route is: each replica only knows its own model. False
// when the request is for something else, or routes here do not depend on models.
func (x *exchange) listModels() bool {
	r := x.in
	at := strings.LastIndex(r.URL.Path, listsModels)
	if at < 0 || (r.Method != http.MethodGet && r.Method != http.MethodHead) {
		return false
	}
	one, of := strings.CutPrefix(r.URL.Path[at+len(listsModels):], "/")
	if !of && r.URL.Path[at+len(listsModels):] != "" {
		return false
	}
	models := x.plan.routes.Models(r)
	if len(models) == 0 {
		return false
	}
	entries := []modelEntry{}
	for _, m := range models {
		if one != "" && one != m.Name {
			continue
		}
		e := modelEntry{ID: m.Name, Object: "model", Created: x.server.accounts.since.Unix(), OwnedBy: "aliquot"}
		if known := x.plan.services[m.Service].config.Model; known != m.Name {
			e.Root = known
		}
		entries = append(entries, e)
	}
	switch {
	case one == "":
		writeJSON(&x.writer, map[string]any{"object": "list", "data": entries})
	case len(entries) > 0:
		writeJSON(&x.writer, entries[0])
	default:
		x.asked = one
		x.unmatched()
		return true
	}
	x.outcome = listed
	return true
}

// shown is how many models an error names.
const shown = 20

// unmatched says what is not served here, and what is.
func (x *exchange) unmatched() bool {
	models := x.plan.routes.Models(x.in)
	if len(models) == 0 {
		return x.refuse(unmatched, "")
	}
	if coding := x.in.Header.Get("Content-Encoding"); x.body != nil {
		if _, known := match.Decoded(http.NoBody, x.in.Header); !known {
			x.writer.Header().Set("Accept-Encoding", match.Codings)
			return x.refuse(unreadable,
				fmt.Sprintf("the body has the Content-Encoding %.40q, in which the gateway cannot find its model: "+
					"send it as one of %s", coding, match.Codings))
		}
	}
	more := ""
	if len(models) > shown {
		models, more = models[:shown], ", ..."
	}
	asked := "the request names no model"
	if x.asked != "" {
		asked = fmt.Sprintf("the model %.200q is not served here", x.asked)
	}
	names := make([]string, len(models))
	for i, m := range models {
		names[i] = m.Name
	}
	return x.refuse(unmatched, fmt.Sprintf("%s; these are: %s%s", asked, strings.Join(names, ", "), more))
}
