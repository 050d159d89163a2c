package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"aliquot.example/cache/hubtest"
)

// The requests of Python's huggingface_hub 1.29 and 0.36, vLLM and npm's client, as
// recorded, get answers that they can go on with.
func TestRecordedRequests(t *testing.T) {
	hub := startHub(t)
	sha := qwen(hub)
	n := begin(t, settings(t, hub.URL))
	for _, c := range []struct {
		method, path string
		status       int
		code         string // X-Error-Code
		body         string // part of it
	}{
		{"GET", "/api/models/Qwen/Qwen3/revision/main", 200, "", `"sha":"` + sha},
		{"GET", "/api/models/Qwen/Qwen3/revision/main?expand=sha&expand=siblings", 200, "", `"rfilename":"config.json"`},
		{"GET", "/api/models/Qwen/Qwen3", 200, "", `"sha":"` + sha},
		{"GET", "/api/models/Qwen/Qwen3/tree/" + sha + "?recursive=true&expand=false", 200, "", `"path":"tokenizer/vocab é.txt"`},
		{"GET", "/api/models/Qwen/Qwen3/tree/main?recursive=False&expand=False", 200, "", `"path":"tokenizer"`},
		{"GET", "/api/models/Qwen/Qwen3/tree/" + sha + "/tokenizer", 200, "", `"path":"tokenizer/empty"`},
		{"GET", "/api/models/Qwen/Qwen3/tree/" + sha + "/additional_chat_templates?recursive=false", 404, "EntryNotFound", ""},
		{"GET", "/api/agent-harnesses", 404, "", ""},
		{"GET", "/api/models/Qwen/Qwen3/xet-read-token/" + sha, 404, "", ""},
		{"HEAD", "/Qwen/Qwen3/resolve/" + sha + "/tokenizer/vocab%20%C3%A9.txt", 200, "", ""},
		{"HEAD", "/Qwen/Qwen3/resolve/main/chat_template.json", 404, "EntryNotFound", ""},
		{"GET", "/Qwen/Qwen3/resolve/main/chat_template.json", 404, "EntryNotFound", ""},
		{"GET", "/api/models/Qwen/Qwen3/revision/none", 404, "RevisionNotFound", ""},
		{"GET", "/api/models/Qwen/Qwen3/revision/refs%2Fpr%2F1", 404, "RevisionNotFound", ""},
		{"GET", "/api/models/Qwen/None/revision/main", 404, "RepoNotFound", ""},
		{"GET", "/api/datasets/Qwen/None/revision/main", 404, "", ""},
		{"GET", "/gpt2/resolve/main/config.json", 404, "", ""},
		{"PUT", "/Qwen/Qwen3/resolve/main/config.json", 405, "", ""},
		{"GET", "/", 404, "", ""},
	} {
		res, body := get(t, c.method, n.hfURL+c.path)
		if res.StatusCode != c.status || c.code != "" && res.Header.Get("X-Error-Code") != c.code || !strings.Contains(string(body), c.body) {
			t.Errorf("%s %s: %s %v %.300s", c.method, c.path, res.Status, res.Header, body)
		}
		leaks(t, c.path, res, body)
	}
}

// leaks fails where an answer could send a client to the Hub's other store.
func leaks(t *testing.T, what string, res *http.Response, body []byte) {
	t.Helper()
	if strings.Contains(strings.ToLower(string(body)), "xethash") || res.Header.Get("X-Xet-Hash") != "" || strings.Contains(res.Header.Get("Link"), "xet") || res.Header.Get("Location") != "" {
		t.Errorf("%s: the answer leads to Xet or elsewhere: %v %.300s", what, res.Header, body)
	}
}

// HEAD has what a client needs, and GET the file: with ranges, and without a redirect.
func TestFiles(t *testing.T) {
	hub := startHub(t)
	sha := qwen(hub)
	n := begin(t, settings(t, hub.URL))
	at := n.hfURL + "/Qwen/Qwen3/resolve/" + sha + "/model.safetensors"
	digest := hubtest.SHA256(big)
	size := strconv.Itoa(len(big))
	for _, warm := range []bool{false, true} {
		res, _ := get(t, "HEAD", at, "Accept-Encoding", "identity")
		h := res.Header
		if res.StatusCode != 200 || h.Get("X-Repo-Commit") != sha || h.Get("ETag") != `"`+digest+`"` || h.Get("X-Linked-Etag") != `"`+digest+`"` || h.Get("X-Linked-Size") != size || h.Get("Content-Length") != size {
			t.Errorf("HEAD: %s %v", res.Status, h)
		}
		leaks(t, "HEAD", res, nil)
		for _, r := range []struct {
			header   string
			from, to int
			status   int
		}{
			{"bytes=0-0", 0, 1, 206}, {"bytes=10-19", 10, 20, 206}, {"bytes=8388600-8388620", 8388600, 8388621, 206}, {"bytes=-5", len(big) - 5, len(big), 206},
			{"bytes=" + strconv.Itoa(len(big)-3) + "-", len(big) - 3, len(big), 206}, {"bytes=" + size + "-", 0, 0, 416}, {"bytes=0-99999999999", 0, len(big), 206}, {"", 0, len(big), 200},
		} {
			res, body := get(t, "GET", at, "Range", r.header)
			if res.StatusCode != r.status || r.status != 416 && !bytes.Equal(body, big[r.from:r.to]) {
				t.Errorf("warm %v, %q: %s, %d bytes", warm, r.header, res.Status, len(body))
			}
			if want := "bytes " + strconv.Itoa(r.from) + "-" + strconv.Itoa(r.to-1) + "/" + size; r.status == 206 && (res.Header.Get("Content-Range") != want || res.Header.Get("ETag") != `"`+digest+`"`) {
				t.Errorf("warm %v, %q: %v", warm, r.header, res.Header)
			}
		}
		if !warm {
			n.want(t)
		}
	}
}

