package origin

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
)

// Restricted reports whether the Hub's answer about a repository leaves open that some
// may not read its files: it is private, or gated, or does not say.
func Restricted(answer []byte) bool {
	var said struct {
		Private bool            `json:"private"`
		Gated   json.RawMessage `json:"gated"` // false, "auto" or "manual"
	}
	return json.Unmarshal(answer, &said) != nil || said.Private || string(said.Gated) != "false"
}

// Scope gives the files of a restricted repository IDs of that repository. By its digest alone
// an object of it would open for whoever publishes a commit that names the digest, which the
// Hub tells everybody of a gated repository.
func Scope(name string, files []File) []File {
	scoped := slices.Clone(files)
	for i, f := range files {
		if sum := f.Object.Checksum(); f.Object.Kind() != "name" {
			scoped[i].Object = Named(f.Object.Size, "hf://"+name, sum.String())
			scoped[i].Object.Sum = sum.String()
		}
	}
	return scoped
}

// Access asks whether the bearer of a token may read the files of a commit, and returns
// the Hub's refusal where it refuses. The Hub lists the files of a gated repository to
// everybody and refuses the files alone, and may make an exception for the small ones
// that describe it, so Access asks for the largest. It reads nothing of it.
func (h *Hub) Access(ctx context.Context, files []File, token string) error {
	if len(files) == 0 {
		return nil
	}
	largest := slices.MaxFunc(files, func(a, b File) int { return cmp.Compare(a.Object.Size, b.Object.Size) })
	path, err := resolve(largest.Source)
	if err != nil {
		return err
	}
	r, err := newRequest(ctx, http.MethodHead, h.Endpoint+path, h.token(token))
	if err != nil {
		return err
	}
	// The Hub has decided when it sends the client to another host, whose signed URLs are
	// not for HEAD.
	client := *h.Client
	client.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		if r.URL.Host != via[0].URL.Host {
			return http.ErrUseLastResponse
		}
		return homeOnly(r, via)
	}
	res, err := client.Do(r)
	if err != nil {
		return unwrapped(err)
	}
	res.Body.Close()
	if res.StatusCode >= http.StatusBadRequest {
		return named(res)
	}
	return nil
}
