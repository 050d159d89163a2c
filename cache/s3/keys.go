package s3

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// skew is how much the clocks of client and cache may differ, the same as in S3.
const skew = 15 * time.Minute

// Keys are the clients that may use an endpoint. Each line of the file has an access key, its secret and
// the Nomad namespace with whose rights the client reads. The file is read again when it changes.
type Keys struct {
	path string

	mu   sync.Mutex
	read time.Time // modification time of the file when it was last read
	all  map[string]key
}

type key struct{ secret, namespace string }

// ReadKeys reads a file of keys.
func ReadKeys(path string) (*Keys, error) {
	k := &Keys{path: path}
	if _, err := k.of(""); err != nil {
		return nil, err
	}
	return k, nil
}

// of returns the key with an ID, or the zero key if there is none.
func (k *Keys) of(id string) (key, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	info, err := os.Stat(k.path)
	if err != nil {
		return key{}, fmt.Errorf("s3_keys_file: %w", err)
	}
	if k.all == nil || !info.ModTime().Equal(k.read) {
		text, err := os.ReadFile(k.path)
		if err != nil {
			return key{}, fmt.Errorf("s3_keys_file: %w", err)
		}
		all, err := parseKeys(string(text))
		if err != nil {
			return key{}, fmt.Errorf("s3_keys_file %s: %w", k.path, err)
		}
		k.all, k.read = all, info.ModTime()
	}
	return k.all[id], nil
}

func parseKeys(text string) (map[string]key, error) {
	all := map[string]key{}
	lines := bufio.NewScanner(strings.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		words := strings.Fields(lines.Text())
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		if len(words) != 3 {
			return nil, fmt.Errorf("line %d has %d words: want an access key, a secret and a Nomad namespace", n,
				len(words))
		}
		all[words[0]] = key{words[1], words[2]}
	}
	return all, lines.Err()
}

func denied(code, message string) error {
	return &failure{http.StatusForbidden, code, message}
}

// signature is the parsed signature of a request.
type signature struct {
	id, scope, day, region string
	headers                []string
	given                  string
	at                     time.Time
	expires                time.Duration // for a signed URL; 0 otherwise
	hash                   string
}

// Verify checks a request's version 4 signature and returns the namespace of its key.
// https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html
func (k *Keys) Verify(r *http.Request, now time.Time) (namespace string, err error) {
	s, err := parseSignature(r)
	if err != nil {
		return "", err
	}
	if !slices.Contains(s.headers, "host") {
		return "", denied("AccessDenied", "The signature does not cover the host.")
	}
	late := now.Sub(s.at)
	if s.expires > 0 && (late > s.expires || late < -skew) {
		return "", denied("AccessDenied", "Request has expired.")
	}
	if s.expires == 0 && (late > skew || late < -skew) {
		return "", denied("RequestTimeTooSkewed", "The clocks of client and cache are more than 15 minutes apart.")
	}
	found, err := k.of(s.id)
	if err != nil {
		return "", err
	}
	if found.secret == "" {
		return "", denied("InvalidAccessKeyId", "This cache does not know the access key.")
	}
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	sum := sha256.Sum256([]byte(s.canonical(r)))
	toSign := strings.Join([]string{algorithm, s.at.Format(timeFormat), s.scope, hex.EncodeToString(sum[:])}, "\n")
	signing := mac(mac(mac(mac([]byte("AWS4"+found.secret), s.day), s.region), "s3"), "aws4_request")
	if !hmac.Equal([]byte(hex.EncodeToString(mac(signing, toSign))), []byte(s.given)) {
		return "", denied("SignatureDoesNotMatch", "The signature does not match the request and the key's secret.")
	}
	return found.namespace, nil
}

const (
	algorithm  = "AWS4-HMAC-SHA256"
	timeFormat = "20060102T150405Z"
)

func parseSignature(r *http.Request) (s signature, err error) {
	fields := map[string]string{}
	at := r.Header.Get("X-Amz-Date")
	if rest, ok := strings.CutPrefix(r.Header.Get("Authorization"), algorithm+" "); ok {
		for _, part := range strings.Split(rest, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
			fields[name] = value
		}
		s.hash = r.Header.Get("X-Amz-Content-Sha256")
	} else if q := r.URL.Query(); q.Get("X-Amz-Algorithm") == algorithm {
		for _, name := range []string{"Credential", "SignedHeaders", "Signature"} {
			fields[name] = q.Get("X-Amz-" + name)
		}
		at, s.hash = q.Get("X-Amz-Date"), "UNSIGNED-PAYLOAD"
		s.expires, err = time.ParseDuration(q.Get("X-Amz-Expires") + "s")
		if err != nil || s.expires <= 0 || s.expires > 7*24*time.Hour {
			return s, denied("AccessDenied", "X-Amz-Expires is not a number of seconds from 1 to 604800.")
		}
	} else {
		return s, denied("AccessDenied", "Sign requests with AWS Signature Version 4 and a key of s3_keys_file.")
	}
	if s.at, err = time.Parse(timeFormat, at); err != nil {
		return s, denied("AccessDenied", "X-Amz-Date is missing or not a time.")
	}
	scope := strings.Split(fields["Credential"], "/")
	if len(scope) != 5 || scope[1] != s.at.Format("20060102") || scope[3] != "s3" || scope[4] != "aws4_request" {
		return s, denied("AccessDenied", "The credential is not valid for S3 on the day of the request.")
	}
	s.id, s.day, s.region = scope[0], scope[1], scope[2]
	s.scope = strings.Join(scope[1:], "/")
	s.headers, s.given = strings.Split(fields["SignedHeaders"], ";"), fields["Signature"]
	return s, nil
}

// canonical returns the request in the canonical form that is signed.
func (s signature) canonical(r *http.Request) string {
	query := r.URL.Query()
	query.Del("X-Amz-Signature")
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(query)) {
		values := slices.Sorted(slices.Values(query[name]))
		for _, v := range values {
			pairs = append(pairs, escaped(name, false)+"="+escaped(v, false))
		}
	}
	var headers strings.Builder
	for _, name := range s.headers {
		value := strings.Join(r.Header.Values(name), ",")
		if name == "host" {
			value = r.Host
		}
		headers.WriteString(name + ":" + strings.Join(strings.Fields(value), " ") + "\n")
	}
	path, err := url.PathUnescape(r.URL.EscapedPath())
	if err != nil {
		path = r.URL.Path
	}
	lines := []string{r.Method, escaped(path, true), strings.Join(pairs, "&"), headers.String(),
		strings.Join(s.headers, ";"), s.hash}
	return strings.Join(lines, "\n")
}

// escaped percent-encodes everything but unreserved characters. With slash, it keeps slashes too.
func escaped(text string, slash bool) string {
	var out strings.Builder
	for i := range len(text) {
		c := text[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if letter || strings.IndexByte("-._~", c) >= 0 || slash && c == '/' {
			out.WriteByte(c)
		} else {
			fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String()
}
