package cache

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"aliquot.example/cache/config"
	"aliquot.example/cache/hubtest"
)

// s3Node is a node whose endpoint of S3 shows a folder of S3 and a model of the Hub to
// everybody, or to bearers of keys.
func s3Node(t *testing.T, keys string) (*node, *bucketServer) {
	t.Helper()
	b := startBuckets(t)
	b.put(t, "llama/7b/model.safetensors", big)
	b.put(t, "llama/7b/config.json", []byte("{}"))
	b.put(t, "llama/7b/tokenizer/a b+é.txt", []byte("words"))
	b.put(t, "readme", []byte("read me"))
	hub := startHub(t)
	qwen(hub)
	conf := s3Settings(t, b)
	conf.Hub.Endpoint = hub.URL
	conf.S3[0].Namespaces = config.Namespaces{"*"}
	if keys != "" {
		conf.S3[0].Namespaces = config.Namespaces{"ml"}
		conf.S3API.KeysFile = filepath.Join(t.TempDir(), "keys")
		writeFile(t, conf.S3API.KeysFile, keys)
	}
	return begin(t, conf), b
}

// The questions of the AWS C++ SDK (Triton), of boto3, rclone and s3cmd, as recorded.
func TestRecordedRequestsOfS3(t *testing.T) {
	n, _ := s3Node(t, "")
	for _, c := range []struct {
		method, path string
		status       int
		want         []string // in the body
	}{
		{"HEAD", "/models", 200, nil},
		{"HEAD", "/none", 404, nil},
		{"HEAD", "/huggingface", 200, nil},
		{"GET", "/models/?location", 200, []string{"<LocationConstraint"}},
		{"GET", "/models?versioning", 200, []string{"<VersioningConfiguration"}},
		{"GET", "/", 200, []string{"<Name>huggingface</Name>"}},
		{"GET", "/models?list-type=2&prefix=&delimiter=%2F&encoding-type=url", 200, []string{"<CommonPrefixes><Prefix>llama/</Prefix></CommonPrefixes>", "<Key>readme</Key>", "<KeyCount>2</KeyCount>"}},
		{"GET", "/models?list-type=2&prefix=llama%2F7b%2F", 200, []string{"<Key>llama/7b/model.safetensors</Key>", "<Key>llama/7b/tokenizer/a b+é.txt</Key>", "<IsTruncated>false</IsTruncated>"}},
		{"GET", "/models?list-type=2&prefix=llama%2F&encoding-type=url", 200, []string{"<Key>llama/7b/tokenizer/a+b%2B%C3%A9.txt</Key>"}},
		{"GET", "/models?prefix=llama%2F7b%2F&delimiter=%2F&max-keys=1000&encoding-type=url", 200, []string{"<Prefix>llama/7b/tokenizer/</Prefix>", "<Marker></Marker>"}},
		{"GET", "/huggingface?list-type=2&prefix=Qwen%2FQwen3%2Fmain%2F&delimiter=%2F", 200, []string{"<Key>Qwen/Qwen3/main/model.safetensors</Key>", hubtest.SHA256(big) + "-1", "<Prefix>Qwen/Qwen3/main/tokenizer/</Prefix>"}},
		{"GET", "/huggingface?list-type=2&prefix=Qwen%2FQwen3%2Fmain%2Ftok", 200, []string{"<Key>Qwen/Qwen3/main/tokenizer/empty</Key>"}},
		{"GET", "/huggingface?list-type=2&prefix=Qwen", 200, []string{"<KeyCount>0</KeyCount>"}},
		{"GET", "/huggingface?list-type=2&prefix=Qwen%2FNone%2Fmain%2F", 404, []string{"NoSuchKey"}},
		{"HEAD", "/models/llama/7b", 404, nil},
		{"GET", "/models/none", 404, []string{"<Code>NoSuchKey</Code>"}},
		{"GET", "/none?list-type=2", 404, nil},
		{"GET", "/models/readme?acl", 501, []string{"NotImplemented"}},
		{"GET", "/models?policy", 501, []string{"NotImplemented"}},
		{"GET", "/models?list-type=2&delimiter=-", 501, []string{"NotImplemented"}},
		{"GET", "/models?list-type=2&max-keys=x", 400, []string{"InvalidArgument"}},
		{"GET", "/models?list-type=2&continuation-token=*", 400, []string{"InvalidArgument"}},
		{"PUT", "/models/readme", 405, []string{"MethodNotAllowed"}},
		{"DELETE", "/models/readme", 405, []string{"MethodNotAllowed"}},
	} {
		res, body := get(t, c.method, n.s3URL+c.path)
		if res.StatusCode != c.status {
			t.Errorf("%s %s: %s, want %d: %.300s", c.method, c.path, res.Status, c.status, body)
		}
		for _, want := range c.want {
			if !strings.Contains(string(body), want) {
				t.Errorf("%s %s: no %q in %.2000s", c.method, c.path, want, body)
			}
		}
	}
}

