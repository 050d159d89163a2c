package s3

import (
	"context"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"aliquot.example/cache/origin"
)

// maxKeys is the maximum number of keys per page of a list, the same as in S3.
const maxKeys = 1000

// listParameters are the parameters of both versions of the list request, and those of signatures.
var listParameters = []string{
	"list-type", "prefix", "delimiter", "max-keys", "encoding-type", "continuation-token", "start-after", "marker",
	"fetch-owner", "x-id",
	"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature",
	"X-Amz-Security-Token",
}

// paging is the requested part of a list.
type paging struct {
	prefix, delimiter, after string
	most                     int
}

// content is an object in a list.
type content struct {
	Key, LastModified, ETag string
	Size                    int64
	StorageClass            string
}

// prefixed is a folder in a list.
type prefixed struct{ Prefix string }

// result is the response of both versions.
type result struct {
	XMLName               xml.Name `xml:"http://s3.amazonaws.com/doc/2006-03-01/ ListBucketResult"`
	Name, Prefix          string
	Delimiter             string `xml:",omitempty"`
	EncodingType          string `xml:",omitempty"`
	MaxKeys               int
	IsTruncated           bool
	KeyCount              *int    `xml:",omitempty"`
	Marker                *string `xml:",omitempty"`
	NextMarker            string  `xml:",omitempty"`
	StartAfter            string  `xml:",omitempty"`
	ContinuationToken     string  `xml:",omitempty"`
	NextContinuationToken string  `xml:",omitempty"`
	Contents              []content
	CommonPrefixes        []prefixed
}

// list serves ListObjects and ListObjectsV2.
func (f *Handler) list(w http.ResponseWriter, ctx context.Context, a ask) error {
	p, err := pageOf(a.query)
	if err != nil {
		return err
	}
	keys, err := f.page(ctx, a, p)
	if err != nil {
		return err
	}
	return answer(w, p.result(a, keys))
}

// second reports whether a request is ListObjectsV2.
func second(q url.Values) bool { return q.Get("list-type") == "2" }

// pageOf parses the requested part of a list.
func pageOf(q url.Values) (p paging, err error) {
	p = paging{prefix: q.Get("prefix"), delimiter: q.Get("delimiter"), after: q.Get("marker"), most: maxKeys}
	if second(q) {
		p.after = q.Get("start-after")
	}
	if token := q.Get("continuation-token"); second(q) && token != "" {
		raw, err := base64.URLEncoding.DecodeString(token)
		if err != nil {
			return p, &failure{http.StatusBadRequest,
				"InvalidArgument", "The continuation token is not from this cache."}
		}
		p.after = string(raw)
	}
	if text := q.Get("max-keys"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return p, &failure{http.StatusBadRequest, "InvalidArgument", "max-keys is not a whole number of 0 or more."}
		}
		p.most = min(n, maxKeys)
	}
	if p.delimiter != "" && p.delimiter != "/" {
		return p, &failure{http.StatusNotImplemented, "NotImplemented", "This cache supports only the delimiter /."}
	}
	return p, nil
}

// result returns the response for a page of keys. One key more than the page holds means that the
// list continues.
func (p paging) result(a ask, keys []origin.Key) result {
	q, write := a.query, func(text string) string { return text }
	out := result{Name: a.bucket, MaxKeys: p.most, EncodingType: q.Get("encoding-type")}
	if out.EncodingType == "url" {
		write = encoded
	}
	out.Prefix, out.Delimiter = write(p.prefix), write(p.delimiter)
	last := ""
	if p.most > 0 && len(keys) > p.most {
		keys, out.IsTruncated = keys[:p.most], true
		last = keys[p.most-1].Name
	}
	for _, k := range keys {
		if strings.HasSuffix(k.Name, "/") && p.delimiter != "" && k.ETag == "" {
			out.CommonPrefixes = append(out.CommonPrefixes, prefixed{write(k.Name)})
			continue
		}
		out.Contents = append(out.Contents, content{
			Key: write(k.Name), LastModified: stamp(k.Modified), ETag: strconv.Quote(k.ETag), Size: k.Size,
			StorageClass: "STANDARD",
		})
	}
	if !second(q) {
		marker := write(q.Get("marker"))
		out.Marker, out.NextMarker = &marker, write(last)
		return out
	}
	count := len(keys)
	out.KeyCount, out.StartAfter, out.ContinuationToken = &count, write(q.Get("start-after")),
		q.Get("continuation-token")
	if last != "" {
		out.NextContinuationToken = base64.URLEncoding.EncodeToString([]byte(last))
	}
	return out
}

