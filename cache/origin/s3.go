package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"
	"golang.org/x/sync/errgroup"

	"aliquot.example/internal/blob"
	"aliquot.example/internal/cacheapi"
)

// S3 reads objects from a server that speaks S3. A model is one object or a folder of objects. A
// source names one object and its ETag.
type S3 struct {
	own, anonymous *minio.Core
	etagIsMD5      bool
	core           func(*credentials.Credentials) (*minio.Core, error)

	mu     sync.Mutex
	askers map[string]*minio.Core // by token; clients with their own keys
}

// S3Options configure an S3 server.
type S3Options struct {
	// Endpoint is the server's URL, and Region the region for which requests are signed.
	Endpoint, Region string
	// PathStyle puts the bucket into the path instead of the host name.
	PathStyle bool
	// Anonymous sends unsigned requests. Otherwise the keys come from CredentialsFile, in the
	// format of AWS's shared credentials file, or else from AWS_ACCESS_KEY_ID and
	// AWS_SECRET_ACCESS_KEY, or else from the machine's role.
	Anonymous                bool
	CredentialsFile, Profile string
	// ETagIsMD5 is false for a server whose ETags are not checksums.
	ETagIsMD5 bool
	Client    *http.Client
	// Key is the name of the server's block in the configuration, for errors.
	Key string
}

// OneObject is the revision of a ref that names exactly one object, never a folder.
const OneObject = "object"

const (
	// maxObjects bounds the objects of a model, and statsAtOnce the concurrent requests about
	// them.
	maxObjects  = 10000
	statsAtOnce = 16
)

// NewS3 returns an origin. It sends no requests.
func NewS3(o S3Options) (*S3, error) {
	u, err := url.Parse(o.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("%s.endpoint: %w", o.Key, err)
	}
	core := func(creds *credentials.Credentials) (*minio.Core, error) {
		lookup := minio.BucketLookupDNS
		if o.PathStyle {
			lookup = minio.BucketLookupPath
		}
		// The cache itself retries.
		return minio.NewCore(u.Host, &minio.Options{
			Creds: creds, Secure: u.Scheme == "https", Transport: o.Client.Transport,
			Region: o.Region, BucketLookup: lookup, MaxRetries: 1,
		})
	}
	s := &S3{etagIsMD5: o.ETagIsMD5, core: core}
	if s.anonymous, err = core(credentials.NewStaticV4("", "", "")); err != nil {
		return nil, fmt.Errorf("%s.endpoint: %w", o.Key, err)
	}
	if o.Anonymous {
		s.own = s.anonymous
		return s, nil
	}
	if s.own, err = core(o.credentials()); err != nil {
		return nil, fmt.Errorf("%s.endpoint: %w", o.Key, err)
	}
	return s, nil
}

// credentials returns the keys of exactly one source: if that fails, no other one silently replaces
// it.
func (o S3Options) credentials() *credentials.Credentials {
	switch {
	case o.CredentialsFile != "":
		file := credentials.FileAWSCredentials{Filename: o.CredentialsFile, Profile: o.Profile}
		return credentials.New(&keyFile{FileAWSCredentials: file, key: o.Key})
	case os.Getenv("AWS_ACCESS_KEY_ID") != "":
		return credentials.NewEnvAWS()
	}
	return credentials.NewIAM("")
}

// keyFile reads keys from a file, again whenever the file has changed.
type keyFile struct {
	credentials.FileAWSCredentials
	key  string
	read time.Time // modification time of the file when it was last read
}

