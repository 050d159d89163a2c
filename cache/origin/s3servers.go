package origin

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"

	"aliquot.example/internal/blob"
)

// S3Servers are servers that speak S3. Each bucket belongs to one of them.
type S3Servers struct {
	byBucket map[string]*S3
	others   *S3 // for all other buckets; nil for none
}

// Add adds a server for the given buckets, or, without any, for all buckets that no other server
// has.
func (s *S3Servers) Add(server *S3, buckets []string) {
	if len(buckets) == 0 {
		s.others = server
	}
	for _, b := range buckets {
		if s.byBucket == nil {
			s.byBucket = map[string]*S3{}
		}
		s.byBucket[b] = server
	}
}

// Server returns the server of a bucket. The name may also be that of an object in the bucket.
func (s *S3Servers) Server(name string) (*S3, error) {
	bucket, _, _ := strings.Cut(name, "/")
	if server := s.byBucket[bucket]; server != nil {
		return server, nil
	}
	if s.others != nil {
		return s.others, nil
	}
	return nil, fmt.Errorf("no s3 block of the cache's configuration serves bucket %.100q: %w", bucket, ErrNotFound)
}

// Own reports whether a request of this client for an object uses the node's own credentials, so
// that the configuration decides who may read.
func (s *S3Servers) Own(name, token string) bool {
	server, err := s.Server(name)
	return err == nil && server.Own(token)
}

// List lists the object with a name or, if there is none, the objects in that folder.
func (s *S3Servers) List(ctx context.Context, ref blob.Ref, token string) (*Listing, error) {
	server, err := s.Server(ref.Name)
	if err != nil {
		return nil, err
	}
	return server.List(ctx, ref, token)
}

// Open reads a range of an object, in the version that was listed.
func (s *S3Servers) Open(ctx context.Context, source, token string, o blob.Object, offset,
	length int64) (io.ReadCloser, error) {
	u, err := url.Parse(source)
	if err != nil {
		return nil, fmt.Errorf("source %.200q: want s3://<bucket>/<key>?etag=<etag>", source)
	}
	server, err := s.Server(u.Host)
	if err != nil {
		return nil, err
	}
	return server.Open(ctx, source, token, o, offset, length)
}