// encoded escapes a key for encoding-type=url, except for its slashes.
func encoded(key string) string { return strings.ReplaceAll(url.QueryEscape(key), "%2F", "/") }

// page lists up to one key more than fits on a page.
func (f *Handler) page(ctx context.Context, a ask, p paging) (keys []origin.Key, err error) {
	if p.most == 0 {
		return nil, nil
	}
	add := func(k origin.Key) bool {
		if !p.passed(k) {
			keys = append(keys, k)
		}
		return len(keys) <= p.most
	}
	if a.bucket == HubBucket {
		all, err := f.hubKeys(ctx, a, p)
		if err != nil {
			return nil, err
		}
		for _, k := range all {
			if !add(k) {
				break
			}
		}
		return keys, nil
	}
	if f.Origin == nil {
		return nil, errNoBucket
	}
	server, err := f.Origin.Server(a.bucket)
	if err != nil {
		return nil, err
	}
	token := f.Token("s3", a.bucket, a.namespace)
	err = server.Keys(ctx, token, a.bucket, p.prefix, p.from(), p.delimiter == "", add)
	return f.remembered(a, p, token, keys, err)
}

// remembered stores a page from S3. If S3 does not answer, it returns the page last stored for this
// token.
func (f *Handler) remembered(a ask, p paging, token string, keys []origin.Key, err error) ([]origin.Key, error) {
	question := fmt.Sprintf("%q", []string{"s3 list", a.bucket, p.prefix, p.delimiter, p.after,
		strconv.Itoa(p.most), token})
	switch {
	case err == nil:
		if failed := f.Library.Remember(question, keys); failed != nil {
			f.Log.Warn("cannot save a list from S3", "bucket", a.bucket, "error", failed)
		}
	case !origin.Final(err) && f.Library.Recall(question, &keys):
		f.Log.Warn("S3 does not answer; using the last known list", "bucket", a.bucket, "prefix", p.prefix,
			"error", err)
		return keys, nil
	}
	return keys, err
}

// passed reports whether a key is before the page.
func (p paging) passed(k origin.Key) bool { return p.after != "" && k.Name <= p.after }

// from returns the key after which the origin starts to list. After a listed folder, it must skip
// everything in the folder.
func (p paging) from() string {
	if p.delimiter != "" && strings.HasSuffix(p.after, "/") {
		return p.after + "\U0010FFFF"
	}
	return p.after
}

// hubKeys lists the files of one model. Only the Hub knows which models exist, so nothing is listed
// above a revision.
func (f *Handler) hubKeys(ctx context.Context, a ask, p paging) ([]origin.Key, error) {
	ref, inside, ok := hubKey(p.prefix)
	if !ok {
		return nil, nil
	}
	l, err := f.Library.List(ctx, ref, f.Token("hf", ref.Name, a.namespace))
	if err != nil {
		return nil, err
	}
	base := strings.TrimSuffix(p.prefix, inside)
	var keys []origin.Key
	seen := map[string]bool{}
	for _, o := range l.Files {
		rest, ok := strings.CutPrefix(o.Path, inside)
		if !ok {
			continue
		}
		if folder, _, deeper := strings.Cut(rest, "/"); deeper && p.delimiter != "" {
			if name := base + inside + folder + "/"; !seen[name] {
				seen[name] = true
				keys = append(keys, origin.Key{Name: name})
			}
			continue
		}
		keys = append(keys, origin.Key{Name: base + o.Path, ETag: hubETag(o), Size: o.Object.Size,
			Modified: time.Unix(0, 0)})
	}
	slices.SortFunc(keys, func(a, b origin.Key) int { return strings.Compare(a.Name, b.Name) })
	return keys, nil
}