// Pages of a list follow each other without a gap and without an overlap, with folders too.
func TestPagesOfAList(t *testing.T) {
	n, b := s3Node(t, "")
	for i := range 7 {
		b.put(t, fmt.Sprintf("many/%d/x", i), []byte("x"))
		b.put(t, fmt.Sprintf("many/%d/y", i), []byte("y"))
	}
	for _, c := range []struct{ bucket, prefix, delimiter string }{
		{"models", "many/", "/"}, {"models", "many/", ""}, {"huggingface", "Qwen/Qwen3/main/", "/"}, {"huggingface", "Qwen/Qwen3/main/", ""},
	} {
		at := n.s3URL + "/" + c.bucket + "?list-type=2&prefix=" + url.QueryEscape(c.prefix) + "&delimiter=" + url.QueryEscape(c.delimiter)
		_, body := get(t, "GET", at)
		want := names(string(body))
		var got []string
		for token, page := "", 0; page == 0 || token != "" && page < 30; page++ {
			_, body := get(t, "GET", at+"&max-keys=2&continuation-token="+url.QueryEscape(token))
			found := names(string(body))
			if len(found) > 2 {
				t.Errorf("%+v: a page has %v", c, found)
			}
			got = append(got, found...)
			token = between(string(body), "<NextContinuationToken>", "</NextContinuationToken>")
		}
		slices.Sort(got)
		slices.Sort(want)
		if strings.Join(got, " ") != strings.Join(want, " ") || len(want) < 3 {
			t.Errorf("%+v: pages have %v, all are %v", c, got, want)
		}
	}
}

// A page that is full leaves nothing behind that goes on to list.
func TestNothingListsAfterAPage(t *testing.T) {
	n, b := s3Node(t, "")
	for i := range 20 {
		b.put(t, fmt.Sprintf("many/%d", i), []byte("x"))
	}
	for range 10 {
		get(t, "GET", n.s3URL+"/models?list-type=2&prefix=many%2F&max-keys=2")
	}
	var stacks bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&stacks, 1); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(stacks.String(), "ListObjects") {
		t.Error("a goroutine still lists")
	}
}

// names are the keys and folders of a list.
func names(body string) (found []string) {
	for _, tag := range []string{"Key", "CommonPrefixes><Prefix"} {
		for rest := body; ; {
			_, after, ok := strings.Cut(rest, "<"+tag+">")
			if !ok {
				break
			}
			name, _, _ := strings.Cut(after, "</")
			found, rest = append(found, name), after
		}
	}
	return found
}

func between(text, open, end string) string {
	_, after, _ := strings.Cut(text, open)
	found, _, ok := strings.Cut(after, end)
	if !ok {
		return ""
	}
	return found
}

