package gateway

import (
	"fmt"
	"net/http"
	"strings"

	"aliquot.example/gateway/match"
)

// listsModels is the path of OpenAI's API that lists models.
const listsModels = "/v1/models"

// modelEntry is one model in the list, in OpenAI's format.
type modelEntry struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
	// Root is the model of an alias, as in vLLM.
	Root string `json:"root,omitempty"`
}

// listModels answers a request for the list of models that the caller can use, or for one of them.
// It runs before any route, because each replica knows only its own model. It returns false for
// other requests, and if no route depends on the model.
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

// maxListed is the largest number of models in an error.
const maxListed = 20

// unmatched refuses a request that matches no route, and lists the models that do.
func (x *exchange) unmatched() bool {
	models := x.plan.routes.Models(x.in)
	if len(models) == 0 {
		return x.refuse(unmatched, "")
	}
	if coding := x.in.Header.Get("Content-Encoding"); x.body != nil {
		if _, known := match.Decoded(http.NoBody, x.in.Header); !known {
			x.writer.Header().Set("Accept-Encoding", match.Codings)
			return x.refuse(unreadable,
				fmt.Sprintf("the gateway cannot find the model in a body with Content-Encoding %.40q: "+
					"want one of %s", coding, match.Codings))
		}
	}
	more := ""
	if len(models) > maxListed {
		models, more = models[:maxListed], ", ..."
	}
	asked := "the request names no model"
	if x.asked != "" {
		asked = fmt.Sprintf("the model %.200q is not served here", x.asked)
	}
	names := make([]string, len(models))
	for i, m := range models {
		names[i] = m.Name
	}
	return x.refuse(unmatched, fmt.Sprintf("%s: want one of %s%s", asked, strings.Join(names, ", "), more))
}
