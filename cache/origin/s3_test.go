package origin

import (
	"net/http"
	"testing"

	"aliquot.example/internal/cacheapi"
)

// Keys belong to one server, however its URL is written, and to no other.
func TestKeysAreForTheServerTheyName(t *testing.T) {
	for _, c := range []struct {
		server, named string
		want          bool
	}{
		{"https://minio.example:9000", "https://minio.example:9000", true},
		{"https://minio.example:9000", "https://minio.example:9001", false},
		{"https://minio.example", "https://MinIO.example:443/", true},
		{"https://minio.example:443", "https://minio.example", true},
		{"https://minio.example", "https://other.example", false},
		{"https://minio.example", "minio.example", false},
		{"https://minio.example", "", false},
		{"https://s3.eu-west-1.amazonaws.com", "", true},
		{"https://s3.eu-west-1.amazonaws.com", "https://s3.amazonaws.com", true},
		{"https://s3.eu-west-1.amazonaws.com", "https://minio.example", false},
		{"https://s3.dualstack.us-west-2.amazonaws.com", "", true},
		{"https://s3.cn-north-1.amazonaws.com.cn", "", true},
		{"https://s3.cn-north-1.amazonaws.com.cn", "https://s3.amazonaws.com", false},
		// a user's own server on an Amazon machine
		{"http://ec2-192-0-2-1.compute-1.amazonaws.com", "", false},
	} {
		s, err := NewS3(S3Options{Endpoint: c.server, Region: "us-east-1", Anonymous: true, Client: http.DefaultClient, Key: "s3"})
		if err != nil {
			t.Fatal(err)
		}
		token := cacheapi.S3Keys{Endpoint: c.named, ID: "id", Secret: "secret"}.Token()
		if got, used := s.For(token), s.clientFor(token) != s.anonymous; got != c.want || used != c.want {
			t.Errorf("keys for %q at %q: %v, and used: %v", c.named, c.server, got, used)
		}
	}
}