// Ranges, conditions and both styles of naming a bucket.
func TestObjectsOfTheS3Endpoint(t *testing.T) {
	n, _ := s3Node(t, "")
	size := strconv.Itoa(len(big))
	for name, at := range map[string]string{"S3": "/models/llama/7b/model.safetensors", "the Hub": "/huggingface/Qwen/Qwen3/main/model.safetensors"} {
		head, _ := get(t, "HEAD", n.s3URL+at)
		etag := head.Header.Get("ETag")
		if head.StatusCode != 200 || head.Header.Get("Content-Length") != size || etag == "" || head.Header.Get("Last-Modified") == "" {
			t.Errorf("%s: HEAD: %s %v", name, head.Status, head.Header)
		}
		for _, c := range []struct {
			header, value string
			status        int
			want          []byte
		}{
			{"Range", "bytes=0-0", 206, big[:1]}, {"Range", "bytes=8388600-8388620", 206, big[8388600:8388621]},
			{"Range", "bytes=16777216-", 206, big[16777216:]}, {"Range", "bytes=-5", 206, big[len(big)-5:]},
			{"Range", "bytes=" + size + "-", 416, nil}, {"If-None-Match", etag, 304, nil}, {"If-Match", `"other"`, 412, nil}, {"If-Match", etag, 200, big},
		} {
			res, body := get(t, "GET", n.s3URL+at, c.header, c.value)
			if res.StatusCode != c.status || c.want != nil && (!bytes.Equal(body, c.want) || res.Header.Get("ETag") != etag) {
				t.Errorf("%s: %s %s: %s, %d bytes", name, c.header, c.value, res.Status, len(body))
			}
		}
		bucket, key, _ := strings.Cut(strings.TrimPrefix(at, "/"), "/")
		r, _ := http.NewRequestWithContext(t.Context(), "GET", n.s3URL+"/"+key, nil)
		r.Host = bucket + ".localhost:9"
		r.Header.Set("Range", "bytes=0-9")
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusPartialContent {
			t.Errorf("%s: the bucket as a host: %s", name, res.Status)
		}
	}
}

// The key of a folder is an object of its own or none, and never what lies in the folder.
func TestAFolderIsNoObject(t *testing.T) {
	n, b := s3Node(t, "")
	b.put(t, "made/", []byte("made by a console"))
	b.put(t, "made/model.bin", big)
	for range 2 { // a second time from what is known
		for _, at := range []string{"/models/llama/7b/", "/models/llama/", "/models/none/", "/models//", "/models/llama/7b/tokenizer/"} {
			for _, method := range []string{"HEAD", "GET"} {
				if res, body := get(t, method, n.s3URL+at); res.StatusCode != http.StatusNotFound {
					t.Errorf("%s %s: %s, %d bytes", method, at, res.Status, len(body))
				}
			}
		}
		if res, body := get(t, "GET", n.s3URL+"/models/made/"); res.StatusCode != http.StatusOK || string(body) != "made by a console" {
			t.Errorf("an object whose key ends with a slash: %s, %d bytes", res.Status, len(body))
		}
	}
}

// An object of S3 has one file of what is known of it, however often it changes, and a name
// that is no object has none.
func TestOneRecordForAnObject(t *testing.T) {
	n, b := s3Node(t, "")
	n.library.Fresh = time.Nanosecond
	for i := range 3 {
		b.put(t, "readme", fmt.Append(nil, "state ", i))
		if _, body := get(t, "GET", n.s3URL+"/models/readme"); string(body) != fmt.Sprint("state ", i) {
			t.Errorf("it is %q", body)
		}
		get(t, "GET", n.s3URL+"/models/none"+fmt.Sprint(i))
		get(t, "GET", n.hfURL+"/o/none"+fmt.Sprint(i)+"/resolve/main/config.json")
	}
	if kept, err := filepath.Glob(filepath.Join(n.conf.Dir, "listings", "*.json")); err != nil || len(kept) != 1 {
		t.Errorf("%v, %v", kept, err)
	}
	b.set(func() { b.down = true })
	if _, body := get(t, "GET", n.s3URL+"/models/readme"); string(body) != "state 2" {
		t.Errorf("while S3 is away it is %q", body)
	}
}

// keysOfFace are a key whose namespace may use the node's keys, and one whose may not.
const keysOfFace = "# access key, secret, namespace\nAKIDML secret/ml+1 ml\nAKIDWEB secret-web web\n"

