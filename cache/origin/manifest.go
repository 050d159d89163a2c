package origin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"aliquot.example/internal/blob"
)

// manifestTypes are the media types of manifests that are requested.
var manifestTypes = []string{
	"application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json",
	"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json",
	artifactType,
}

// artifactType is the only media type of manifest with a "blobs" field.
const artifactType = "application/vnd.oci.artifact.manifest.v1+json"

// MaxManifest bounds a manifest, in bytes, as registries do.
const MaxManifest = 4 << 20

// Manifest describes an image or artifact in a registry.
type Manifest struct {
	File
	MediaType string `json:"media_type"`
	// Blobs are all parts, and Platforms the manifests of an index.
	Blobs     []File     `json:"blobs,omitempty"`
	Platforms []Platform `json:"platforms,omitempty"`
}

// Platform is one manifest of an index.
type Platform struct {
	Digest       string `json:"digest"`
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
}

// Digest returns the digest of the manifest.
func (m *Manifest) Digest() string { return path.Base(m.Source) }

// Resolve asks the registry which manifest a ref names now. If the response to HEAD does not say,
// Resolve reads the manifest.
func (c *OCI) Resolve(ctx context.Context, ref blob.Ref, token string) (*Manifest, error) {
	repo, err := repository(ref.Name)
	if err != nil {
		return nil, err
	}
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		res, err := c.do(ctx, method, repo, "manifests", ref.Revision, token)
		if err != nil {
			return nil, err
		}
		m, err := c.resolved(ref, res)
		res.Body.Close()
		if m != nil || err != nil {
			return m, err
		}
	}
	return nil, fmt.Errorf("registry %s does not report the digest and size of %s", repo.Registry, ref)
}

// resolved reads the response to a request for a manifest. It returns nil if the response lacks the
// digest or size.
func (c *OCI) resolved(ref blob.Ref, res *http.Response) (*Manifest, error) {
	if res.StatusCode != http.StatusOK {
		return nil, refusal(res)
	}
	sum, size := res.Header.Get("Docker-Content-Digest"), res.ContentLength
	if res.Request.Method == http.MethodGet {
		body, err := io.ReadAll(io.LimitReader(res.Body, MaxManifest+1))
		if err != nil {
			return nil, err
		}
		sum, size = digest.FromBytes(body).String(), int64(len(body))
	}
	if IsDigest(ref.Revision) && sum != "" && sum != ref.Revision {
		return nil, fmt.Errorf("%w: %s now has the digest %.80s", ErrChanged, ref, sum)
	}
	if !isDigest(sum) || size < 0 {
		return nil, nil
	}
	if size > MaxManifest {
		return nil, fmt.Errorf("%w: the manifest of %s has %d bytes: want at most %d", ErrNotFound, ref, size,
			MaxManifest)
	}
	m := &Manifest{MediaType: res.Header.Get("Content-Type")}
	m.Object, m.Source = ociObject(ref.Name, sum, size), ociSource(ref.Name, "manifests", sum)
	return m, nil
}

// Blob asks whether this client may read a blob of a repository, and for its size.
func (c *OCI) Blob(ctx context.Context, name, sum, token string) (File, error) {
	repo, err := repository(name)
	if err != nil {
		return File{}, err
	}
	if !isDigest(sum) {
		return File{}, fmt.Errorf("%w: %.100q is not a SHA-256 digest", ErrNotFound, sum)
	}
	res, err := c.do(ctx, http.MethodHead, repo, "blobs", sum, token)
	if err != nil {
		return File{}, err
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return File{}, refusal(res)
	}
	if res.ContentLength < 0 {
		return File{}, fmt.Errorf("registry %s does not report the size of a blob", repo.Registry)
	}
	return blobFile(name, descriptor{Digest: sum, Size: res.ContentLength}), nil
}

// descriptor describes a part of a manifest.
// https://github.com/opencontainers/image-spec/blob/main/descriptor.md
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
	Platform    struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
	} `json:"platform"`
}

func blobFile(name string, d descriptor) File {
	return File{Path: d.Digest, Object: ociObject(name, d.Digest, d.Size), Source: ociSource(name, "blobs", d.Digest)}
}

// Read fills a manifest from its body and returns the files of the model that it describes, if any.
func (m *Manifest) Read(name string, body []byte) (files []File, err error) {
	var text struct {
		MediaType string       `json:"mediaType"`
		Config    descriptor   `json:"config"`
		Layers    []descriptor `json:"layers"`
		Blobs     []descriptor `json:"blobs"`
		Manifests []descriptor `json:"manifests"`
	}
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(&text); err != nil {
		return nil, fmt.Errorf("%w: the manifest of %s is not valid JSON", ErrNotFound, name)
	}
	if m.MediaType == "" {
		m.MediaType = text.MediaType
	}
	for _, d := range text.Manifests {
		m.Platforms = append(m.Platforms, Platform{d.Digest, d.Platform.OS, d.Platform.Architecture})
	}
	seen := map[string]bool{}
	parts := append([]descriptor{text.Config}, text.Layers...)
	if kind, _, _ := mime.ParseMediaType(m.MediaType); kind == artifactType {
		parts = append(parts, text.Blobs...)
	}
	for i, d := range parts {
		if !isDigest(d.Digest) || d.Size < 0 {
			if d.Digest == "" && i == 0 {
				continue
			}
			return nil, fmt.Errorf("%w: the manifest of %s has a part without a SHA-256 digest or size", ErrNotFound,
				name)
		}
		f := blobFile(name, d)
		m.Blobs = append(m.Blobs, f)
		at := titled(d)
		if i == 0 || at == "" {
			continue
		}
		if seen[at] {
			at = path.Join(path.Dir(at), strings.TrimPrefix(d.Digest, "sha256:")[:12]+"-"+path.Base(at))
		}
		seen[at] = true
		f.Path = at
		files = append(files, f)
	}
	return files, nil
}

// titles are the annotations that name the file of a layer: the first is from ModelPack, the second
// is used by ORAS, KitOps and Docker Model Runner.
var titles = []string{"org.cncf.model.filepath", "org.opencontainers.image.title"}

// formats maps words in media types of unnamed model layers to a file name or extension.
var formats = map[string]string{
	"gguf": "model.gguf", "vnd.ollama.image.model": "model.gguf", "safetensors": ".safetensors",
}

// titled returns the name of the file that a layer contains, or "" if the layer is not a file.
func titled(d descriptor) string {
	for _, t := range titles {
		if at := path.Clean(d.Annotations[t]); d.Annotations[t] != "" && filepath.IsLocal(at) && at != "." {
			return at
		}
	}
	if strings.Contains(d.MediaType, "layer") || strings.Contains(d.MediaType, "rootfs") {
		return "" // a layer of a container image
	}
	for word, name := range formats {
		if !strings.Contains(d.MediaType, word) {
			continue
		}
		if strings.HasPrefix(name, ".") {
			return strings.TrimPrefix(d.Digest, "sha256:") + name
		}
		return name
	}
	if kind, ok := strings.CutPrefix(d.MediaType, "application/vnd.ollama.image."); ok {
		return kind
	}
	return ""
}
