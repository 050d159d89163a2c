package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"aliquot.example/cache/hubtest"
)

// source is an origin: the name of the model, and the origin's block in a cache's configuration.
type source struct{ model, config string }

// kinds are the kinds of origins by the scheme of their models.
var kinds = map[string]struct {
	be     func(ctx context.Context, host string, body []byte) error
	source func(url string) source
}{
	"hf": {beHub, func(url string) source {
		return source{"hf://" + model, fmt.Sprintf("huggingface {\n  endpoint = %q\n}\n", url)}
	}},
	"s3": {beS3, func(url string) source {
		return source{"s3://bench/" + file,
			fmt.Sprintf("s3 {\n  endpoint = %q\n  path_style = true\n  anonymous = true\n}\n", url)}
	}},
	"oci": {beRegistry, func(url string) source {
		host := strings.TrimPrefix(url, "http://")
		return source{"oci://" + host + "/" + model + ":v1", fmt.Sprintf("oci {\n  plain_http = [%q]\n}\n", host)}
	}},
}

// model is the repository at the origin, and file its only file.
const model, file = "bench/model", "model.safetensors"

// firsts is how many more models the Hub origin has, each with different bytes, to measure the time
// to the first byte. firstBytes bounds their size: as many chunks as are fetched at once.
const firsts, firstBytes = 7, 64 << 20

func firstModel(i int) string { return fmt.Sprintf("bench/first-%d", i) }

// beOrigin runs an origin on a host until the context ends. It prints its URL.
func beOrigin(ctx context.Context, kind, host string, size int64) error {
	k, ok := kinds[kind]
	if !ok {
		return fmt.Errorf("unknown kind of origin %q", kind)
	}
	return k.be(ctx, host, hubtest.Bytes(1, int(size)))
}

func beHub(ctx context.Context, host string, body []byte) error {
	hub, stop, err := hubtest.StartAt(host)
	if err != nil {
		return err
	}
	defer stop()
	hub.Push(model, "main", map[string]hubtest.File{file: {Body: body, LFS: true}})
	for i := range firsts {
		some := body[i<<10 : len(body)-(firsts-i)<<10]
		some = some[:min(len(some), firstBytes)]
		hub.Push(firstModel(i), "main", map[string]hubtest.File{file: {Body: some, LFS: true}})
	}
	fmt.Println(hub.URL)
	<-ctx.Done()
	return nil
}

func beS3(ctx context.Context, host string, body []byte) error {
	backend := s3mem.New()
	if err := backend.CreateBucket("bench"); err != nil {
		return err
	}
	about := map[string]string{"Last-Modified": time.Now().UTC().Format(http.TimeFormat)}
	if _, err := backend.PutObject("bench", file, about, bytes.NewReader(body), int64(len(body)), nil); err != nil {
		return err
	}
	return serveCounted(ctx, host, gofakes3.New(backend).Server(), nil)
}

func beRegistry(ctx context.Context, host string, body []byte) error {
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	return serveCounted(ctx, host, h, func(url string) error { return pushArtifact(ctx, url, body) })
}

// pushArtifact pushes a model with one raw layer.
func pushArtifact(ctx context.Context, url string, body []byte) error {
	empty := []byte("{}")
	layer := map[string]any{
		"mediaType": "application/vnd.cncf.model.weight.v1.raw", "digest": "sha256:" + hubtest.SHA256(body),
		"size":        len(body),
		"annotations": map[string]string{"org.opencontainers.image.title": file},
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"artifactType": "application/vnd.cncf.model.manifest.v1+json", "layers": []any{layer},
		"config": map[string]any{"mediaType": "application/vnd.oci.empty.v1+json",
			"digest": "sha256:" + hubtest.SHA256(empty), "size": len(empty)},
	})
	if err != nil {
		return err
	}
	at := url + "/v2/" + model
	for _, put := range []struct {
		method, url, kind string
		body              []byte
	}{
		{http.MethodPost, at + "/blobs/uploads/?digest=sha256:" + hubtest.SHA256(body),
			"application/octet-stream", body},
		{http.MethodPost, at + "/blobs/uploads/?digest=sha256:" + hubtest.SHA256(empty),
			"application/octet-stream", empty},
		{http.MethodPut, at + "/manifests/v1", "application/vnd.oci.image.manifest.v1+json", manifest},
	} {
		r, err := http.NewRequestWithContext(ctx, put.method, put.url, bytes.NewReader(put.body))
		if err != nil {
			return err
		}
		r.Header.Set("Content-Type", put.kind)
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		res.Body.Close()
		if res.StatusCode >= http.StatusMultipleChoices {
			return fmt.Errorf("the registry of the benchmark answers %s", res.Status)
		}
	}
	return nil
}

// serveCounted runs a server on a host. At /-/read it reports the bytes that it has sent in
// response to GETs. It prints its URL when it is ready.
func serveCounted(ctx context.Context, host string, h http.Handler, prepare func(url string) error) error {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return err
	}
	sent := atomic.Int64{}
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/-/read" {
				fmt.Fprintln(w, sent.Load())
				return
			}
			if r.Method == http.MethodGet {
				w = counting{w, &sent}
			}
			h.ServeHTTP(w, r)
		})}
	defer server.Close()
	go func() { _ = server.Serve(l) }()
	url := "http://" + l.Addr().String()
	if prepare != nil {
		if err := prepare(url); err != nil {
			return err
		}
	}
	fmt.Println(url)
	<-ctx.Done()
	return nil
}

// counting counts the bytes of response bodies.
type counting struct {
	http.ResponseWriter
	sent *atomic.Int64
}

func (c counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.sent.Add(int64(n))
	return n, err
}
