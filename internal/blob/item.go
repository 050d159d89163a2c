package blob

import (
	"fmt"
	"regexp"
	"strings"
)

// Kinds of items.
const (
	ModelItem = "model"
	// ImageItem is an image of the container engine: "image://vllm/vllm-openai:v0.28.0".
	ImageItem = "image"
	// CompiledItem is what the replicas of a job compile: "compiled://default/chat".
	CompiledItem = "compiled"
)

// Item is an entry of a list of what is brought to nodes before it is needed.
type Item struct {
	Kind string
	// Name is a model as ParseRef reads it, an image as the container engine does, or a
	// namespace and a job.
	Name string
}

// imageName is a name with a tag, a digest or both. Without them it would mean another
// image tomorrow.
var imageName = regexp.MustCompile(
	`^[a-zA-Z0-9][a-zA-Z0-9._-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)*` +
		`(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?@sha256:[0-9a-f]{64})$`)

// ParseItem reads an entry of a list.
func ParseItem(text string) (Item, error) {
	if name, ok := strings.CutPrefix(text, "image://"); ok {
		if !imageName.MatchString(name) {
			return Item{},
				fmt.Errorf("image %.200q: want a name with a tag or digest, such as image://vllm/vllm-openai:v0.28.0",
					text)
		}
		return Item{ImageItem, name}, nil
	}
	if name, ok := strings.CutPrefix(text, "compiled://"); ok {
		if err := CheckScope(name); err != nil {
			return Item{}, err
		}
		return Item{CompiledItem, name}, nil
	}
	ref, err := ParseRef(text)
	return Item{ModelItem, ref.String()}, err
}

// CheckScope reports what is wrong with the scope of a compile cache: a namespace and a
// job's ID, which may hold slashes itself.
func CheckScope(scope string) error {
	namespace, job, _ := strings.Cut(scope, "/")
	if namespace == "" || job == "" || len(scope) > 1000 || strings.ContainsFunc(scope, func(r rune) bool {
		return r < ' ' || r == 0x7f
	}) {
		return fmt.Errorf("compile cache %.200q: want a namespace and a job, such as compiled://default/chat", scope)
	}
	return nil
}

// String writes the item as ParseItem reads it.
func (i Item) String() string {
	if i.Kind == ModelItem {
		return i.Name
	}
	return i.Kind + "://" + i.Name
}
