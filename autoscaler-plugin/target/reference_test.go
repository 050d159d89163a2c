package target

import (
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"aliquot.example/internal/reference"
)

// docs/configuration.md lists every setting of the plugin with its default.
func TestDocumentedSettings(t *testing.T) {
	page := reference.Compare(t, "aliquot-target", map[string]string{restartAgentAfter: ""})
	if documented, err := time.ParseDuration(page[restartAgentAfter].Text()); err != nil || documented != defaultPatience {
		t.Errorf("%s is %s, on the page %s", restartAgentAfter, defaultPatience, page[restartAgentAfter].Default)
	}
	if err := New(hclog.NewNullLogger()).SetConfig(map[string]string{"other": "x"}); err == nil {
		t.Error("an unknown setting is accepted")
	}
}
