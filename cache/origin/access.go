package origin

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
)

// Restricted reports whether, by the Hub's answer about a repository, only some clients may read
// its files: it is private or gated, or the answer does not say.
func Restricted(answer []byte) bool {
	var repo struct {
		Private bool            `json:"private"`
		Gated   json.RawMessage `json:"gated"` // false, "auto" or "manual"
	}
	return json.Unmarshal(answer, &repo) != nil || repo.Private || string(repo.Gated) != "false"
}

// Scope gives the files of a restricted repository IDs that include the repository. The Hub tells
// everyone the digests of a gated repository's files. If an ID were only the digest, anyone who
// publishes a commit that names the digest could read the file.
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

// Access asks the Hub whether the owner of a token may read the files of a commit, and returns the
// Hub's refusal if not. The Hub lists the files of a gated repository to everyone and refuses only
// the files themselves. It may permit the small files that describe the repository, so Access asks
// for the largest one. It reads none of it.
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
	// A redirect to another host means that the Hub has granted access. The signed URLs there do
	// not accept HEAD.
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
