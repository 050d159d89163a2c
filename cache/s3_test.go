package cache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"aliquot.example/cache/certtest"
	"aliquot.example/cache/config"
	"aliquot.example/cache/s3"
	"aliquot.example/internal/blob"
	"aliquot.example/internal/cacheapi"
)

// s3Settings are those of a node that reads the bucket server with its keys, for one
// namespace of Nomad.
func s3Settings(t *testing.T, b *bucketServer) *config.Config {
	t.Helper()
	conf := settings(t, "http://127.0.0.1:1")
	path := filepath.Join(t.TempDir(), "credentials")
	writeFile(t, path, fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", accessKey, secretKey))
	conf.S3 = []*config.S3{{Endpoint: b.URL, Region: "us-east-1", PathStyle: true, CredentialsFile: path, ETagIsMD5: true, Namespaces: config.Namespaces{"ml"}}}
	conf.S3API.Listen = "127.0.0.1:0"
	return conf
}

const s3Model = "s3://models/llama/7b"

// fromS3 asks as a task of the namespace that may.
func (n *node) fromS3(t *testing.T, name string) cacheapi.Model {
	t.Helper()
	m, err := n.fetched(t.Context(), cacheapi.Fetch{Model: name, Namespace: "ml"})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func wantFile(t *testing.T, path string, want []byte) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s has %d bytes, %v; want %d", path, len(got), err, len(want))
	}
}

// A folder of S3 is a model, and so is one object. They are read once, with the keys of the
// file, which are in no log and no file of the cache.
func TestModelsOfS3(t *testing.T) {
	b := startBuckets(t)
	b.put(t, "llama/7b/model.safetensors", big)
	b.put(t, "llama/7b/tokenizer/vocab é+&.txt", []byte("words"))
	b.put(t, "llama/7b/", nil) // as a console makes folders
	b.put(t, "llama/7b-other/config.json", []byte("{}"))
	conf := s3Settings(t, b)
	n := begin(t, conf)
	m := n.fromS3(t, s3Model)
	wantFile(t, filepath.Join(m.Path, "files", "model.safetensors"), big)
	wantFile(t, filepath.Join(m.Path, "files", "tokenizer", "vocab é+&.txt"), []byte("words"))
	if files, err := os.ReadDir(filepath.Join(m.Path, "files")); err != nil || len(files) != 2 {
		t.Errorf("%v, %v", files, err)
	}
	if read, want := b.bytes(), int64(len(big)+5); read != want {
		t.Errorf("%d bytes were read of %d", read, want)
	}
	one := n.fromS3(t, s3Model+"/model.safetensors")
	wantFile(t, filepath.Join(one.Path, "files", "model.safetensors"), big)
	if read, want := b.bytes(), int64(len(big)+5); read != want {
		t.Errorf("%d bytes were read for one file of what is here", read-want)
	}
	for _, name := range []string{"s3://models/none", "s3://nothing/llama", "s3://models/llama/7b/model"} {
		if _, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: name, Namespace: "ml"}); status(err) != http.StatusNotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
	hidden(t, n, secretKey)
}

