package host

import (
	"crypto/sha256"
	"encoding/hex"
	"runtime"
	"slices"
	"strings"
)

// Processor returns an identifier of the processor's architecture and features, such as
// "amd64-0f3a…", because code that is compiled for it may need all of them. It returns "" if the
// kernel does not list them.
func (r Root) Processor() string {
	text, err := r.Text("proc", "cpuinfo")
	if err != nil && text == "" {
		return ""
	}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		// The kernel names them flags on x86 and Features on ARM.
		if key = strings.TrimSpace(key); key == "flags" || key == "Features" {
			features := strings.Fields(value)
			slices.Sort(features)
			sum := sha256.Sum256([]byte(strings.Join(features, " ")))
			return runtime.GOARCH + "-" + hex.EncodeToString(sum[:8])
		}
	}
	return ""
}