func (k *keyFile) changed() (time.Time, error) {
	info, err := os.Stat(k.Filename)
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// IsExpired reports whether the keys must be read again.
func (k *keyFile) IsExpired() bool {
	at, err := k.changed()
	return err == nil && !at.Equal(k.read) || k.FileAWSCredentials.IsExpired()
}

// Retrieve reads the keys.
func (k *keyFile) Retrieve() (credentials.Value, error) {
	return k.RetrieveWithCredContext(nil)
}

// RetrieveWithCredContext reads the keys.
func (k *keyFile) RetrieveWithCredContext(c *credentials.CredContext) (credentials.Value, error) {
	k.read, _ = k.changed()
	v, err := k.FileAWSCredentials.RetrieveWithCredContext(c)
	if err == nil && (v.AccessKeyID == "" || v.SecretAccessKey == "") {
		err = errors.New("want aws_access_key_id and aws_secret_access_key")
	}
	if err != nil {
		err = fmt.Errorf("%s.credentials_file %s: %w", k.key, k.Filename, err)
	}
	return v, err
}

// Own reports whether a request of this client uses the node's own credentials, so that the
// configuration decides who may read.
func (s *S3) Own(token string) bool { return token == "" && s.own != s.anonymous }

// For reports whether a client's keys belong to this server. Keys of other servers must not be sent
// to it.
func (s *S3) For(token string) bool {
	keys, ok := cacheapi.ParseKeys(token)
	if !ok {
		return false
	}
	own := serverOf(s.anonymous.EndpointURL())
	if keys.Endpoint == "" {
		return own == amazon || own == amazon+".cn"
	}
	u, err := url.Parse(keys.Endpoint)
	return err == nil && serverOf(u) == own
}

// amazon stands for all endpoints of Amazon outside China.
const amazon = "amazonaws.com"

// serverOf returns a name for the server behind a URL, the same for equivalent URLs.
func serverOf(u *url.URL) string {
	host, port := strings.ToLower(u.Hostname()), u.Port()
	switch plain := (url.URL{Scheme: u.Scheme, Host: host}); {
	case !s3utils.IsAmazonEndpoint(plain):
	case strings.HasSuffix(host, ".cn"):
		return amazon + ".cn"
	default:
		return amazon
	}
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(host, port)
}

// clientFor returns the client for a token: with the node's own keys, with the client's keys, or without
// any.
func (s *S3) clientFor(token string) *minio.Core {
	if token == "" {
		return s.own
	}
	keys, ok := cacheapi.ParseKeys(token)
	if !ok || !s.For(token) { // a peer may use another server
		return s.anonymous
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.askers == nil || len(s.askers) >= maxClients {
		s.askers = map[string]*minio.Core{}
	}
	if s.askers[token] == nil {
		core, err := s.core(credentials.NewStaticV4(keys.ID, keys.Secret, keys.Session))
		if err != nil { // unreachable: the same options worked without keys
			return s.anonymous
		}
		s.askers[token] = core
	}
	return s.askers[token]
}

// objectSource returns the source of an object in its current version, as a URL.
func objectSource(bucket, key, etag string) string {
	u := url.URL{Scheme: "s3", Host: bucket, Path: "/" + key, RawQuery: url.Values{"etag": {etag}}.Encode()}
	return u.String()
}

// Open reads a range of an object, in the version that was listed.
func (s *S3) Open(ctx context.Context, source, token string, o blob.Object, offset,
	length int64) (io.ReadCloser, error) {
	u, err := url.Parse(source)
	if err != nil || u.Scheme != "s3" || u.Query().Get("etag") == "" {
		return nil, fmt.Errorf("source %.200q: want s3://<bucket>/<key>?etag=<etag>", source)
	}
	etag, options := u.Query().Get("etag"), minio.GetObjectOptions{}
	if err := errors.Join(options.SetMatchETag(etag), options.SetRange(offset, offset+length-1)); err != nil {
		return nil, err
	}
	body, info, header, err := s.clientFor(token).GetObject(ctx, u.Host, strings.TrimPrefix(u.Path, "/"), options)
	if err != nil {
		return nil, s3Error(err)
	}
	start, total, ok := contentRange(header.Get("Content-Range"))
	if !ok || start != offset || total != o.Size || info.ETag != etag {
		body.Close()
		return nil, fmt.Errorf("%w: expected %d bytes with the ETag %s, received the range %q with the ETag %s",
			ErrChanged, o.Size, etag, header.Get("Content-Range"), info.ETag)
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(body, length), body}, nil
}

// s3Error classifies an error.
func s3Error(err error) error {
	var answer minio.ErrorResponse
	if !errors.As(err, &answer) {
		return unwrapped(err)
	}
	message := fmt.Sprintf("S3 answers %d %s", answer.StatusCode, answer.Code)
	if answer.StatusCode == 0 {
		message = "S3: " + answer.Message // an error of the client library, not of the server
	}
	switch code := answer.StatusCode; {
	case code == http.StatusMovedPermanently || answer.Code == "AuthorizationHeaderMalformed":
		return fmt.Errorf("%s: %w: the region or endpoint in its s3 block is wrong for the bucket", message, ErrDenied)
	case code == http.StatusNotFound:
		return fmt.Errorf("%s: %w", message, ErrNotFound)
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return fmt.Errorf("%s: %w", message, ErrDenied)
	case code == http.StatusPreconditionFailed || code == http.StatusRequestedRangeNotSatisfiable:
		return fmt.Errorf("%s: %w", message, ErrChanged)
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable:
		return &Later{defaultWait, message}
	case answer.Code == minio.InvalidBucketName:
		return fmt.Errorf("%s: %w", answer.Message, ErrNotFound)
	}
	return errors.New(message)
}

// List lists the object with a name or, if there is none, the objects in that folder. With the
// revision OneObject it lists only the object with exactly that key, which may end with a slash.
func (s *S3) List(ctx context.Context, ref blob.Ref, token string) (*Listing, error) {
	bucket, key, _ := strings.Cut(ref.Name, "/")
	l := &Listing{Ref: ref, Public: s.clientFor(token) == s.anonymous}
	one := ref.Revision == OneObject
	if one && key == "" {
		return nil, fmt.Errorf("%w: want the name of an object, not of a bucket", ErrNotFound)
	}
	if one || key != "" && !strings.HasSuffix(key, "/") {
		f, err := s.stat(ctx, token, bucket, key)
		if err == nil {
			f.Path = path.Base(key)
			l.Files, l.Revision = []File{f}, f.Object.Digest()
			return l, nil
		}
		if !errors.Is(err, ErrNotFound) || one {
			return nil, err
		}
	}
	if err := s.folder(ctx, token, bucket, strings.Trim(key, "/"), l); err != nil {
		return nil, err
	}
	words := make([]string, 0, 2*len(l.Files))
	for _, f := range l.Files {
		words = append(words, f.Path, f.Object.ID)
	}
	l.Revision = Named(0, words...).Digest()
	return l, nil
}

// folder adds the objects below a key to a listing.
func (s *S3) folder(ctx context.Context, token, bucket, key string, l *Listing) error {
	prefix := ""
	if key != "" {
		prefix = key + "/"
	}
	var keys []string
	err := s.Keys(ctx, token, bucket, prefix, "", true, func(k Key) bool {
		if !strings.HasSuffix(k.Name, "/") { // a placeholder for a folder, created by a console
			keys = append(keys, k.Name)
		}
		return len(keys) <= maxObjects
	})
	switch {
	case err != nil:
		return err
	case len(keys) == 0:
		return fmt.Errorf("there is no object %s and none below it: %w", l.Ref, ErrNotFound)
	case len(keys) > maxObjects:
		return fmt.Errorf("%w: more than %d objects are below %s: name a folder with fewer", ErrNotFound,
			maxObjects, l.Ref)
	}
	l.Files = make([]File, len(keys))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(statsAtOnce)
	for i, k := range keys {
		at := strings.TrimPrefix(k, prefix)
		if !filepath.IsLocal(at) || path.Clean(at) != at {
			return fmt.Errorf("%w: the key %q is not a valid file name", ErrNotFound, k)
		}
		group.Go(func() (err error) {
			l.Files[i], err = s.stat(ctx, token, bucket, k)
			l.Files[i].Path = at
			return err
		})
	}
	return group.Wait()
}

// Key is an entry of a list: an object, or a folder, whose name ends with a slash.
type Key struct {
	Name, ETag string
	Size       int64
	Modified   time.Time
}

// Keys lists the objects whose names begin with a prefix and follow the key after, in order, and
// calls each until it returns false. With deep, it lists objects in folders below the prefix too;
// otherwise it lists the folders.
func (s *S3) Keys(ctx context.Context, token, bucket, prefix, after string, deep bool, each func(Key) bool) error {
	options := minio.ListObjectsOptions{Prefix: prefix, Recursive: deep, StartAfter: after}
	for o := range s.clientFor(token).Client.ListObjectsIter(ctx, bucket, options) {
		if o.Err != nil {
			return s3Error(o.Err)
		}
		if !each(Key{o.Key, o.ETag, o.Size, o.LastModified}) {
			return nil
		}
	}
	return ctx.Err()
}

// Bucket returns an error unless the bucket exists and this client may read it.
func (s *S3) Bucket(ctx context.Context, token, bucket string) error {
	ok, err := s.clientFor(token).BucketExists(ctx, bucket)
	if err != nil {
		return s3Error(err)
	}
	if !ok {
		return fmt.Errorf("there is no bucket %s: %w", bucket, ErrNotFound)
	}
	return nil
}

// stat returns the metadata of an object. The object's ID is based on its name and ETag, because
// anyone may store any bytes with any stated digest.
func (s *S3) stat(ctx context.Context, token, bucket, key string) (File, error) {
	core := s.clientFor(token)
	info, err := core.StatObject(ctx, bucket, key, minio.StatObjectOptions{Checksum: true})
	if err != nil {
		return File{}, s3Error(err)
	}
	if info.ETag == "" || info.Size < 0 {
		return File{}, fmt.Errorf("S3 does not report the size and ETag of %s", key)
	}
	o := Named(info.Size, "s3://"+core.EndpointURL().Host+"/"+bucket+"/"+key, info.ETag)
	if o.Sum, err = s.sum(ctx, core, bucket, key, info); err != nil {
		return File{}, err
	}
	return File{Object: o, Source: objectSource(bucket, key, info.ETag), ETag: info.ETag,
		Modified: info.LastModified}, nil
}