// hidden fails where a secret is in a log or a file of the cache.
func hidden(t *testing.T, n *node, secret string) {
	t.Helper()
	if strings.Contains(n.log.String(), secret) {
		t.Error("the secret is in the log")
	}
	err := filepath.WalkDir(n.conf.Dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if bytes.Contains(text, []byte(secret)) {
			t.Errorf("the secret is in %s", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Tasks of another namespace may not use the node's keys, neither for what is here already.
func TestKeysOfS3AreOfNamespaces(t *testing.T) {
	b := startBuckets(t)
	b.put(t, "llama/7b/model.safetensors", big)
	n := begin(t, s3Settings(t, b))
	refused := func() {
		t.Helper()
		for _, namespace := range []string{"", "web", "*"} {
			if _, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: s3Model, Namespace: namespace}); status(err) != http.StatusForbidden {
				t.Errorf("namespace %q: %v", namespace, err)
			}
		}
		if res, body := get(t, "GET", n.s3URL+"/models/llama/7b/model.safetensors"); res.StatusCode != http.StatusForbidden {
			t.Errorf("the endpoint: %s, %d bytes", res.Status, len(body))
		}
		if res, _ := get(t, "GET", n.s3URL+"/models?list-type=2"); res.StatusCode != http.StatusForbidden {
			t.Errorf("the list of the endpoint: %s", res.Status)
		}
	}
	refused()
	n.fromS3(t, s3Model)
	refused()
	b.set(func() { b.down = true })
	if res, body := get(t, "GET", n.s3URL+"/models/llama/7b/model.safetensors"); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("while S3 is away: %s, %d bytes", res.Status, len(body))
	}
}

// A task's own keys open what they may read, for that task alone. Keys of another server are
// none.
func TestKeysOfATaskAreItsOwn(t *testing.T) {
	b := startBuckets(t)
	b.put(t, "llama/7b/model.safetensors", big)
	conf := s3Settings(t, b)
	conf.S3[0].Namespaces = config.Namespaces{"other"}
	n := begin(t, conf)
	own := cacheapi.S3Keys{Endpoint: b.URL, ID: accessKey, Secret: secretKey}
	wrong, elsewhere, amazons := own, own, own
	wrong.Secret, elsewhere.Endpoint, amazons.Endpoint = "another", "http://127.0.0.1:1", ""
	for range 2 { // before the node has it, and then
		for what, token := range map[string]string{"no keys": "", "wrong keys": wrong.Token(), "keys of another server": elsewhere.Token(),
			"keys of Amazon's": amazons.Token(), "a token of the Hub": "hf_x"} {
			if _, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: s3Model, Namespace: "web", Token: token}); status(err) != http.StatusForbidden {
				t.Errorf("%s: %v", what, err)
			}
		}
		m, err := n.fetched(t.Context(), cacheapi.Fetch{Model: s3Model, Namespace: "web", Token: own.Token()})
		if err != nil {
			t.Fatal(err)
		}
		wantFile(t, filepath.Join(m.Path, "files", "model.safetensors"), big)
	}
	if res, _ := get(t, "GET", n.s3URL+"/models/llama/7b/model.safetensors"); res.StatusCode != http.StatusForbidden {
		t.Errorf("the endpoint: %s", res.Status)
	}
	// Keys of another server do not stand in the way of the node's.
	if _, err := n.fetched(t.Context(), cacheapi.Fetch{Model: s3Model, Namespace: "other", Token: elsewhere.Token()}); err != nil {
		t.Error(err)
	}
	inFiles(t, conf.Dir, secretKey, own.Token())
	if strings.Contains(n.log.String(), secretKey) || strings.Contains(n.log.String(), own.Token()) {
		t.Error("the log holds the keys")
	}
}

// A task whose keys lapse while its model comes takes no other one's start with it.
func TestKeysThatLapseAreNobodyElsesFault(t *testing.T) {
	b := startBuckets(t)
	b.put(t, "llama/7b/model.safetensors", big)
	path := filepath.Join(t.TempDir(), "keys")
	writeFile(t, path, accessKey+" "+secretKey+" all\nlapsing "+secretKey+" all\n")
	var err error
	if b.keys, err = s3.ReadKeys(path); err != nil {
		t.Fatal(err)
	}
	lapse, fake := make(chan struct{}), b.fake
	b.fake = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && r.Header.Get("Range") != "" && strings.Contains(r.Header.Get("Authorization"), "lapsing/") {
			<-lapse
			w.WriteHeader(http.StatusForbidden)
			return
		}
		fake.ServeHTTP(w, r)
	})
	n := begin(t, s3Settings(t, b))
	keys := cacheapi.S3Keys{Endpoint: b.URL, ID: "lapsing", Secret: secretKey}
	ask := cacheapi.Fetch{Model: s3Model, Token: keys.Token()}
	if m, err := n.api.Fetch(t.Context(), ask); err != nil || m.State != cacheapi.Fetching {
		t.Fatalf("%+v, %v", m, err)
	}
	keys.ID = accessKey
	ask.Token = keys.Token()
	if m, err := n.api.Fetch(t.Context(), ask); err != nil || m.State != cacheapi.Fetching {
		t.Fatalf("%+v, %v", m, err)
	}
	time.AfterFunc(200*time.Millisecond, func() { close(lapse) }) // while the next question waits
	m, err := n.fetched(t.Context(), ask)
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, filepath.Join(m.Path, "files", "model.safetensors"), big)
}

