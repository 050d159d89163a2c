package view

import (
	"strings"
	"testing"

	"aliquot.example/docs"
)

func TestRemedyOf(t *testing.T) {
	for text, want := range map[string]string{
		"XID 79 at 12:01:02; the GPU returns to service when it has proven healthy": "drain the node and reset",
		"GPU was lost":                       "drain the node and reset",
		"GPU does not answer: nvmlDeviceGet": "check power and seating",
		"the driver asks for a reset of the GPU (nvidia-smi --gpu-reset)":            "drain, then do so",
		"GPU attachment verified: process 7":                                         "",
		"GPU attachment not seen: within 30s no process of this task opened the GPU": "raise attachment_timeout",
		"no variant fits hardware class mi300x":                                      "add one, or constrain the device",
		"the node's cache does not answer: dial tcp":                                 "run jobs/cache.nomad.hcl on the node",
		"something that no page knows":                                               "",
	} {
		if got := remedyOf(text); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// Every row of both tables has a text that is found again by its own remedy.
func TestRemediesAreRead(t *testing.T) {
	if len(remedies) < 50 {
		t.Errorf("%d remedies were read", len(remedies))
	}
	for _, r := range remedies {
		if r.fixed < 8 || r.do == "" || strings.ContainsAny(r.do, "`[]|") {
			t.Errorf("%s: %q", r.text, r.do)
		}
	}
	if n := len(remediesOf(docs.Operations, "## No such heading")); n > 0 {
		t.Errorf("%d remedies below a heading that there is not", n)
	}
}