// An endpoint with keys answers signed requests alone, as the namespace of their key.
func TestSignaturesOfTheS3Endpoint(t *testing.T) {
	n, _ := s3Node(t, keysOfFace)
	at := n.s3URL + "/models/readme"
	if res, _ := get(t, "GET", at); res.StatusCode != http.StatusForbidden {
		t.Errorf("without a signature: %s", res.Status)
	}
	curl := tool(t, "curl")
	ask := func(user, at string, more ...string) string {
		t.Helper()
		args := append([]string{"-s", "-o", os.DevNull, "-w", "%{http_code}", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", user, "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"}, more...)
		out, err := exec.CommandContext(t.Context(), curl, append(args, at)...).CombinedOutput()
		if err != nil {
			t.Fatalf("curl: %v: %s", err, out)
		}
		return string(out)
	}
	old := time.Now().Add(-time.Hour).UTC().Format("20060102T150405Z")
	for what, got := range map[string][2]string{
		"the right key":             {ask("AKIDML:secret/ml+1", at), "200"},
		"a list":                    {ask("AKIDML:secret/ml+1", n.s3URL+"/models?list-type=2&prefix=llama%2F"), "200"},
		"a key with a wrong secret": {ask("AKIDML:secret", at), "403"},
		"a key that is none":        {ask("AKIDNONE:secret/ml+1", at), "403"},
		"another namespace":         {ask("AKIDWEB:secret-web", at), "403"},
		"that one, a public model":  {ask("AKIDWEB:secret-web", n.s3URL+"/huggingface/Qwen/Qwen3/main/config.json"), "200"},
		"an hour ago":               {ask("AKIDML:secret/ml+1", at, "-H", "X-Amz-Date: "+old), "403"},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %s, want %s", what, got[0], got[1])
		}
	}
	hidden(t, n, "secret/ml+1")
}

// tool finds a program of somebody else, or skips the test.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("there is no %s: scripts/setup installs it", name)
	}
	return path
}

// client runs a client of S3 with keys and without what the user's own files and
// environment say.
func client(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	home := t.TempDir()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "AWS_ACCESS_KEY_ID=AKIDML", "AWS_SECRET_ACCESS_KEY=secret/ml+1", "AWS_DEFAULT_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true"}
	if root := os.Getenv("PYENV_ROOT"); root != "" {
		cmd.Env = append(cmd.Env, "PYENV_ROOT="+root)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", filepath.Base(name), args, err, out)
	}
	return string(out)
}

// python finds an interpreter that has boto3.
func python(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		if path, err := exec.LookPath(name); err == nil && exec.Command(path, "-c", "import boto3").Run() == nil {
			return path
		}
	}
	t.Skip("there is no Python with boto3: scripts/setup installs it")
	return ""
}

