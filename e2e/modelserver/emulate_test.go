package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aliquot.example/internal/gpu"
)

func TestEmulatedServersTakeTheJobsFlags(t *testing.T) {
	o, err := parse(asVLLM, strings.Fields("serve Qwen/Qwen3-4B --host 0.0.0.0 --port 8123 --served-model-name chat --max-num-seqs 16 --gpu-memory-utilization 0.475"))
	if err != nil || o.listen != "0.0.0.0:8123" || o.model != "chat" || o.slots != 16 || o.memoryPart != 0.475 {
		t.Errorf("vllm: %+v, %v", o, err)
	}
	o, err = parse(asVLLM, strings.Fields("serve x --max-num-batched-tokens 4096 --max-model-len 32768"))
	if err != nil || o.slots != 256 || o.budget != 4096 || o.longest != 32768 {
		t.Errorf("vllm: %+v, %v", o, err)
	}
	models := t.TempDir()
	if err := os.Mkdir(filepath.Join(models, "resnet"), 0o755); err != nil {
		t.Fatal(err)
	}
	o, err = parse(asTriton, []string{"--model-repository=" + models, "--http-port=8100", "--grpc-port=8101", "--metrics-port=8102"})
	if err != nil || o.listen != ":8100" || o.metrics != ":8102" || o.model != "resnet" {
		t.Errorf("triton: %+v, %v", o, err)
	}
}

func TestEmulatedServersRefuseWhatTheRealOnesWould(t *testing.T) {
	for _, c := range []struct{ name, args, want string }{
		{asVLLM, "run x", "vllm serve <model>"},
		{asVLLM, "serve --port 1", "vllm serve <model>"},
		{asVLLM, "serve x --max-seqs 3", "not defined: -max-seqs"},
		{asVLLM, "serve x y", `unexpected argument "y"`},
		{asVLLM, "serve x --gpu-memory-utilization 1.5", "at most 1"},
		{asVLLM, "serve x --max-num-seqs 0", "at least 1"},
		{asTriton, "--model-repository=/none", "no such file"},
		{asTriton, "--model-repository=" + t.TempDir(), "holds no model"},
		{asTriton, "--repository=/models", "not defined: -repository"},
	} {
		if _, err := parse(c.name, strings.Fields(c.args)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: %v, want %q", c.name, c.args, err, c.want)
		}
	}
}

func TestMemoryPartStaysWithinTheGrant(t *testing.T) {
	g := gpu.Grant{Slices: 10, Total: 20, Memory: 40000}
	if mib, err := partOf(g, 0.475); err != nil || mib != 38000 {
		t.Errorf("0.475 of 80000 MiB is %d, %v", mib, err)
	}
	if _, err := partOf(g, 0.51); err == nil {
		t.Error("more than what was granted is taken")
	}
	if _, err := partOf(gpu.Grant{}, 0.5); err == nil {
		t.Error("a part is taken without a grant")
	}
}

func TestInference(t *testing.T) {
	s := ready(t)
	if got := post(s, "/v2/models/m/infer", `{"inputs":[]}`); got.Code != http.StatusOK || !strings.Contains(got.Body.String(), `"model_name":"m"`) {
		t.Errorf("%d %s", got.Code, got.Body)
	}
	if got := post(s, "/v2/models/other/infer", `{}`); got.Code != http.StatusNotFound {
		t.Errorf("another model: %d %s", got.Code, got.Body)
	}
}
