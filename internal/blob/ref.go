package blob

import (
	"fmt"
	"regexp"
	"strings"
)

// Ref names a model as users write it: "hf://Qwen/Qwen3-4B@main".
type Ref struct {
	// Scheme is the kind of origin, such as "hf".
	Scheme string
	// Name is the part between scheme and revision.
	Name string
	// Revision is a branch, a tag or a commit; "main" where none is given.
	Revision string
}

var refPart = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// schemes are the origins of models, with the parts that a name has, at least and at
// most.
var schemes = map[string]struct{ least, most int }{"hf": {1, 3}, "s3": {1, 32}, "oci": {2, 32}, "file": {0, 64},
	"http": {1, 64}, "https": {1, 64}}

// ParseRef reads a model's name.
func ParseRef(text string) (Ref, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	_, known := schemes[scheme]
	if !ok || !known {
		return Ref{}, fmt.Errorf("model %.120q: want a name such as hf://Qwen/Qwen3-4B@main", text)
	}
	r := Ref{scheme, rest, "main"}
	if scheme == "hf" || scheme == "oci" {
		if at := strings.LastIndexByte(rest, '@'); at >= 0 {
			r.Name, r.Revision = rest[:at], rest[at+1:]
		} else if scheme == "oci" {
			r.Name, r.Revision = tagged(rest)
		}
		if r.Revision == "" || strings.ContainsAny(r.Revision, "\x00?#%\\ ") || strings.Contains(r.Revision, "..") {
			return Ref{}, fmt.Errorf("model %.120q: %q is no revision", text, r.Revision)
		}
	}
	if err := r.check(text); err != nil {
		return Ref{}, err
	}
	return r, nil
}

// check says what is wrong with the name of a model that a user wrote as text.
func (r Ref) check(text string) error {
	scheme, parts := r.Scheme, schemes[r.Scheme]
	words := strings.Split(strings.TrimSuffix(r.Name, "/"), "/")
	if len(words) < parts.least || len(words) > parts.most || strings.ContainsAny(r.Name, "\x00?#") {
		return fmt.Errorf("model %.120q: want a name such as hf://Qwen/Qwen3-4B@main", text)
	}
	if strings.Contains(words[0], "@") && (scheme == "http" || scheme == "https") {
		return fmt.Errorf("model %s://…@%.80s: a name is seen by everybody, so it can hold no user or password",
			scheme, words[0][strings.LastIndexByte(words[0], '@')+1:])
	}
	for _, w := range words {
		if w == ".." || w == "." || scheme == "hf" && !refPart.MatchString(w) {
			return fmt.Errorf("model %.120q: %q cannot be part of a name", text, w)
		}
	}
	return nil
}

// tagged splits the name of an image or artifact as registries' clients write it.
func tagged(text string) (name, tag string) {
	if colon := strings.LastIndexByte(text, ':'); colon > strings.LastIndexByte(text, '/') {
		return text[:colon], text[colon+1:]
	}
	return text, "latest"
}

// String writes the ref as ParseRef reads it.
func (r Ref) String() string {
	if r.Scheme == "hf" || r.Scheme == "oci" {
		return r.Scheme + "://" + r.Name + "@" + r.Revision
	}
	return r.Scheme + "://" + r.Name
}
