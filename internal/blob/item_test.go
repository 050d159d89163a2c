package blob

import (
	"strings"
	"testing"
)

func TestItems(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0a", 32)
	for text, want := range map[string]Item{
		"hf://Qwen/Qwen3-4B":                   {ModelItem, "hf://Qwen/Qwen3-4B@main"},
		"image://vllm/vllm-openai:v0.28.0":     {ImageItem, "vllm/vllm-openai:v0.28.0"},
		"image://127.0.0.1:5000/a/b@" + digest: {ImageItem, "127.0.0.1:5000/a/b@" + digest},
		"image://busybox:1@" + digest:          {ImageItem, "busybox:1@" + digest},
		"compiled://default/chat":              {CompiledItem, "default/chat"},
		"compiled://default/a/b":               {CompiledItem, "default/a/b"},
	} {
		got, err := ParseItem(text)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
		if again, err := ParseItem(got.String()); err != nil || again != got {
			t.Errorf("%s is written as %s: %+v, %v", text, got, again, err)
		}
	}
	for _, text := range []string{"", "chat", "image://", "image://busybox", "image://host:5000/busybox", "image://a b:1", "image://a?x=1:1", "image://../x:1", "compiled://", "compiled://default", "compiled:///chat", "compiled://a/b\n"} {
		if got, err := ParseItem(text); err == nil {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
}
