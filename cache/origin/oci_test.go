package origin

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// A login in the file applies to all names of its registry.
func TestALoginIsForAllNamesOfItsRegistry(t *testing.T) {
	login := auth.Credential{Username: "u", Password: "p"}
	for _, c := range []struct {
		file, host string
		want       auth.Credential
	}{
		{"ghcr.io", "ghcr.io", login},
		{"ghcr.io", "ghcr.io:443", login},
		{"ghcr.io:443", "ghcr.io", login},
		{"ghcr.io", "ghcr.io:5000", auth.EmptyCredential},
		{"ghcr.io:5000", "ghcr.io", auth.EmptyCredential},
		{"https://index.docker.io/v1/", "registry-1.docker.io", login},
		{"https://index.docker.io/v1/", "index.docker.io", login},
		{"https://index.docker.io/v1/", "docker.io:443", login},
		{"docker.io", "registry-1.docker.io", login},
		{"https://index.docker.io/v1/", "ghcr.io", auth.EmptyCredential},
		{"index.docker.io", "registry-1.docker.io", login},
		{"registry-1.docker.io", "registry-1.docker.io", login},
		{"https://registry-1.docker.io/v2/", "docker.io", login},
		{"registry-1.docker.io", "ghcr.io", auth.EmptyCredential},
	} {
		path := filepath.Join(t.TempDir(), "config.json")
		if err := os.WriteFile(path, fmt.Appendf(nil, `{"auths":{%q:{"auth":"dTpw"}}}`, c.file), 0o600); err != nil {
			t.Fatal(err)
		}
		o := &OCI{Client: http.DefaultClient, AuthFile: path}
		if got, err := o.credential(t.Context(), "", c.host); err != nil || got != c.want {
			t.Errorf("a login for %s at %s: %v, %v", c.file, c.host, got, err)
		}
	}
}
