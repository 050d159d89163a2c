package aliquot

import "testing"

// An image that the docker driver pulls at each start may be another one by then.
func TestImagesThatMove(t *testing.T) {
	for image, want := range map[string]bool{
		"vllm": true, "vllm:latest": true, "registry:5000/vllm": true, "registry:5000/a/vllm:latest": true,
		"vllm:0.28": false, "registry:5000/vllm:0.28": false, "vllm@sha256:abc": false, "vllm:latest@sha256:abc": false,
	} {
		if moves(image) != want {
			t.Errorf("%s: %t", image, !want)
		}
	}
}
