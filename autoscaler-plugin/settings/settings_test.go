package settings

import (
	"strings"
	"testing"
)

func TestKnownNamesTheSettings(t *testing.T) {
	if err := Known(map[string]string{"nomad_address": "x", "a": "1"}, "b", "a"); err != nil {
		t.Error(err)
	}
	if err := Known(map[string]string{"c": "1"}, "b", "a"); err == nil || !strings.Contains(err.Error(), `unknown setting "c" in the plugin's config: want one of a, b`) {
		t.Errorf("got %v", err)
	}
}
