// Package compiled decides about what model servers compile at their start: kernels,
// graphs and engines. It says for which task a snapshot of that is good, where programs
// look for it, and when it may be published.
package compiled

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Key names what a snapshot is good for. Two tasks share one only if all of it is the
// same. That is finer than the caches' own keys, which decide again inside: too fine
// costs a compilation, too coarse could cost an engine.
type Key struct {
	// Namespace and Job are the scope: a snapshot holds code, and only replicas of one job
	// run each other's.
	Namespace, Job string
	// Vendor, Target and Driver are of the granted GPU: its maker, its compute capability
	// or instruction set, and the version of its kernel driver. Without a GPU they are
	// empty.
	Vendor, Target, Driver string
	// Machine is the host's processor with its features: compilers use what it has.
	Machine string
	// Image is the image's digest.
	Image string
	// Models are the models' names with their revisions.
	Models []string
	// Args are entry point, command and arguments, as Arguments returns them.
	Args []string
	// Env are the variables that Relevant chooses.
	Env map[string]string
}

// Check reports what the key lacks to be one.
func (k Key) Check() error {
	for what, value := range map[string]string{"namespace": k.Namespace, "job": k.Job, "processor": k.Machine,
		"digest of the image": k.Image} {
		if value == "" {
			return fmt.Errorf("the %s is not known", what)
		}
	}
	if k.Vendor != "" && (k.Target == "" || k.Driver == "") {
		return errors.New("the GPU's instruction set or driver version is not known")
	}
	return nil
}

// Sum is the key as 64 hexadecimal digits.
func (k Key) Sum() string {
	h := sha256.New()
	list := func(words ...string) {
		fmt.Fprintf(h, "%d;", len(words))
		for _, w := range words {
			fmt.Fprintf(h, "%d:%s,", len(w), w)
		}
	}
	list("1", k.Namespace, k.Job, k.Vendor, k.Target, k.Driver, k.Machine, k.Image)
	list(k.Models...)
	list(k.Args...)
	for _, name := range slices.Sorted(maps.Keys(k.Env)) {
		list(name, k.Env[name])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// IsSum reports whether a text can be a Sum. It is safe as the name of a file then.
func IsSum(text string) bool {
	raw, err := hex.DecodeString(text)
	return err == nil && len(raw) == sha256.Size && strings.ToLower(text) == text
}

// ofAllocation are prefixes of variables whose values differ between the allocations of
// one group.
var ofAllocation = []string{"NOMAD_ALLOC_ID", "NOMAD_SHORT_ALLOC_ID", "NOMAD_ALLOC_NAME", "NOMAD_PORT_",
	"NOMAD_HOST_PORT_", "NOMAD_ALLOC_PORT_", "NOMAD_ADDR_", "NOMAD_HOST_ADDR_", "NOMAD_IP_", "NOMAD_HOST_IP_"}

// Arguments returns arguments with names in place of what Nomad chose for the one
// allocation, such as a port.
func Arguments(args []string, env map[string]string) []string {
	var names []string
	for name, value := range env {
		if value != "" && slices.ContainsFunc(ofAllocation, func(p string) bool { return strings.HasPrefix(name, p) }) {
			names = append(names, name)
		}
	}
	// An address holds its port; of equal values the first name counts.
	slices.SortFunc(names, func(a, b string) int {
		if n := len(env[b]) - len(env[a]); n != 0 {
			return n
		}
		return strings.Compare(a, b)
	})
	out := slices.Clone(args)
	for i := range out {
		for _, name := range names {
			out[i] = replaceWord(out[i], env[name], "${"+name+"}")
		}
	}
	return out
}

// replaceWord replaces a word that has no letter or digit next to it.
func replaceWord(text, word, by string) string {
	var out strings.Builder
	for from := 0; ; {
		at := strings.Index(text[from:], word)
		if at < 0 {
			out.WriteString(text[from:])
			return out.String()
		}
		at += from
		end := at + len(word)
		out.WriteString(text[from:at])
		if at > 0 && alnum(text[at-1]) || end < len(text) && alnum(text[end]) {
			out.WriteString(word)
		} else {
			out.WriteString(by)
		}
		from = end
	}
}

func alnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// compilers are prefixes of variables that change what is compiled.
var compilers = []string{"VLLM_", "SGLANG_", "SGL_", "TORCH", "PYTORCH_", "TRITON_", "FLASHINFER_", "DG_", "MIOPEN_",
	"AITER_", "XLA_", "HSA_OVERRIDE", "NVCC_"}

// Relevant chooses the variables that change what is compiled, without those that say
// where it is kept and without secrets.
func Relevant(env map[string]string) map[string]string {
	places := Places("/")
	out := map[string]string{}
	for name, value := range env {
		_, place := places[name]
		secret := slices.ContainsFunc([]string{"KEY", "TOKEN", "SECRET", "PASSWORD"}, func(w string) bool {
			return strings.Contains(name, w)
		})
		if !place && !secret && slices.ContainsFunc(compilers, func(p string) bool {
			return strings.HasPrefix(name, p)
		}) {
			out[name] = value
		}
	}
	return out
}