// boto3 reads as vLLM and the Run:ai streamer do: a list, a small file, ranges.
func TestBoto3(t *testing.T) {
	t.Parallel()
	path := python(t)
	for _, style := range []string{"path", "virtual"} {
		n, _ := s3Node(t, keysOfFace)
		endpoint := n.s3URL
		if style == "virtual" {
			endpoint = strings.Replace(endpoint, "127.0.0.1", "localhost", 1)
		}
		out := client(t, path, "-c", `
import boto3, hashlib, json, socket, sys
from botocore.config import Config
# The resolver of a small machine knows no names below localhost.
found = socket.getaddrinfo
socket.getaddrinfo = lambda host, *a, **k: found("127.0.0.1" if str(host).endswith("localhost") else host, *a, **k)
s3 = boto3.client("s3", endpoint_url=sys.argv[1], config=Config(s3={"addressing_style": sys.argv[2]}, retries={"max_attempts": 1}))
keys = [o["Key"] for page in s3.get_paginator("list_objects_v2").paginate(Bucket="models", Prefix="llama/7b/", PaginationConfig={"PageSize": 1}) for o in page["Contents"]]
folders = [o["Prefix"] for o in s3.list_objects_v2(Bucket="models", Prefix="llama/7b/", Delimiter="/")["CommonPrefixes"]]
s3.download_file("models", "llama/7b/tokenizer/a b+é.txt", "/dev/null")
s3.download_file("models", "llama/7b/model.safetensors", sys.argv[3])
hub = s3.get_object(Bucket="huggingface", Key="Qwen/Qwen3/main/model.safetensors")["Body"].read()
piece = s3.get_object(Bucket="models", Key="llama/7b/model.safetensors", Range="bytes=8388600-8388619")["Body"].read()
s3.head_bucket(Bucket="models")
try:
    s3.head_object(Bucket="models", Key="none")
except s3.exceptions.ClientError as e:
    missing = e.response["Error"]["Code"]
print(json.dumps({"keys": keys, "folders": folders, "sum": hashlib.sha256(open(sys.argv[3], "rb").read()).hexdigest(), "hub": hashlib.sha256(hub).hexdigest(), "piece": piece.hex(), "missing": missing}))
`, endpoint, style, filepath.Join(t.TempDir(), "out"))
		var got struct {
			Keys, Folders            []string
			Sum, Hub, Piece, Missing string
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if len(got.Keys) != 3 || len(got.Folders) != 1 || got.Sum != hubtest.SHA256(big) || got.Hub != got.Sum || got.Piece != hexOf(big[8388600:8388620]) || got.Missing != "404" {
			t.Errorf("%s: %+v", style, got)
		}
	}
}

func TestAwsCommand(t *testing.T) {
	t.Parallel()
	path := tool(t, "aws")
	n, _ := s3Node(t, keysOfFace)
	dir := t.TempDir()
	if out := client(t, path, "--endpoint-url", n.s3URL, "s3", "ls", "s3://models/llama/7b/"); !strings.Contains(out, "PRE tokenizer/") || !strings.Contains(out, "model.safetensors") {
		t.Errorf("ls: %s", out)
	}
	client(t, path, "--endpoint-url", n.s3URL, "s3", "sync", "--quiet", "s3://models/llama/7b/", dir)
	wantFile(t, filepath.Join(dir, "model.safetensors"), big)
	wantFile(t, filepath.Join(dir, "tokenizer", "a b+é.txt"), []byte("words"))
	client(t, path, "--endpoint-url", n.s3URL, "s3", "cp", "--quiet", "s3://huggingface/Qwen/Qwen3/main/model.safetensors", filepath.Join(dir, "hub"))
	wantFile(t, filepath.Join(dir, "hub"), big)
}

func TestS3cmd(t *testing.T) {
	t.Parallel()
	path := tool(t, "s3cmd")
	n, _ := s3Node(t, keysOfFace)
	host := strings.TrimPrefix(n.s3URL, "http://")
	s3cmd := func(args ...string) string {
		return client(t, path, append([]string{"--no-ssl", "--host=" + host, "--host-bucket=" + host, "--access_key=AKIDML", "--secret_key=secret/ml+1"}, args...)...)
	}
	if out := s3cmd("ls", "--recursive", "s3://models/llama/"); !strings.Contains(out, "s3://models/llama/7b/model.safetensors") {
		t.Errorf("ls: %s", out)
	}
	dir := t.TempDir()
	for i, name := range []string{"models/llama/7b/model.safetensors", "huggingface/Qwen/Qwen3/main/model.safetensors"} {
		at := filepath.Join(dir, strconv.Itoa(i))
		if out := s3cmd("get", "--no-progress", "s3://"+name, at); strings.Contains(out, "WARNING") {
			t.Errorf("%s: %s", name, out)
		}
		wantFile(t, at, big)
	}
}

func TestRclone(t *testing.T) {
	t.Parallel()
	path := tool(t, "rclone")
	n, _ := s3Node(t, keysOfFace)
	dir := t.TempDir()
	remote := ":s3,provider=Other,access_key_id=AKIDML,secret_access_key=secret/ml+1,endpoint='" + n.s3URL + "',force_path_style=true:"
	for i, folder := range []string{"models/llama/7b", "huggingface/Qwen/Qwen3/main"} {
		at := filepath.Join(dir, strconv.Itoa(i))
		client(t, path, "--config", os.DevNull, "copy", remote+folder, at)
		wantFile(t, filepath.Join(at, "model.safetensors"), big)
	}
	wantFile(t, filepath.Join(dir, "0", "tokenizer", "a b+é.txt"), []byte("words"))
	client(t, path, "--config", os.DevNull, "check", remote+"models/llama/7b", filepath.Join(dir, "0"))
}
