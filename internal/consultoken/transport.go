// Package consultoken adds to each request to Consul the token that is in its file at that moment.
// Consul's own client reads the file only once. It also treats an empty file as no token and sends
// anonymous requests, which Consul answers as if nothing were registered.
package consultoken

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/hashicorp/consul/api"
)

// ErrEmpty means that the token file is empty, as it is briefly while it is being rewritten.
var ErrEmpty = errors.New("the token file is empty")

// Read reads a token from a file.
func Read(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return "", fmt.Errorf("%w: %s", ErrEmpty, path)
	}
	return token, nil
}

// NewClient returns a Consul client. If the configuration names a token file, the client reads it
// for each request, and a request fails while the file is empty. If the configuration has an HTTP
// client, requests go through it.
func NewClient(c *api.Config) (*api.Client, error) {
	if c.TokenFile == "" {
		return api.NewClient(c)
	}
	conf := *c
	if path, ok := strings.CutPrefix(conf.Address, "unix://"); ok {
		// For a Unix socket, Consul's client would replace the HTTP client by its own.
		conf.Address, conf.Scheme, conf.HttpClient = "localhost", "http", overSocket(path)
	}
	if conf.HttpClient == nil {
		var err error
		if conf.HttpClient, err = api.NewHttpClient(conf.Transport, conf.TLSConfig); err != nil {
			return nil, err
		}
	}
	client := *conf.HttpClient
	client.Transport = transport{client.Transport, conf.TokenFile}
	// With a placeholder token, Consul's client does not read the file itself.
	conf.HttpClient, conf.Token, conf.TokenFile = &client, "of "+c.TokenFile, ""
	return api.NewClient(&conf)
}

// overSocket returns an HTTP client for a Unix socket.
func overSocket(path string) *http.Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial}}
}

type transport struct {
	base http.RoundTripper
	path string
}

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := Read(t.path)
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Header.Set("X-Consul-Token", token)
	return t.base.RoundTrip(r)
}
