package s3

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// examples are signed requests as AWS publishes them, with their signatures.
// https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
// https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
var examples = map[string]func() *http.Request{
	"an object": func() *http.Request {
		return signed("https://examplebucket.s3.amazonaws.com/test.txt", "host;range;x-amz-content-sha256;x-amz-date", "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41", "Range", "bytes=0-9")
	},
	"a list": func() *http.Request {
		return signed("https://examplebucket.s3.amazonaws.com/?max-keys=2&prefix=J", "host;x-amz-content-sha256;x-amz-date", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")
	},
	"a bucket's lifecycle": func() *http.Request {
		return signed("https://examplebucket.s3.amazonaws.com/?lifecycle", "host;x-amz-content-sha256;x-amz-date", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543")
	},
	"a signed URL": func() *http.Request {
		r, _ := http.NewRequest("GET", "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404", nil)
		return r
	},
}

func signed(url, headers, signature string, more ...string) *http.Request {
	r, _ := http.NewRequest("GET", url, nil)
	r.Header.Set("X-Amz-Date", "20130524T000000Z")
	r.Header.Set("X-Amz-Content-Sha256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,SignedHeaders="+headers+",Signature="+signature)
	for i := 0; i+1 < len(more); i += 2 {
		r.Header.Set(more[i], more[i+1])
	}
	return r
}

func exampleKeys(t *testing.T) *Keys {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, []byte("\n# AWS's example\nAKIAIOSFODNN7EXAMPLE wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY docs\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := ReadKeys(path)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// AWS's examples are accepted at their time, and any change to them is rejected.
func TestSignaturesOfAWS(t *testing.T) {
	k := exampleKeys(t)
	at := time.Date(2013, 5, 24, 0, 5, 0, 0, time.UTC)
	for what, example := range examples {
		if namespace, err := k.Verify(example(), at); err != nil || namespace != "docs" {
			t.Errorf("%s: %q, %v", what, namespace, err)
		}
		for change, do := range map[string]func(r *http.Request){
			"another path":   func(r *http.Request) { r.URL.Path = "/other.txt" },
			"another bucket": func(r *http.Request) { r.Host = "other.s3.amazonaws.com" },
			"more asked":     func(r *http.Request) { r.URL.RawQuery += "&versionId=1" },
			"another method": func(r *http.Request) { r.Method = "HEAD" },
		} {
			r := example()
			do(r)
			if _, err := k.Verify(r, at); codeOf(err) != "SignatureDoesNotMatch" {
				t.Errorf("%s, %s: %v", what, change, err)
			}
		}
	}
}

func codeOf(err error) string {
	var said *failure
	if errors.As(err, &said) {
		return said.code
	}
	return ""
}

// Requests that are too old, too new, or signed in another way are refused.
func TestSignaturesThatAreNone(t *testing.T) {
	k := exampleKeys(t)
	at := time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)
	for what, c := range map[string]struct {
		r    *http.Request
		at   time.Time
		code string
	}{
		"too old":              {examples["a list"](), at.Add(16 * time.Minute), "RequestTimeTooSkewed"},
		"too new":              {examples["a list"](), at.Add(-16 * time.Minute), "RequestTimeTooSkewed"},
		"a URL that lapsed":    {examples["a signed URL"](), at.Add(25 * time.Hour), "AccessDenied"},
		"a URL of tomorrow":    {examples["a signed URL"](), at.Add(-time.Hour), "AccessDenied"},
		"version 2":            {change(func(r *http.Request) { r.Header.Set("Authorization", "AWS AKIAIOSFODNN7EXAMPLE:x") }), at, "AccessDenied"},
		"no date":              {change(func(r *http.Request) { r.Header.Del("X-Amz-Date") }), at, "AccessDenied"},
		"of another day":       {change(func(r *http.Request) { r.Header.Set("X-Amz-Date", "20130525T000000Z") }), at.Add(24 * time.Hour), "AccessDenied"},
		"without the host":     {signed("https://x/", "x-amz-date", "0"), at, "AccessDenied"},
		"an unknown key":       {change(func(r *http.Request) { replace(r, "AKIAIOSFODNN7EXAMPLE", "AKIDOTHER") }), at, "InvalidAccessKeyId"},
		"a scope that is none": {change(func(r *http.Request) { replace(r, "/s3/", "/ec2/") }), at, "AccessDenied"},
		"nothing":              {change(func(r *http.Request) { r.Header.Del("Authorization") }), at, "AccessDenied"},
	} {
		if _, err := k.Verify(c.r, c.at); codeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", what, err, c.code)
		}
	}
}

func change(do func(r *http.Request)) *http.Request {
	r := examples["a list"]()
	do(r)
	return r
}

func replace(r *http.Request, old, by string) {
	r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), old, by, 1))
}

// The error for an invalid file is one line that names the file and the line, without secrets.
func TestKeysThatAreNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	if _, err := ReadKeys(path); err == nil || !strings.Contains(err.Error(), "s3_keys_file") || !strings.Contains(err.Error(), path) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, []byte("a b c\nkey the-secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKeys(path); err == nil || !strings.Contains(err.Error(), "line 2 has 2 words") || strings.Contains(err.Error(), "the-secret") {
		t.Errorf("a line without a namespace: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	f.Add("AWS4-HMAC-SHA256 Credential=a/20130524/us-east-1/s3/aws4_request,SignedHeaders=host,Signature=x", "X-Amz-Expires=5")
	f.Fuzz(func(t *testing.T, header, query string) {
		k := &Keys{path: os.DevNull}
		r, err := http.NewRequest("GET", "http://h/b", nil)
		if err != nil {
			return
		}
		r.URL.RawQuery = query
		r.Header.Set("Authorization", header)
		r.Header.Set("X-Amz-Date", "20130524T000000Z")
		if _, err := k.Verify(r, time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)); err == nil {
			t.Errorf("%q, %q is accepted without a key", header, query)
		}
	})
}