// inFiles fails where a file holds one of some secrets.
func inFiles(t *testing.T, dir string, secrets ...string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		for _, s := range secrets {
			if bytes.Contains(text, []byte(s)) {
				t.Errorf("%s holds a secret", path)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// A public bucket is read without a signature: by a cache without keys, and for tasks that
// may not use those of one that has some.
func TestPublicBuckets(t *testing.T) {
	b := startBuckets(t)
	b.put(t, "llama/7b/config.json", []byte("{}"))
	b.set(func() { b.public = true })
	keyless := settings(t, "http://127.0.0.1:1")
	keyless.S3 = []*config.S3{{Endpoint: b.URL, Region: "us-east-1", PathStyle: true, Anonymous: true, ETagIsMD5: true}}
	keyless.S3API.Listen = "127.0.0.1:0"
	for what, conf := range map[string]*config.Config{"without keys": keyless, "with keys of others": s3Settings(t, b)} {
		n := begin(t, conf)
		m, err := n.fetched(t.Context(), cacheapi.Fetch{Model: s3Model, Namespace: "web"})
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		wantFile(t, filepath.Join(m.Path, "files", "config.json"), []byte("{}"))
		if res, body := get(t, "GET", n.s3URL+"/models/llama/7b/config.json"); res.StatusCode != http.StatusOK || string(body) != "{}" {
			t.Errorf("%s: the endpoint: %s %s", what, res.Status, body)
		}
	}
}

// Every kind of checksum that S3 states is checked, and wrong bytes are never shown.
func TestObjectsOfS3AreVerified(t *testing.T) {
	t.Parallel()
	sum := sha256.Sum256(big)
	for name, prepare := range map[string]func(b *bucketServer){
		"whole": func(*bucketServer) {},
		"parts": func(b *bucketServer) { b.inParts("m.bin", big, 5<<20) },
		"sha256": func(b *bucketServer) {
			b.sums["m.bin"], b.cipher = base64.StdEncoding.EncodeToString(sum[:]), "aws:kms"
		},
		"encrypted": func(b *bucketServer) { b.cipher = "aws:kms" },
	} {
		t.Run(name, func(t *testing.T) {
			b := startBuckets(t)
			b.put(t, "m.bin", big)
			prepare(b)
			b.set(func() { b.corrupt = true })
			n := begin(t, s3Settings(t, b))
			ask := cacheapi.Fetch{Model: "s3://models/m.bin", Namespace: "ml", Wait: 60}
			m, err := n.api.Fetch(t.Context(), ask)
			if err != nil {
				t.Fatal(err)
			}
			if name == "encrypted" { // its ETag is no checksum
				if m.State != cacheapi.Whole {
					t.Errorf("%+v", m)
				}
				return
			}
			if m.State != cacheapi.Failed || !strings.Contains(m.Error, "do not match the object's digest") || m.Path != "" {
				t.Errorf("%+v", m)
			}
			b.set(func() { b.corrupt = false })
			m = n.fromS3(t, ask.Model)
			wantFile(t, filepath.Join(m.Path, "files", "m.bin"), big)
		})
	}
}

// An object that is replaced during a fetch ends it: two states never mix.
func TestAnObjectOfS3IsReplaced(t *testing.T) {
	b := startBuckets(t)
	b.put(t, "m.bin", big)
	conf := s3Settings(t, b)
	n := begin(t, conf)
	ref := blob.Ref{Scheme: "s3", Name: "models/m.bin", Revision: "main"}
	l, err := n.library.List(t.Context(), ref, "")
	if err != nil {
		t.Fatal(err)
	}
	other := bytes.Clone(big)
	other[5] ^= 1
	b.put(t, "m.bin", other)
	f := l.Files[0]
	if _, err := n.s3.Open(t.Context(), f.Source, "", f.Object, 0, 10); err == nil || !strings.Contains(err.Error(), "changed at the origin") {
		t.Errorf("the old state is read from the new: %v", err)
	}
	conf = s3Settings(t, b)
	m := begin(t, conf).fromS3(t, "s3://models/m.bin")
	wantFile(t, filepath.Join(m.Path, "files", "m.bin"), other)
}

// What breaks off is asked for again, from where it broke off.
func TestS3BreaksOff(t *testing.T) {
	b := startBuckets(t)
	b.put(t, "m.bin", big)
	b.set(func() { b.cuts = 3 })
	m := begin(t, s3Settings(t, b)).fromS3(t, "s3://models/m.bin")
	wantFile(t, filepath.Join(m.Path, "files", "m.bin"), big)
}

// While S3 is away the last state is used, by a cache that was started since too: who may
// read the configuration says.
func TestS3GoesAway(t *testing.T) {
	b := startBuckets(t)
	b.put(t, "llama/7b/model.safetensors", big)
	conf := s3Settings(t, b)
	conf.S3[0].Namespaces = config.Namespaces{"*"}
	n := begin(t, conf)
	n.fromS3(t, s3Model)
	if res, body := get(t, "GET", n.s3URL+"/models/llama/7b/model.safetensors"); res.StatusCode != http.StatusOK || !bytes.Equal(body, big) {
		t.Errorf("%s, %d bytes", res.Status, len(body))
	}
	lists := n.s3URL + "/models?list-type=2&prefix=llama%2F"
	_, list := get(t, "GET", lists)
	b.set(func() { b.down = true })
	n.Close()
	n = begin(t, conf)
	n.library.Fresh = time.Nanosecond
	lists = n.s3URL + "/models?list-type=2&prefix=llama%2F"
	if res, again := get(t, "GET", lists); res.StatusCode != http.StatusOK || !bytes.Equal(again, list) || !bytes.Contains(list, []byte("model.safetensors")) {
		t.Errorf("a list: %s, %.300s", res.Status, again)
	}
	if res, _ := get(t, "GET", lists+"other"); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a list that is not known: %s", res.Status)
	}
	if m := n.fromS3(t, s3Model); m.State != cacheapi.Whole || !m.Stale {
		t.Errorf("%+v", m)
	}
	if res, body := get(t, "GET", n.s3URL+"/models/llama/7b/model.safetensors"); res.StatusCode != http.StatusOK || !bytes.Equal(body, big) {
		t.Errorf("%s, %d bytes", res.Status, len(body))
	}
	if res, _ := get(t, "HEAD", n.s3URL+"/models/none"); res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
		t.Errorf("what is not known: %s", res.Status)
	}
}

// New keys in the file count without a restart.
func TestKeysOfS3Change(t *testing.T) {
	b := startBuckets(t)
	b.put(t, "a.bin", []byte("a"))
	conf := s3Settings(t, b)
	writeFile(t, conf.S3[0].CredentialsFile, "[default]\naws_access_key_id = old\naws_secret_access_key = old\n")
	n := begin(t, conf)
	ask := cacheapi.Fetch{Model: "s3://models/a.bin", Namespace: "ml"}
	if _, err := n.api.Fetch(t.Context(), ask); status(err) != http.StatusForbidden {
		t.Fatalf("with the old keys: %v", err)
	}
	writeFile(t, conf.S3[0].CredentialsFile, fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", accessKey, secretKey))
	later := time.Now().Add(time.Minute)
	if err := os.Chtimes(conf.S3[0].CredentialsFile, later, later); err != nil {
		t.Fatal(err)
	}
	n.fromS3(t, ask.Model)
	if err := os.Remove(conf.S3[0].CredentialsFile); err != nil {
		t.Fatal(err)
	}
	without := begin(t, conf2(t, conf))
	_, err := without.api.Fetch(t.Context(), ask)
	var answer *cacheapi.Error
	if !errors.As(err, &answer) || !strings.Contains(answer.Message, "s3.credentials_file") || strings.Contains(answer.Message, "\n") {
		t.Errorf("without the file: %v", err)
	}
}

// conf2 are the same settings for another node.
func conf2(t *testing.T, conf *config.Config) *config.Config {
	t.Helper()
	other := *conf
	fresh := settings(t, conf.Hub.Endpoint)
	other.Dir, other.Socket = fresh.Dir, fresh.Socket
	return &other
}

// Several nodes read S3 once.
func TestS3IsReadOnce(t *testing.T) {
	b := startBuckets(t)
	b.put(t, "m.bin", big)
	ca := certtest.New(t)
	var known []string
	for range 4 {
		known = append(known, free(t))
	}
	var all []*node
	for i := range known {
		conf := s3Settings(t, b)
		conf.Peer = &config.Peer{Listen: known[i], Advertise: known[i], Known: known, CA: ca.File, Name: "aliquot-cache"}
		conf.Peer.Cert, conf.Peer.Key = ca.Issue(t, "aliquot-cache")
		all = append(all, begin(t, conf))
	}
	var done sync.WaitGroup
	for _, n := range all {
		done.Go(func() {
			m, err := n.fetched(context.Background(), cacheapi.Fetch{Model: "s3://models/m.bin", Namespace: "ml"})
			if err != nil {
				t.Error(err)
				return
			}
			wantFile(t, filepath.Join(m.Path, "files", "m.bin"), big)
		})
	}
	done.Wait()
	if read := b.bytes(); read != int64(len(big)) {
		t.Errorf("%d bytes were read of a file of %d", read, len(big))
	}
}

// Askers choose what lists they ask for, so few are kept.
func TestListsThatAreKeptAreFew(t *testing.T) {
	t.Parallel()
	n := begin(t, settings(t, "http://127.0.0.1:1"))
	for i := range 520 {
		if err := n.library.Remember(fmt.Sprint(i), i); err != nil {
			t.Fatal(err)
		}
	}
	kept, last := 0, -1
	for i := range 520 {
		if n.library.Recall(fmt.Sprint(i), &last) {
			kept++
		}
	}
	if kept != 500 || last != 519 {
		t.Errorf("%d are kept, the last one is %d", kept, last)
	}
}
