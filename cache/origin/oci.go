package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"aliquot.example/internal/blob"
	"aliquot.example/internal/cacheapi"
)

// OCI reads images and artifacts from registries. A ref is oci://<host>/<repository>@<tag or
// digest>. A source is oci://<host>/<repository>/blobs/<digest>, or the same with "manifests".
type OCI struct {
	Client *http.Client
	// AuthFile holds the node's own credentials in the format of Docker's config.json; "" for none.
	AuthFile string
	// Plain are the hosts to access without TLS, in addition to loopback hosts.
	Plain []string

	mu     sync.Mutex
	askers map[string]*auth.Client
}

// maxClients bounds the clients whose registry tokens are cached.
const maxClients = 1000

// Own reports whether a request of this client uses the node's own credentials.
func (c *OCI) Own(_, token string) bool { return token == "" && c.AuthFile != "" }

// Anonymous reports whether a request with this token is sent without credentials.
func (c *OCI) Anonymous(token string) bool {
	return token == Nobody || token == "" && c.AuthFile == ""
}

// clientFor returns the HTTP client for one token. Registry tokens of one client are never used for
// another.
func (c *OCI) clientFor(token string) *auth.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.askers == nil || len(c.askers) >= maxClients {
		c.askers = map[string]*auth.Client{}
	}
	client := c.askers[token]
	if client == nil {
		client = &auth.Client{Client: c.Client, Cache: auth.NewCache()}
		client.Credential = func(ctx context.Context, host string) (auth.Credential, error) {
			return c.credential(ctx, token, host)
		}
		client.SetUserAgent("aliquot-cache")
		c.askers[token] = client
	}
	return client
}

func (c *OCI) credential(ctx context.Context, token, host string) (auth.Credential, error) {
	if c.Anonymous(token) {
		return auth.EmptyCredential, nil
	}
	if user, password, ok := cacheapi.ParseLogin(token); ok {
		return auth.Credential{Username: user, Password: password}, nil
	}
	if token != "" {
		return auth.EmptyCredential, nil // the token is not a registry login
	}
	store, err := credentials.NewFileStore(c.AuthFile)
	if err != nil {
		return auth.EmptyCredential, fmt.Errorf("cannot read oci.auth_file %s", c.AuthFile)
	}
	// The file may list the registry by another of its names.
	name := blob.Registry(host)
	addresses := []string{credentials.ServerAddressFromHostname(host), name, name + ":443"}
	if name == "docker.io" {
		addresses = append(addresses, "https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io",
			"registry.hub.docker.com")
	}
	for _, address := range addresses {
		found, err := store.Get(ctx, address)
		if err != nil || found != auth.EmptyCredential {
			return found, err
		}
	}
	return auth.EmptyCredential, nil
}

// repository splits the name of a ref into registry and repository.
func repository(name string) (registry.Reference, error) {
	host, path, _ := strings.Cut(name, "/")
	r := registry.Reference{Registry: host, Repository: path}
	if r.ValidateRegistry() != nil || r.ValidateRepository() != nil {
		return r, fmt.Errorf("%w: %.200q is not a repository of a registry", ErrNotFound, name)
	}
	return r, nil
}

// scheme returns https, or http for loopback hosts, as Docker does, and for the hosts in Plain.
func (c *OCI) scheme(host string) string {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	if slices.Contains(c.Plain, host) || name == "localhost" || net.ParseIP(name).IsLoopback() {
		return "http"
	}
	return "https"
}

// do sends a request for a manifest or blob; kind is "manifests" or "blobs". The span, if any, is
// an offset and a length.
func (c *OCI) do(ctx context.Context, method string, repo registry.Reference, kind, what, token string, span ...int64) (
	*http.Response, error) {
	at := c.scheme(repo.Registry) + "://" + repo.Host() + "/v2/" + repo.Repository + "/" + kind + "/" + what
	r, err := http.NewRequestWithContext(auth.AppendRepositoryScope(ctx, repo, auth.ActionPull), method, at, nil)
	if err != nil {
		return nil, fmt.Errorf("registry %s: the name cannot be part of a URL", repo.Registry)
	}
	r.Header.Set("Accept-Encoding", "identity")
	if len(span) == 2 {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", span[0], span[0]+span[1]-1))
	}
	if kind == "manifests" {
		r.Header["Accept"] = manifestTypes
	}
	res, err := c.clientFor(token).Do(r)
	if err != nil {
		return nil, registryError(repo.Registry, err)
	}
	return res, nil
}

// registryError classifies the error of a request or of its sign-in.
func registryError(host string, err error) error {
	var answer *errcode.ErrorResponse
	if errors.Is(err, auth.ErrBasicCredentialNotFound) {
		return fmt.Errorf("registry %s: %w", host, ErrDenied)
	}
	if !errors.As(err, &answer) {
		return unwrapped(err)
	}
	switch answer.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("registry %s: %w", host, ErrDenied)
	case http.StatusTooManyRequests:
		return &Later{defaultWait, "registry " + host + " answers 429"}
	}
	return fmt.Errorf("registry %s answers %d", host, answer.StatusCode)
}

// Open reads a range of a blob or manifest.
func (c *OCI) Open(ctx context.Context, source, token string, o blob.Object, offset,
	length int64) (io.ReadCloser, error) {
	name, kind, what, err := splitSource(source)
	if err != nil {
		return nil, err
	}
	repo, err := repository(name)
	if err != nil {
		return nil, err
	}
	res, err := c.do(ctx, http.MethodGet, repo, kind, what, token, offset, length)
	if err != nil {
		return nil, err
	}
	body, err := part(res, o, offset, length)
	if err != nil {
		res.Body.Close()
		return nil, err
	}
	return body, nil
}

func ociSource(name, kind, what string) string { return "oci://" + name + "/" + kind + "/" + what }

func splitSource(source string) (name, kind, what string, err error) {
	words := strings.Split(strings.TrimPrefix(source, "oci://"), "/")
	if n := len(words); n >= 4 && (words[n-2] == "blobs" || words[n-2] == "manifests") && isDigest(words[n-1]) {
		return strings.Join(words[:n-2], "/"), words[n-2], words[n-1], nil
	}
	return "", "", "", fmt.Errorf("source %.200q: want oci://<host>/<repository>/blobs/<digest>", source)
}

// isDigest reports whether a text is a SHA-256 digest, which the cache can verify.
func isDigest(text string) bool {
	d := digest.Digest(text)
	return d.Validate() == nil && d.Algorithm() == digest.SHA256
}

// IsDigest reports whether a revision is a digest, which names one manifest that never changes.
func IsDigest(revision string) bool { return isDigest(revision) }

// tags matches tags as defined by the OCI distribution specification.
var tags = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)

// IsTag reports whether a revision can be a tag.
func IsTag(revision string) bool { return tags.MatchString(revision) }

// ociObject returns the object of a blob or manifest. Its ID includes the repository, because a
// registry grants access by repository, and anyone who may push to a repository chooses the digests
// in its manifests. So what one repository's readers fetched is not readable through another.
func ociObject(name, sum string, size int64) blob.Object {
	o := Named(size, "oci://"+name, sum)
	o.Sum = blob.Sum{Algorithm: "sha256", Digest: strings.TrimPrefix(sum, "sha256:")}.String()
	return o
}
