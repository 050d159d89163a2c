package reference

import (
	"fmt"
	"reflect"
	"strings"
)

// Keys lists the attributes of a struct that gohcl decodes, by their path, with
// their types; "" for one that is read from its expression.
func Keys(body reflect.Type) map[string]string {
	found := map[string]string{}
	collect(body, "", found)
	return found
}

func collect(body reflect.Type, path string, found map[string]string) {
	for _, f := range fields(body) {
		if f.block != nil {
			collect(f.block, path+f.name+".", found)
		} else {
			found[path+f.name] = f.kind
		}
	}
}

// Write makes a file that sets one key of a struct that gohcl decodes, in the
// blocks where it belongs. beside holds what else must stand in a block, by the
// block's path, with "" for the file itself.
func Write(body reflect.Type, key, value string, beside map[string]string) string {
	var open, end strings.Builder
	open.WriteString(beside[""])
	words := strings.Split(key, ".")
	for i, word := range words[:len(words)-1] {
		for _, f := range fields(body) {
			if f.name == word && f.block != nil {
				body = f.block
				break
			}
		}
		fmt.Fprintf(&open, "%s %s {\n%s", word, strings.Repeat(`"x" `, labels(body)),
			beside[strings.Join(words[:i+1], ".")])
		end.WriteString("}\n")
	}
	if value != "" {
		fmt.Fprintf(&open, "%s = %s\n", words[len(words)-1], value)
	}
	return open.String() + end.String()
}

type field struct {
	name, kind string
	block      reflect.Type // nil for an attribute
}

func fields(body reflect.Type) (found []field) {
	for i := range body.NumField() {
		f := body.Field(i)
		name, kind, _ := strings.Cut(f.Tag.Get("hcl"), ",")
		switch {
		case name == "" || kind == "label":
		case kind == "block":
			found = append(found, field{name: name, block: element(f.Type)})
		default:
			found = append(found, field{name: name, kind: kindOf(f.Type)})
		}
	}
	return found
}

func labels(body reflect.Type) (n int) {
	for i := range body.NumField() {
		if strings.HasSuffix(body.Field(i).Tag.Get("hcl"), ",label") {
			n++
		}
	}
	return n
}

// element is the struct under pointers and slices.
func element(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t
}

func kindOf(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "bool"
	case reflect.Int, reflect.Int64, reflect.Float64:
		return "number"
	case reflect.Slice:
		return "list of strings"
	case reflect.Map:
		return "map of strings"
	}
	return ""
}
