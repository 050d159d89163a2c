package cache

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"aliquot.example/cache/config"
	"aliquot.example/internal/cacheapi"
)

// twoServers are two servers of S3 with one bucket and other keys each, and a node that reads
// both: "tuned" of one, and all other buckets of the other.
func twoServers(t *testing.T) (others, tuned *bucketServer, conf *config.Config) {
	t.Helper()
	others, tuned = startBuckets(t), startBucket(t, "tuned", "AKIDOFTUNED", "another-secret")
	others.put(t, "llama/7b/model.safetensors", big)
	tuned.put(t, "llama/7b/model.safetensors", []byte("fine-tuned"))
	dir := t.TempDir()
	for _, b := range []struct{ file, id, secret string }{{"others", accessKey, secretKey}, {"tuned", "AKIDOFTUNED", "another-secret"}} {
		writeFile(t, filepath.Join(dir, b.file), fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", b.id, b.secret))
	}
	text := fmt.Sprintf(`
keep_free = "0"
hf_listen = "127.0.0.1:0"
s3_listen = "127.0.0.1:0"
admin     = ""
dir       = %q
socket    = %q
s3 {
  endpoint         = %q
  path_style       = true
  credentials_file = %q
  namespaces       = ["ml", "web"]
}
s3 "tuned" {
  endpoint         = %q
  path_style       = true
  credentials_file = %q
  buckets          = ["tuned"]
  namespaces       = ["ml"]
}
`, filepath.Join(dir, "store"), filepath.Join(dir, "s"), others.URL, filepath.Join(dir, "others"), tuned.URL, filepath.Join(dir, "tuned"))
	conf, err := config.Parse([]byte(text), "test.hcl")
	if err != nil {
		t.Fatal(err)
	}
	return others, tuned, conf
}

// Each bucket is read from its server, with its keys, by the tasks of its namespaces.
func TestEachBucketHasItsServer(t *testing.T) {
	others, tuned, conf := twoServers(t)
	n := begin(t, conf)
	// Without the right to a bucket, nothing of it is given, before it is here and after.
	for range 2 {
		if _, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: "s3://tuned/llama/7b", Namespace: "web"}); status(err) != http.StatusForbidden {
			t.Errorf("another namespace: %v", err)
		}
		wantFile(t, filepath.Join(n.fromS3(t, s3Model).Path, "files", "model.safetensors"), big)
		wantFile(t, filepath.Join(n.fromS3(t, "s3://tuned/llama/7b").Path, "files", "model.safetensors"), []byte("fine-tuned"))
	}
	if a, b := others.bytes(), tuned.bytes(); a != int64(len(big)) || b != int64(len("fine-tuned")) {
		t.Errorf("%d and %d bytes were read", a, b)
	}
	for server, bucket := range map[*bucketServer]string{others: "/tuned", tuned: "/models"} {
		server.set(func() {
			for _, r := range server.requests {
				if strings.Contains(r, bucket) {
					t.Errorf("the server of other buckets was asked: %s", r)
				}
			}
		})
	}
	// A task's own keys are for the server that they name, and for no other's buckets.
	keys := cacheapi.S3Keys{Endpoint: tuned.URL, ID: "AKIDOFTUNED", Secret: "another-secret"}.Token()
	if _, err := n.fetched(t.Context(), cacheapi.Fetch{Model: "s3://tuned/llama/7b", Namespace: "web", Token: keys}); err != nil {
		t.Errorf("with keys of its server: %v", err)
	}
	if _, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: s3Model, Namespace: "none", Token: keys}); status(err) != http.StatusForbidden {
		t.Errorf("with keys of another server: %v", err)
	}
	hidden(t, n, secretKey)
	hidden(t, n, "another-secret")
}

// The endpoint of S3 shows the buckets of all servers to the bearers of keys.
func TestTheEndpointShowsTheBucketsOfAllServers(t *testing.T) {
	_, tuned, conf := twoServers(t)
	for _, s := range conf.S3 {
		s.Namespaces = config.Namespaces{"*"}
	}
	n := begin(t, conf)
	for path, want := range map[string]string{
		"/tuned/llama/7b/model.safetensors":    "fine-tuned",
		"/models/llama/7b/model.safetensors":   string(big),
		"/tuned?list-type=2&prefix=llama%2F":   "<Key>llama/7b/model.safetensors</Key>",
		"/models?list-type=2&prefix=llama%2F":  "<Key>llama/7b/model.safetensors</Key>",
		"/tuned/?location":                     "<LocationConstraint",
		"/tuned?list-type=2&prefix=no%2Fwhere": "<KeyCount>0</KeyCount>",
	} {
		if res, body := get(t, "GET", n.s3URL+path); res.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s, %.200s", path, res.Status, body)
		}
	}
	for path, want := range map[string]int{"/tuned": 200, "/models": 200, "/none": 404} {
		if res, _ := get(t, "HEAD", n.s3URL+path); res.StatusCode != want {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
	// One server is away, and the other's buckets are not.
	tuned.set(func() { tuned.down = true })
	if res, _ := get(t, "GET", n.s3URL+"/tuned?list-type=2&prefix=new"); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("while its server is away: %s", res.Status)
	}
	if res, _ := get(t, "GET", n.s3URL+"/models?list-type=2&prefix=new"); res.StatusCode != http.StatusOK {
		t.Errorf("while another server is away: %s", res.Status)
	}
}

// Without a block for all other buckets, those in no list do not exist.
func TestABucketInNoList(t *testing.T) {
	_, _, conf := twoServers(t)
	conf.S3 = conf.S3[1:]
	n := begin(t, conf)
	_, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: s3Model, Namespace: "ml"})
	if status(err) != http.StatusNotFound || !strings.Contains(err.Error(), `no s3 block of the cache's configuration serves bucket "models"`) {
		t.Errorf("a model: %v", err)
	}
	for _, method := range []string{"GET", "HEAD"} {
		if res, _ := get(t, method, n.s3URL+"/models/llama/7b/model.safetensors"); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s at the endpoint: %s", method, res.Status)
		}
	}
	if res, _ := get(t, "GET", n.s3URL+"/models?list-type=2"); res.StatusCode != http.StatusNotFound {
		t.Errorf("a list at the endpoint: %s", res.Status)
	}
}
