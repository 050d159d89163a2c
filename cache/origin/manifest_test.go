package origin

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func layer(digit, mediaType, title string) map[string]any {
	l := map[string]any{"digest": "sha256:" + strings.Repeat(digit, 64), "size": 5, "mediaType": mediaType}
	if title != "" {
		l["annotations"] = map[string]string{"org.opencontainers.image.title": title}
	}
	return l
}

// The files of a model have the names that its packer gave them, and never lie outside of the
// model.
func TestFilesOfManifests(t *testing.T) {
	long := strings.Repeat("a", 64)
	for what, c := range map[string]struct {
		layers []any
		want   []string
	}{
		"ORAS":      {[]any{layer("a", "application/octet-stream", "dir/model.bin"), layer("b", "application/json", "config.json")}, []string{"dir/model.bin", "config.json"}},
		"Docker":    {[]any{layer("a", "application/vnd.docker.ai.gguf.v3", "")}, []string{"model.gguf"}},
		"tensors":   {[]any{layer("a", "application/vnd.docker.ai.safetensors", "")}, []string{long + ".safetensors"}},
		"Ollama":    {[]any{layer("a", "application/vnd.ollama.image.model", ""), layer("b", "application/vnd.ollama.image.template", "")}, []string{"model.gguf", "template"}},
		"an image":  {[]any{layer("a", "application/vnd.oci.image.layer.v1.tar+gzip", "")}, nil},
		"one name":  {[]any{layer("a", "x", "f"), layer("b", "x", "f")}, []string{"f", strings.Repeat("b", 12) + "-f"}},
		"upwards":   {[]any{layer("a", "x", "../../etc/passwd")}, nil},
		"from root": {[]any{layer("a", "x", "/etc/passwd")}, nil},
		"itself":    {[]any{layer("a", "x", "a/..")}, nil},
	} {
		body, err := json.Marshal(map[string]any{"config": layer("c", "x", ""), "layers": c.layers})
		if err != nil {
			t.Fatal(err)
		}
		m := &Manifest{}
		files, err := m.Read("host/o/n", body)
		var got []string
		for _, f := range files {
			got = append(got, f.Path)
		}
		if err != nil || !slices.Equal(got, c.want) || len(m.Blobs) != len(c.layers)+1 {
			t.Errorf("%s: %v with %d blobs, %v; want %v", what, got, len(m.Blobs), err, c.want)
		}
	}
}

// Only the manifest of an artifact has blobs: no registry checks that key in other manifests.
func TestBlobsAreOfArtifacts(t *testing.T) {
	body, err := json.Marshal(map[string]any{"blobs": []any{layer("a", "x", "f")}})
	if err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[string]int{
		artifactType: 1, artifactType + "; charset=utf-8": 1, "application/vnd.oci.image.manifest.v1+json": 0,
		"application/vnd.docker.distribution.manifest.v2+json": 0, "": 0,
	} {
		m := &Manifest{MediaType: kind}
		files, err := m.Read("host/o/n", body)
		if err != nil || len(m.Blobs) != want || len(files) != want {
			t.Errorf("%q: %d blobs, %d files, %v; want %d", kind, len(m.Blobs), len(files), err, want)
		}
	}
}

// Whatever a registry sends, the files stay in the model and the blobs can be verified.
func FuzzManifest(f *testing.F) {
	body, _ := json.Marshal(map[string]any{"config": layer("c", "x", ""), "layers": []any{layer("a", "gguf", "t")}, "manifests": []any{layer("b", "", "")}})
	f.Add(body)
	f.Fuzz(func(t *testing.T, body []byte) {
		m := &Manifest{}
		files, err := m.Read("host/o/n", body)
		if err != nil && !errors.Is(err, ErrNotFound) {
			t.Errorf("%v", err)
		}
		for _, file := range files {
			if !filepath.IsLocal(file.Path) {
				t.Errorf("%q leads out of the model", file.Path)
			}
		}
		for _, b := range m.Blobs {
			if err := b.Object.Check(); err != nil || b.Object.Sum == "" {
				t.Errorf("%+v: %v", b, err)
			}
		}
	})
}