// Headers and the first bytes come while the rest is still on its way.
func TestBytesStreamWhileTheyAreFetched(t *testing.T) {
	hub := startHub(t)
	sha := qwen(hub)
	n := begin(t, settings(t, hub.URL))
	get(t, "GET", n.hfURL+"/api/models/Qwen/Qwen3/revision/main")
	stall := make(chan struct{})
	hub.Set(func(h *hubtest.Hub) { h.Stall = stall })
	r, _ := http.NewRequestWithContext(t.Context(), "GET", n.hfURL+"/Qwen/Qwen3/resolve/"+sha+"/model.safetensors", nil)
	res, err := http.DefaultClient.Do(r) // returns with the headers, while the origin sends nothing
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.ContentLength != int64(len(big)) {
		t.Errorf("%v", res.Header)
	}
	hub.Set(func(h *hubtest.Hub) { h.Stall = nil })
	close(stall)
	var got bytes.Buffer
	if _, err := got.ReadFrom(res.Body); err != nil || !bytes.Equal(got.Bytes(), big) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
}

// A range reads its chunks and no more.
func TestARangeReadsNoMore(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	n := begin(t, settings(t, hub.URL))
	get(t, "GET", n.hfURL+"/Qwen/Qwen3/resolve/main/model.safetensors", "Range", "bytes=0-7")
	// All chunks that a reader wants are begun at once.
	if !hub.Await(30*time.Second, func(h *hubtest.Hub) bool { return h.Sent() >= 8<<20 && h.Sending == 0 }) {
		t.Fatal("the chunk was not read to its end")
	}
	if read := hub.Read(); read > 8<<20 {
		t.Errorf("%d bytes were read for 8", read)
	}
}

// An origin that stops in a file that passes through ends the answer, and clients ask again.
func TestAnOriginStopsInWhatPassesThrough(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	stall := make(chan struct{})
	t.Cleanup(func() { close(stall) })
	hub.Set(func(h *hubtest.Hub) { h.Stall = stall })
	conf := settings(t, hub.URL)
	conf.Capacity, conf.OriginStall = 1<<20, 200*time.Millisecond
	n := begin(t, conf)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", n.hfURL+"/Qwen/Qwen3/resolve/main/model.safetensors", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.ReadAll(res.Body); err == nil || ctx.Err() != nil {
		t.Errorf("the answer goes on: %v", err)
	}
	n.log.await(t, 0, "no data arrived for too long")
}

// A file that does not fit passes through, and nothing of it stays.
func TestNoRoom(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	conf := settings(t, hub.URL)
	conf.Capacity = 1 << 20
	n := begin(t, conf)
	res, body := get(t, "GET", n.hfURL+"/Qwen/Qwen3/resolve/main/model.safetensors")
	if res.StatusCode != 200 || !bytes.Equal(body, big) {
		t.Errorf("%s, %d bytes", res.Status, len(body))
	}
	m, err := n.fetched(t.Context(), fetchOf(model))
	if err == nil || !strings.Contains(m.Error, "no room in the cache") {
		t.Errorf("%+v, %v", m, err)
	}
}

// npm's client of the Hub reads a whole model and pieces of files.
func TestNpmClient(t *testing.T) {
	t.Parallel()
	modules := npmClient(t)
	hub := startHub(t)
	// It takes an empty file for one without a size, so there is none.
	hub.Push("Qwen/Qwen3", "main", map[string]hubtest.File{
		"config.json": {Body: []byte(`{"a":1}`)}, "model.safetensors": {Body: big, LFS: true}, "tokenizer/vocab é.txt": {Body: []byte("words")},
	})
	n := begin(t, settings(t, hub.URL))
	out, err := exec.CommandContext(t.Context(), "node", "--input-type=module", "-e", `
import { createRequire } from "node:module";
const { snapshotDownload, listFiles, downloadFile } = createRequire("`+modules+`/")("@huggingface/hub");
import { readFileSync } from "node:fs";
import { createHash } from "node:crypto";
const hubUrl = "`+n.hfURL+`", repo = "Qwen/Qwen3";
const names = [];
for await (const f of listFiles({ repo, hubUrl, recursive: true })) names.push(f.path);
const dir = await snapshotDownload({ repo, hubUrl, cacheDir: "`+t.TempDir()+`" });
const sum = createHash("sha256").update(readFileSync(dir + "/model.safetensors")).digest("hex");
const blob = await downloadFile({ repo, hubUrl, path: "model.safetensors" });
const piece = Buffer.from(await blob.slice(8388600, 8388620).arrayBuffer()).toString("hex");
console.log(JSON.stringify({ names, sum, size: blob.size, piece }));
`).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var got struct {
		Names      []string
		Sum, Piece string
		Size       int
	}
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n")) // the last one after its progress
	if err := json.Unmarshal(lines[len(lines)-1], &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got.Sum != hubtest.SHA256(big) || got.Size != len(big) || len(got.Names) != 4 || got.Piece != hexOf(big[8388600:8388620]) {
		t.Errorf("%+v", got)
	}
}
