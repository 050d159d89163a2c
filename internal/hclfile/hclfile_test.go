package hclfile

import (
	"strings"
	"testing"
)

func TestErrorsAreOneLine(t *testing.T) {
	var body struct {
		Name string `hcl:"name,optional"`
	}
	for text, want := range map[string]string{
		"name = \"x\"\n":      "",
		"name = \"x\"\nb = 1": "f.hcl:2: ",
		"name = [":            "f.hcl:1: ",
		"name {":              "f.hcl:1: ",
	} {
		err := Decode([]byte(text), "f.hcl", nil, &body)
		switch {
		case want == "" && err != nil:
			t.Errorf("%q: %v", text, err)
		case want != "" && (err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%q: %v, want one line that begins with %q", text, err, want)
		}
	}
}

func TestReadNamesWhatIsMissing(t *testing.T) {
	if _, _, err := Read("/none.hcl"); err == nil || !strings.Contains(err.Error(), "/none.hcl") {
		t.Error(err)
	}
	if text, name, err := Read(""); text != nil || name != "defaults" || err != nil {
		t.Error(text, name, err)
	}
}

// A label may be left out only where the caller says so.
func TestLabelsThatMayBeMissing(t *testing.T) {
	var body struct {
		All []struct {
			Name string `hcl:"name,label"`
		} `hcl:"server,block"`
	}
	text := []byte("server {\n}\nserver \"b\" {\n}\n")
	if err := Decode(text, "f.hcl", nil, &body, "server"); err != nil || len(body.All) != 2 || body.All[0].Name != "" ||
		body.All[1].Name != "b" {
		t.Errorf("%+v, %v", body, err)
	}
	if err := Decode(text, "f.hcl", nil, &body, "other"); err == nil || !strings.Contains(err.Error(), "f.hcl:1: ") {
		t.Errorf("without the type: %v", err)
	}
}
